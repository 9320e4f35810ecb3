"""Data under a URL."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from medcap_core.data import remote
from medcap_core.data.remote import fetch_data
from medcap_core.data.sources import load_data
from medcap_core.errors import DataFault
from medcap_core.runtime.storage import Storage


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """An image folder with 2 training images, 2 of validation and 3 test images; 10 files in all."""
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "cache"))
    made = Storage(f"memory://{uuid.uuid4().hex}/x rays")
    for split, count in {"train": 2, "validation": 2, "test": 3}.items():
        rows = ["file_name,text"]
        for index in range(count):
            Image.new("L", (8, 8), 9 * index).save(tmp_path / "image.png")
            made.put(tmp_path / "image.png", f"{split}/{index}.png")
            rows.append(f"{index}.png,image {index} of {split}")
        made.write(f"{split}/metadata.csv", "\n".join(rows).encode())
    yield made
    remote._fetched.clear()


def forget() -> None:
    """As in a new process."""
    remote._fetched.clear()


def test_a_folder_is_read_as_on_disk(place: Storage) -> None:
    data = load_data(place.url)
    assert (data.name, data.kind) == (place.url, "image folder with metadata files")
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 2, "validation": 2, "test": 3}
    assert data.splits["test"][2].caption == "image 2 of test"


def test_files_are_fetched_once_and_again_where_they_changed(place: Storage) -> None:
    steps: list[tuple[str, int, int]] = []
    fetch_data("phantoms", lambda *step: steps.append(step))
    fetch_data(place.url, lambda *step: steps.append(step))
    assert steps == [("fetching images and tables", done, 10) for done in range(11)]
    forget()
    steps.clear()
    folder = fetch_data(place.url, lambda *step: steps.append(step))
    assert not steps
    (folder / "train" / "1.png").unlink()
    place.write("test/metadata.csv", b"file_name,text\n0.png,new\n")
    place.remove("test/2.png")
    forget()
    fetch_data(place.url, lambda *step: steps.append(step))
    assert steps[-1] == ("fetching images and tables", 2, 2)
    assert {path.name for path in (folder / "test").iterdir()} == {"0.png", "1.png", "metadata.csv"}
    assert (folder / "train" / "1.png").is_file()


def test_a_table_is_fetched_with_its_folder(place: Storage, tmp_path: Path) -> None:
    place.write("captions.csv", b"image,caption\ntrain/0.png,a\ntrain/1.png,b\n")
    place.write("scans.tar", b"")
    table = fetch_data(f"{place.url}/captions.csv")
    assert table.name == "captions.csv"
    assert (table.parent / "train" / "0.png").is_file()
    shutil.rmtree(tmp_path / "cache")
    alone = fetch_data(f"{place.url}/scans.tar")
    assert [path.name for path in alone.parent.iterdir()] == ["scans.tar"]


def test_an_interrupted_copy_goes_on(place: Storage) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        fetch_data(place.url, interrupt)
    steps: list[tuple[str, int, int]] = []
    fetch_data(place.url, lambda *step: steps.append(step))
    assert steps[-1] == ("fetching images and tables", 6, 6)


def test_a_url_without_files_is_a_fault(place: Storage) -> None:
    with pytest.raises(DataFault, match=r"^memory://nowhere: no files lie there; give the URL"):
        load_data("memory://nowhere")
