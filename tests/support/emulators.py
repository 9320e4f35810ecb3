"""Stand-ins for Google Cloud Storage and Azure, which keep their files while they are down."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.real_runs import wait_until
from tests.support.s3_server import LOOPBACK, S3Server, serving_s3

CLIENTS = {"gs": "gcsfs", "az": "adlfs"}
_COMMANDS = {
    "gs": "gcp-storage-emulator start -q --host {host} --port {port}",
    "az": "azurite-blob --blobHost {host} --blobPort {port} --silent --skipApiVersionCheck --disableTelemetry",
}
_ENVIRONMENTS = {
    "gs": {"STORAGE_EMULATOR_HOST": "http://{host}:{port}"},
    "az": {  # the account and key of Azurite's manual
        "AZURE_STORAGE_CONNECTION_STRING": "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey="
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
        "BlobEndpoint=http://{host}:{port}/devstoreaccount1;"
    },
}


class Emulator:
    """A server process on loopback, with its files in `folder`; `environment` leads clients to it."""

    def __init__(self, scheme: str, folder: Path) -> None:
        with socket.create_server((LOOPBACK, 0)) as free:
            self._address = free.getsockname()
        place = dict(zip(("host", "port"), self._address, strict=True))
        self._folder, self._command = folder, _COMMANDS[scheme].format(**place).split()
        self.environment = {name: value.format(**place) for name, value in _ENVIRONMENTS[scheme].items()}
        if shutil.which(self._command[0]) is None:
            pytest.skip(f"no {self._command[0]} here")

    def start(self) -> None:
        environment = os.environ | {"STORAGE_BASE": str(self._folder)}  # gcp-storage-emulator's folder
        with (self._folder / "log.txt").open("a") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, env=environment, stdout=log, stderr=log)
        wait_until(self._answers, "the emulator answers")

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(self._address):
            return True
        return False

    def stop(self) -> None:
        self._process.terminate()  # no more than that: Azurite writes its list of files at the end
        self._process.wait()


@contextmanager
def serving(scheme: str, bucket: str, folder: Path) -> Iterator[S3Server | Emulator]:
    """Serve one bucket of a scheme, which this process's clients find too; skips without its client or emulator."""
    if scheme == "s3":
        with serving_s3(bucket) as s3:
            yield s3
        return
    import fsspec

    pytest.importorskip(CLIENTS[scheme])
    server = Emulator(scheme, folder)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        client = fsspec.get_filesystem_class(scheme)
        client.clear_instance_cache()
        try:
            client().mkdir(bucket)
            yield server
        finally:
            server.stop()
            client.clear_instance_cache()
