"""An S3-compatible server in this process, on loopback or a network of tests."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
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

    def stop(self) -> None:
        self._server.stop()
        assert self._server._server is not None
        self._server._server.server_close()

    def start(self) -> None:
        self._server = ThreadedMotoServer(self.host, self.port, verbose=False)
        self._server.start()


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
