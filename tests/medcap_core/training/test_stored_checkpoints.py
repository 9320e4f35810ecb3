"""A trial's checkpoints under a URL, on nodes with disks of their own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medcap_core.runtime.storage import Storage
from medcap_core.training import stored_checkpoints
from medcap_core.training.stored_checkpoints import StoredCheckpoints, free_node

Node = Callable[[str], StoredCheckpoints]


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return Storage(f"file://{tmp_path}/bucket/run")


@pytest.fixture
def on_node(run: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """The trial's folder on a node, by the node's name."""

    def build(name: str) -> StoredCheckpoints:
        monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / name))
        return StoredCheckpoints(run.url, "trial_0003")

    return build


def write_epoch(stored: StoredCheckpoints, epochs: str, *, is_best: bool = True, num_bytes: int = 3) -> None:
    """Write the files of a trial after epochs such as "abc", a letter each."""
    files = {"last/checkpoint.safetensors": epochs * num_bytes, "history.json": json.dumps([*epochs])}
    files |= {"best/weights.safetensors": epochs} if is_best else {}
    for name, text in files.items():
        path = stored.checkpoints / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(".new").write_text(text)
        path.with_name(".new").replace(path)


def read_local(stored: StoredCheckpoints) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in stored.checkpoints.rglob("*.safetensors")}


def test_a_trial_goes_on_elsewhere_from_its_last_epoch(run: Storage, on_node: Node) -> None:
    first = on_node("first")
    first.fetch()
    assert not first.checkpoints.exists()
    reported: list[list[str]] = []
    write_epoch(first, "a")
    (first.folder / "log.txt").write_text("one\n")
    (first.checkpoints / "epochs").mkdir()
    (first.checkpoints / "epochs" / "epoch_0001.safetensors").write_text("a")  # kept, but nothing goes on from it
    first.after_epoch(lambda: reported.append([*run.list_files()]), beside=True)
    write_epoch(first, "ab", is_best=False)
    first.after_epoch(lambda: None, beside=True)
    assert [len(files) for files in reported] == [5]  # all were there before the report
    second = on_node("second")
    second.fetch()
    assert read_local(second) == {"last": "ababab", "best": "a"}
    assert (second.folder / "log.txt").read_text() == "one\n"
    write_epoch(second, "abc")
    second.after_epoch(lambda: None, beside=True)
    second.close()
    assert not second.checkpoints.exists()
    again = on_node("first")  # whose disk has two epochs
    again.fetch()
    assert read_local(again) == {"last": "abcabcabc", "best": "abc"}


def test_a_node_keeps_what_it_has_of_the_same_epochs(run: Storage, on_node: Node) -> None:
    node = on_node("node")
    write_epoch(node, "a")
    node.push()
    write_epoch(node, "ab")  # and was killed before the upload
    node = on_node("node")
    node.fetch()
    assert read_local(node) == {"last": "ababab", "best": "ab"}
    node.after_epoch(lambda: None, beside=True)
    assert run.read("trials/trial_0003/checkpoints/history.json") == b'["a", "b"]'


@pytest.mark.parametrize("stored", ["xy", None])
def test_what_another_run_left_on_a_node_goes(run: Storage, on_node: Node, stored: str | None) -> None:
    if stored is not None:
        other = on_node("other")
        write_epoch(other, stored)
        other.push()
    node = on_node("node")
    write_epoch(node, "abc")
    node.fetch()
    assert read_local(node) == ({} if stored is None else {"last": "xyxyxy", "best": "xy"})


def test_weights_that_were_freed_meanwhile_are_not_missed(run: Storage, on_node: Node) -> None:
    node = on_node("node")
    write_epoch(node, "a")
    node.push()
    node.close()
    run.remove("trials/trial_0003/checkpoints/last")
    node = on_node("driver")
    node.fetch()
    assert read_local(node) == {"best": "a"}
    assert node.best_weights.read_text() == "a"


def test_large_checkpoints_are_uploaded_after_the_report_as_they_were(
    run: Storage, on_node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_checkpoints, "LARGE_BYTES", 100)
    node = on_node("node")
    reported: list[list[str]] = []
    write_epoch(node, "a", num_bytes=1000)
    node.after_epoch(lambda: reported.append([*run.list_files()]), beside=True)
    write_epoch(node, "ab", num_bytes=1000)  # meanwhile
    assert node._upload is not None
    node._upload.result()
    assert reported == [[]]
    assert run.read("trials/trial_0003/checkpoints/last/checkpoint.safetensors") == b"a" * 1000
    assert run.read("trials/trial_0003/checkpoints/history.json") == b'["a"]'
    node.close()  # as of a trial that was stopped
    assert run.read("trials/trial_0003/checkpoints/last/checkpoint.safetensors") == b"ab" * 1000
    several = on_node("several")
    several.fetch()
    write_epoch(several, "abc", num_bytes=1000)
    several.after_epoch(lambda: reported.append([*run.list_files()]), beside=False)
    assert len(reported[1]) == 3
    assert run.read("trials/trial_0003/checkpoints/history.json") == b'["a", "b", "c"]'


def test_a_node_gives_up_the_weights_it_got_and_nothing_else(run: Storage, on_node: Node) -> None:
    first = on_node("first")
    write_epoch(first, "a")
    first.close()
    second = on_node("second")
    assert second.fetch_best_weights().read_text() == "a"
    (second.folder / "log.txt").write_text("one\n")
    free_node(run.url)
    assert [path.name for path in second.folder.iterdir() if path.name != ".fetch.lock"] == ["log.txt"]
    assert "trials/trial_0003/checkpoints/best/weights.safetensors" in run.list_files()
