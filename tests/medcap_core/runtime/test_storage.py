"""Files under a URL: in memory, on disk, and on file systems that fail for a while or refuse."""

import errno
import importlib.util
import logging
import os
import pickle
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from medcap_core.errors import ConfigFault
from medcap_core.runtime import outage as outage_module
from medcap_core.runtime import storage as storage_module
from medcap_core.runtime.storage import Storage, StorageFault, data_directory, is_url, working_directory
from tests.support.unreliable_storage import UnreliableFileSystem as Unreliable


@pytest.fixture(params=["memory", "file", "local"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(f"{request.param}://{uuid.uuid4().hex if request.param == 'memory' else tmp_path}/a b")


@pytest.fixture
def unreliable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setattr(storage_module, "FIRST_PAUSE_SECONDS", 0.001)
    place = Storage(f"unreliable://{uuid.uuid4().hex}")
    place.outage.patience_seconds = 0.05
    place.write("x", b"1")
    yield place
    Unreliable.faults.clear()


def test_names_are_told_from_urls() -> None:
    assert all(map(is_url, ("s3://bucket/run", "gs://b", "hdfs://host:8020/run", "file:///tmp/x", "memory://x")))
    assert not any(map(is_url, ("phantoms", "owner/name", "/tmp/s3:/x", "runs/lora-001", "C:\\runs", "s3:/b")))


def test_each_url_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path))
    folders = {working_directory(f"s3://{name}/lora") for name in ("a", "b")} | {data_directory("s3://a/lora")}
    assert len(folders) == 3
    assert all(folder.is_relative_to(tmp_path) and folder.name.startswith("lora-") for folder in folders)
    assert working_directory("s3://a/lora/") in folders


def test_files_are_written_listed_read_and_removed(place: Storage, tmp_path: Path) -> None:
    assert place.list_files() == {}
    assert place.read("x.json") is None
    place.remove("x.json")
    local = tmp_path / "local" / "ü.bin"
    local.parent.mkdir()
    local.write_bytes(b"four")
    place.write("x.json", b"{}")
    place.put_all([(local, "deep/er/y"), (tmp_path / "gone", "z")])
    assert {name: file.num_bytes for name, file in place.list_files().items()} == {"x.json": 2, "deep/er/y": 4}
    assert {*(place / "deep").list_files()} == {"er/y"}
    assert pickle.loads(pickle.dumps(place)).read("deep/er/y") == b"four"
    place.get("deep/er/y", tmp_path / "new" / "y")
    assert (tmp_path / "new" / "y").read_bytes() == b"four"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"y"}
    before = place.list_files()["x.json"]
    place.write("x.json", b"[]")
    assert place.list_files()["x.json"] != before
    place.remove("deep")
    assert [*place.list_files()] == ["x.json"]
    with pytest.raises(FileNotFoundError):
        place.get("deep/er/y", tmp_path / "z")


def test_what_a_client_logs_of_failures_stays_off_the_terminal(caplog: pytest.LogCaptureFixture) -> None:
    Storage(f"memory://{uuid.uuid4().hex}").list_files()
    logging.getLogger("fsspec").error("it failed")
    assert not caplog.records


def test_names_that_would_lie_elsewhere_on_a_disk_are_left_out() -> None:
    place = Storage(f"memory://{uuid.uuid4().hex}")
    for name in ("a/../../x", "./y", "good/z"):
        place.write(name, b"1")
    assert [*place.list_files()] == ["good/z"]


def test_what_fails_for_a_while_is_tried_again(unreliable: Storage) -> None:
    unreliable.outage.patience_seconds = 60.0
    Unreliable.faults[:] = [ConnectionError("reset"), TimeoutError(), OSError("503 slow down")]
    assert unreliable.read("x") == b"1"


def test_what_fails_for_long_is_one_sentence(unreliable: Storage) -> None:
    Unreliable.faults[:] = [ConnectionError("reset.")] * 1000
    with pytest.raises(StorageFault, match=rf"^{unreliable.url} did not answer for 0 s \(reset\); go on by --resume "):
        unreliable.read("x")


def test_the_time_that_is_waited_is_that_of_the_whole_silence_and_the_users_to_set(
    unreliable: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    Unreliable.faults[:] = [ConnectionError("reset")] * 1000
    with pytest.raises(StorageFault):
        unreliable.read("x")
    left, unreliable.outage.patience_seconds = len(Unreliable.faults), 0.02  # less than the silence so far
    with pytest.raises(StorageFault):
        unreliable.read("x")
    assert len(Unreliable.faults) == left - 1
    monkeypatch.setenv("MEDCAP_STORAGE_TIMEOUT", "0.01")
    with pytest.raises(StorageFault):
        Storage(unreliable.url).read("x")
    for given in ("5 min", "0", "inf"):
        monkeypatch.setenv("MEDCAP_STORAGE_TIMEOUT", given)
        with pytest.raises(ConfigFault, match=f"^MEDCAP_STORAGE_TIMEOUT must be a number of seconds .+ '{given}'.$"):
            Storage(unreliable.url).read("x")


def test_a_silence_is_told_of_at_lengthening_times_and_its_end_once(
    unreliable: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage_module, "FIRST_NOTE_SECONDS", 0.002)
    unreliable.outage.patience_seconds, told = 60.0, list[str]()
    unreliable.outage.tell, unreliable.outage._next_note = told.append, 0.002
    Unreliable.faults[:] = [ConnectionError("reset")] * 7
    assert (unreliable.read("x"), unreliable.read("x")) == (b"1", b"1")
    *silences, end = told
    assert 2 <= len(silences) <= 6
    assert all(line.startswith(f"{unreliable.url} has not answered for 0 s (reset); all is kept") for line in silences)
    assert end == f"{unreliable.url} answers again, after 0 s"
    Unreliable.faults[:] = [ConnectionError("reset")]
    assert unreliable.read("x") == b"1"
    assert told[-1] == end  # what passes at once is no matter


def test_who_waits_gives_up_soon_once_the_user_has_ended_the_run(
    unreliable: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage_module, "SHORT_PATIENCE_SECONDS", 0.01)
    unreliable.outage.patience_seconds = 300.0
    Unreliable.faults[:] = [ConnectionError("reset")] * 1000
    unreliable.outage.shorten()
    with pytest.raises(StorageFault, match="did not answer for 0 s"):
        unreliable.read("x")


def test_what_no_patience_mends_is_told_at_once(unreliable: Storage) -> None:
    Unreliable.faults[:] = [OSError(errno.EINVAL, "The specified bucket is not valid")] * 2
    with pytest.raises(StorageFault, match=r"cannot be used \(.+The specified bucket is not valid\); give another URL"):
        unreliable.read("x")
    Unreliable.faults[:] = [OSError(errno.ENOSPC, "No space left on device")] * 2
    with pytest.raises(OSError, match="No space left"):
        unreliable.read("x")


class NoCredentialsError(Exception):
    """As clients name it."""


class HttpResponseError(Exception):
    """As that of Azure."""

    status_code = 403


@pytest.mark.parametrize(
    "fault",
    [
        PermissionError("Forbidden"),
        NoCredentialsError("Unable to locate credentials"),
        OSError(errno.EINVAL, "The provided token is malformed"),
        OSError("Forbidden: https://storage.googleapis.com/b/o"),
        HttpResponseError("Server failed to authenticate the request"),
    ],
)
def test_a_refusal_is_one_sentence_at_once(unreliable: Storage, fault: Exception) -> None:
    Unreliable.faults[:] = [fault, fault]
    refused = rf"^{unreliable.url}: access is refused \({re.escape(str(fault))}\); check the credentials"
    with pytest.raises(StorageFault, match=refused):
        unreliable.read("x")
    assert len(Unreliable.faults) == 1


class ResourceNotFoundError(Exception):
    """As that of Azure."""

    status_code = 404


def test_a_container_that_is_not_there_is_named_at_once(unreliable: Storage, tmp_path: Path) -> None:
    (tmp_path / "y").touch()
    Unreliable.faults[:] = [ResourceNotFoundError("No such container.")] * 2
    with pytest.raises(StorageFault, match=r"cannot be written: there is no .+ \(No such container\); make"):
        unreliable.put(tmp_path / "y", "y")
    assert unreliable.read("x") is None


def test_a_client_that_is_not_installed_is_named_with_its_extra() -> None:
    if importlib.util.find_spec("gcsfs") is not None:
        pytest.skip("gcsfs is installed here")
    with pytest.raises(ConfigFault, match=r"^gs://b/run: the client of gs:// is not installed .+'\.\[gcs\]'\.$"):
        Storage("gs://b/run").read("x")
    with pytest.raises(ConfigFault, match=r"^az://b/run: the client of az:// is not installed .+'\.\[azure\]'\.$"):
        Storage("az://b/run").read("x")


def test_urls_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ConfigFault, match=r"^strange://b: Protocol not known: strange; use a path, or a URL"):
        Storage("strange://b").read("x")
    with pytest.raises(ConfigFault, match=r"^file://runs/x: names another folder in each .+ as file:///home/me/run\.$"):
        Storage("file://runs/x").read("x")


def test_a_client_that_lacks_its_libraries_is_told_what_to_install() -> None:
    if "HADOOP_HOME" in os.environ:
        pytest.skip("Hadoop is installed here")
    with pytest.raises(ConfigFault, match=r"^hdfs://host/run: the client of hdfs:// .+ install Java and Hadoop's"):
        Storage("hdfs://host/run").read("x")
