"""A look-alike of the Hugging Face Hub on loopback: repositories of models and data sets from folders."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "1" * 40

Repositories = dict[str, Path]
"""`models/owner/name` or `datasets/owner/name` -> the folder with its files."""


@contextmanager
def serving_hub(repositories: Repositories) -> Iterator[str]:
    """Serve the repositories, and yield the address for HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, repositories))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers what `huggingface_hub` asks in order to list and to download a repository."""

    protocol_version = "HTTP/1.1"

    def __init__(self, repositories: Repositories, *arguments: Any) -> None:
        self.repositories = repositories
        super().__init__(*arguments)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - as the base names it
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer_get()

    def do_GET(self) -> None:
        self._answer_get()

    def do_POST(self) -> None:
        """Describe some paths of a repository: `/api/datasets/owner/name/paths-info/REVISION`."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(content)["paths"] if is_json else parse_qs(content.decode())["paths"]
        found = self._find(unquote(urlsplit(self.path).path).removeprefix("/api/"))
        if found is None:
            self._refuse("RepoNotFound")
            return
        folder, _ = found
        paths = [folder / name for name in ([asked] if isinstance(asked, str) else asked)]
        self._send_json([_describe(folder, path) for path in paths if path.exists()])

    def _answer_get(self) -> None:
        path = unquote(urlsplit(self.path).path)
        is_api = path.startswith("/api/")
        found = self._find(path.removeprefix("/api").lstrip("/"))
        if found is None:
            self._refuse("RepoNotFound")
            return
        folder, (action, *rest) = found
        target = folder.joinpath(*rest[1:])  # the first is the revision
        if is_api and action in ("", "revision"):
            files = [{"rfilename": str(item.relative_to(folder))} for item in _list_files(folder)]
            self._send_json({"id": folder.name, "sha": COMMIT, "private": False, "siblings": files, "tags": []})
        elif is_api and action == "tree" and target.is_dir():
            is_deep = "true" in parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower()
            self._send_json([_describe(folder, item) for item in (target.rglob("*") if is_deep else target.iterdir())])
        elif action == "resolve" and target.is_file():
            content = target.read_bytes()
            headers = {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            self._send(content, "application/octet-stream", headers)
        else:
            self._refuse("EntryNotFound")

    def _find(self, path: str) -> tuple[Path, list[str]] | None:
        """Find the folder of a repository and the rest of the path: the action, the revision, the file."""
        kind, _, rest = path.partition("/") if path.startswith(("models/", "datasets/")) else ("models", "", path)
        parts = rest.split("/")
        folder = self.repositories.get("/".join([kind, *parts[:2]]))
        return None if folder is None else (folder, parts[2:] or [""])

    def _send_json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), "application/json", {"X-Repo-Commit": COMMIT})

    def _send(self, content: bytes, kind: str, headers: dict[str, str]) -> None:
        start, end, status = 0, len(content), 200
        wanted = self.headers.get("Range")
        if wanted and self.command == "GET":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end, status = int(first), min(end, int(last or end) + 1), 206
            headers |= {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
        self.send_response(status)
        for name, value in (headers | {"Content-Type": kind, "Content-Length": str(end - start)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[start:end])

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        for name, value in {"X-Error-Code": code, "X-Repo-Commit": COMMIT, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()


def _list_files(folder: Path) -> list[Path]:
    return sorted(item for item in folder.rglob("*") if item.is_file())


def _describe(folder: Path, path: Path) -> dict[str, Any]:
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "oid": COMMIT, "size": 0, "path": name}
    content = path.read_bytes()
    return {"type": "file", "oid": _hash(content), "size": len(content), "path": name}


def _hash(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
