"""An S3-compatible server in this process, on loopback or a network of tests."""

import logging
import socket
import socketserver
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from medcap_core.runtime.storage import Storage

LOOPBACK = "127.0.0.1"


class S3Server:
    """A server that keeps its files while it is down; `environment` leads clients to it."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._server = ThreadedMotoServer(host, 0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://{self.host}:{self.port}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def refuse(self, *, all_keys: bool) -> None:
        """Refuse every key from now on, or none."""
        body = b"0" if all_keys else b"inf"
        url, kind = f"http://{self.host}:{self.port}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        request = urllib.request.Request(url, body, kind, method="POST")
        urllib.request.urlopen(request).close()

    def stop(self) -> None:
        self._server.stop()
        assert self._server._server is not None
        self._server._server.server_close()

    def start(self) -> None:
        self._server = ThreadedMotoServer(self.host, self.port, verbose=False)
        self._server.start()


class SlowLink(socketserver.ThreadingTCPServer):
    """Passes on what comes for a server, each piece after `delay_seconds`; while `silent` is set nothing passes."""

    daemon_threads = True

    def __init__(self, port: int, delay_seconds: float) -> None:
        super().__init__((LOOPBACK, 0), _Connection)
        self.target, self.delay_seconds = (LOOPBACK, port), delay_seconds
        self.silent = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{self.server_address[1]}"}


class _Connection(socketserver.BaseRequestHandler):
    server: SlowLink

    def handle(self) -> None:
        with suppress(OSError), socket.create_connection(self.server.target) as upstream:
            threading.Thread(target=self._pass_on, args=(upstream, self.request), daemon=True).start()
            self._pass_on(self.request, upstream)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                time.sleep(self.server.delay_seconds)
                while self.server.silent.is_set():
                    time.sleep(0.1)
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def serving_s3(bucket: str, host: str = LOOPBACK) -> Iterator[S3Server]:
    """Serve one bucket, which this process's clients find too."""
    import s3fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it names each request
    with pytest.MonkeyPatch.context() as patch:
        server = S3Server(host)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        files = s3fs.S3FileSystem()
        if files.exists(bucket):  # of an earlier server of this process
            files.rm(bucket, recursive=True)
        files.mkdir(bucket)
        try:
            yield server
        finally:
            server.stop()
            s3fs.S3FileSystem.clear_instance_cache()


def upload_folder(folder: Path, place: Storage) -> None:
    files = (path for path in folder.rglob("*") if path.is_file())
    place.put_all((path, path.relative_to(folder).as_posix()) for path in files)
