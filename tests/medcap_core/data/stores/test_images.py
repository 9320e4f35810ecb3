"""Images are decoded once, survive kills, and are shared by processes."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
import pytest
from PIL import Image

from medcap_core.data.images import ImageGeometry
from medcap_core.data.records import ImageFile, Record
from medcap_core.data.stores import rows as row_store
from medcap_core.data.stores.images import ImageStore, compute_store_key
from medcap_core.data.stores.rows import RowStore
from medcap_core.errors import DataFault
from tests.medcap_core.data.conftest import DrawImage
from tests.support import REPOSITORY

GEOMETRY = ImageGeometry(size=5)
ROOT = REPOSITORY


def rows(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(numbers, np.int64)


def build_records(folder: Path, draw_image: DrawImage, count: int) -> list[Record]:
    paths = [draw_image(folder / f"{number}.png", 3 * number) for number in range(count)]
    return [Record(f"r{number}", ImageFile(path), "text") for number, path in enumerate(paths)]


def test_only_the_asked_rows_are_decoded_and_later_ones_added(tmp_path: Path, draw_image: DrawImage) -> None:
    store = ImageStore(build_records(tmp_path, draw_image, 11), GEOMETRY)
    assert not store.folder.exists()
    calls: list[tuple[str, int, int]] = []
    store.ensure(rows(9, 2, 4), lambda *call: calls.append(call), "decoding")
    assert calls == [("decoding", 3, 3)]
    assert store.readable(np.arange(11)).nonzero()[0].tolist() == [2, 4, 9]
    store.ensure(np.arange(7), lambda *call: calls.append(call), "decoding")
    assert calls[1:] == [("decoding", 5, 5)]
    batch = store.pixels(rows(9, 0, 4, 9))
    assert batch.shape == (4, 3, 5, 5)
    assert batch.dtype == np.uint8
    assert type(batch) is np.ndarray
    assert batch[:, 2, 4, 1].tolist() == [27, 0, 12, 27]
    with pytest.raises(ValueError, match=r"rows \[8\] are not in "):
        store.pixels(rows(2, 8))


def test_a_store_cut_short_while_it_is_read_kills_nobody(tmp_path: Path, draw_image: DrawImage) -> None:
    store = ImageStore(build_records(tmp_path, draw_image, 300), GEOMETRY)  # some pages of memory
    store.ensure(np.arange(300))
    before = store.pixels(np.arange(300))
    os.truncate(store.folder / "pixels.u8", 10)
    with pytest.raises(DataFault, match=r"pixels\.u8 was cut short while it was in use; go on by --resume"):
        store.pixels(rows(299))
    store.ensure(np.arange(300))
    assert np.array_equal(store.pixels(np.arange(300)), before)
    os.truncate(store.folder / "pixels.u8", 10)
    pickle.loads(pickle.dumps(store)).ensure(np.arange(300))  # as another process would
    assert np.array_equal(store.pixels(np.arange(300)), before)


def test_a_store_made_anew_leaves_a_reader_its_pixels(tmp_path: Path, draw_image: DrawImage) -> None:
    records = build_records(tmp_path, draw_image, 3)
    reader = ImageStore(records, GEOMETRY)
    reader.ensure(np.arange(3))
    before = reader.pixels(np.arange(3)).tolist()
    (reader.folder / "status.u8").unlink()
    ImageStore(records, GEOMETRY).ensure(rows(0))
    assert reader.pixels(np.arange(3)).tolist() == before


def test_another_store_object_reads_what_is_there(tmp_path: Path, draw_image: DrawImage) -> None:
    records = build_records(tmp_path, draw_image, 4)
    ImageStore(records, GEOMETRY).ensure(np.arange(4))
    calls: list[tuple[str, int, int]] = []
    again = ImageStore(records, GEOMETRY)
    again.ensure(np.arange(4), lambda *call: calls.append(call))
    assert calls == []
    for store in (again, pickle.loads(pickle.dumps(again))):
        assert store.pixels(np.arange(4))[:, 0, 0, 0].tolist() == [0, 3, 6, 9]
    assert len(pickle.dumps(again)) < 5000


def test_the_key_follows_ids_content_and_geometry(tmp_path: Path, draw_image: DrawImage) -> None:
    records = build_records(tmp_path, draw_image, 3)
    key = compute_store_key(records, GEOMETRY)
    assert compute_store_key(list(records), ImageGeometry(5)) == key
    others = [
        compute_store_key(records[:2], GEOMETRY),
        compute_store_key(records[::-1], GEOMETRY),
        compute_store_key(records, ImageGeometry(6)),
        compute_store_key(records, ImageGeometry(5, int(Image.Resampling.BILINEAR))),
        compute_store_key([Record("other", record.image, "text") for record in records], GEOMETRY),
    ]
    (tmp_path / "1.png").unlink()
    others.append(compute_store_key(records, GEOMETRY))
    draw_image(tmp_path / "1.png", 200)
    others.append(compute_store_key(records, GEOMETRY))
    assert len({key, *others}) == 8


def test_each_kind_of_bad_image_is_one_reason(tmp_path: Path, draw_image: DrawImage) -> None:
    draw_image(tmp_path / "good.png", 7)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    noise.save(tmp_path / "whole.jpg")
    noise.save(tmp_path / "whole.png")
    for suffix in ("jpg", "png"):
        content = (tmp_path / f"whole.{suffix}").read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    header = bytearray((tmp_path / "good.png").read_bytes())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(header)
    names = ["good", "cut_jpg", "cut_png", "empty", "text", "folder", "absent", "bomb"]
    files = [tmp_path / (name.replace("_", ".") if "_" in name else f"{name}.png") for name in names]
    records = [Record(name, ImageFile(path), "x") for name, path in zip(names, files, strict=True)]
    for _ in range(2):  # the second time from the file of reasons
        store = ImageStore(records, GEOMETRY)
        store.ensure(np.arange(8))
        reasons = {names[row]: reason for row, reason in store.unreadable.items()}
        assert set(reasons) == set(names) - {"good"}
        assert "truncated" in reasons["cut_jpg"]
        assert reasons["empty"] == reasons["text"] == "not an image, or damaged from its first bytes on"
        assert reasons["folder"] == "Is a directory"
        assert reasons["absent"] == "No such file or directory"
        assert "decompression bomb" in reasons["bomb"]
        assert all("\n" not in reason and reason for reason in reasons.values())
        assert store.pixels(rows(0))[0, 0, 0, 0] == 7


@dataclass(frozen=True)
class Flaky:
    """A file whose reading fails with `error` while the file `broken` exists."""

    path: Path
    error: type[Exception]
    number: int

    def open(self) -> Image.Image:
        if self.path.with_name("broken").exists():
            raise self.error(self.number, os.strerror(self.number))
        return Image.open(self.path)

    def fingerprint(self) -> str:
        return str(self.path)


def test_a_file_out_of_reach_is_tried_again(tmp_path: Path, draw_image: DrawImage) -> None:
    image = Flaky(draw_image(tmp_path / "a.png", 70), PermissionError, 13)
    (tmp_path / "broken").touch()
    store = ImageStore([Record("a", image, "x")], GEOMETRY)
    store.ensure(rows(0))
    assert store.unreadable == {0: "Permission denied"}
    (tmp_path / "broken").unlink()
    store.ensure(rows(0))
    assert store.unreadable == {}
    assert store.pixels(rows(0))[0, 0, 0, 0] == 70


def test_a_fault_of_the_machine_stops_and_marks_nothing(tmp_path: Path, draw_image: DrawImage) -> None:
    records = build_records(tmp_path, draw_image, 2)
    records.append(Record("io", Flaky(draw_image(tmp_path / "c.png", 9), OSError, 5), "x"))
    (tmp_path / "broken").touch()
    store = ImageStore(records, GEOMETRY)
    with pytest.raises(DataFault, match=r"c\.png could not be read \(Input/output error\): this is the machine's"):
        store.ensure(np.arange(3))
    assert store.unreadable == {}
    (tmp_path / "broken").unlink()
    store.ensure(np.arange(3))
    assert store.pixels(np.arange(3))[:, 0, 0, 0].tolist() == [0, 3, 9]


def test_a_deleted_or_cut_store_is_built_again(tmp_path: Path, draw_image: DrawImage) -> None:
    store = ImageStore(build_records(tmp_path, draw_image, 3), GEOMETRY)
    store.ensure(np.arange(3))
    for name in ("pixels.u8", "status.u8"):
        (store.folder / name).unlink()
        store.ensure(np.arange(3))
        assert store.pixels(np.arange(3))[:, 1, 0, 0].tolist() == [0, 3, 6]
    os.truncate(store.folder / "pixels.u8", 10)
    store.ensure(np.arange(3))
    assert store.pixels(np.arange(3))[:, 1, 0, 0].tolist() == [0, 3, 6]


def test_a_reason_cut_off_by_a_kill_does_not_spoil_later_ones(tmp_path: Path, draw_image: DrawImage) -> None:
    records = build_records(tmp_path, draw_image, 2)
    (tmp_path / "bad.png").write_text("x")
    records.append(Record("bad", ImageFile(tmp_path / "bad.png"), "x"))
    store = ImageStore(records, GEOMETRY)
    store.ensure(rows(0))
    (store.folder / "unreadable.jsonl").write_text('\n{"row": 2, "rea')
    store.ensure(rows(1, 2))
    assert ImageStore(records, GEOMETRY).unreadable == {}  # nothing read yet
    again = ImageStore(records, GEOMETRY)
    again.ensure(rows(2))
    assert again.unreadable == {2: "not an image, or damaged from its first bytes on"}
    reason = (store.folder / "unreadable.jsonl").read_text().split("\n")[-2]
    assert json.loads(reason) == {"row": 2, "reason": again.unreadable[2]}


def test_too_small_a_disk_is_a_fault(tmp_path: Path, draw_image: DrawImage, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(build_records(tmp_path, draw_image, 2), GEOMETRY)
    monkeypatch.setattr("medcap_core.runtime.cache._SPARE_BYTES", 10**18)
    with pytest.raises(DataFault, match=r"Decoding images needs 75 B .* but only"):
        store.ensure(rows(0))


def test_a_cache_that_cannot_be_made_is_a_fault(tmp_path: Path, draw_image: DrawImage, cache: Path) -> None:
    cache.write_text("a file in the way")
    with pytest.raises(DataFault, match="cannot be written"):
        ImageStore(build_records(tmp_path, draw_image, 2), GEOMETRY).ensure(rows(0))


def test_the_store_is_sparse(tmp_path: Path, draw_image: DrawImage) -> None:
    records = build_records(tmp_path, draw_image, 1)
    many = [Record(str(number), records[0].image, "x") for number in range(2000)]
    store = ImageStore(many, ImageGeometry(size=224))
    store.ensure(rows(1700))
    status = (store.folder / "pixels.u8").stat()
    assert status.st_size == 2000 * 3 * 224 * 224
    assert status.st_blocks * 512 < 10 * 3 * 224 * 224


@dataclass(frozen=True)
class Logged:
    """An image that notes each time it is opened."""

    path: Path

    def open(self) -> Image.Image:
        with (self.path.parent / "opened.txt").open("a") as file:
            file.write(f"{self.path.name}\n")
        return Image.open(self.path)

    def fingerprint(self) -> str:
        return self.path.name


def read_in_process(records: list[Record], results: "multiprocessing.Queue[list[int]]") -> None:
    store = ImageStore(records, GEOMETRY)
    store.ensure(np.arange(len(records)))
    results.put(store.pixels(np.arange(len(records)))[:, 0, 0, 0].tolist())


def test_several_processes_decode_each_image_once(tmp_path: Path, draw_image: DrawImage) -> None:
    records = [Record(str(n), Logged(draw_image(tmp_path / f"{n}.png", n)), "x") for n in range(40)]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=read_in_process, args=(records, results)) for _ in range(3)]
    for process in processes:
        process.start()
    seen = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(timeout=60)
    assert seen == [list(range(40))] * 3
    assert len((tmp_path / "opened.txt").read_text().split()) == 40


KILLED = """
    import sys
    from pathlib import Path
    import numpy as np
    from medcap_core.data.stores import images, rows
    from medcap_core.data.images import ImageGeometry
    from medcap_core.data.records import ImageFile, Record

    rows._MAX_CHUNK_ROWS = 4
    paths = [Path(sys.argv[1]) / f"{number}.png" for number in range(60)]
    records = [Record(path.name, ImageFile(path), "x") for path in paths]
    store = images.ImageStore(records, ImageGeometry(5))
    store.ensure(np.arange(60), lambda what, done, total: print(done, flush=True))
"""


def test_kill_9_leaves_no_row_done_without_its_pixels(tmp_path: Path, draw_image: DrawImage) -> None:
    records = [Record(f"{n}.png", ImageFile(draw_image(tmp_path / f"{n}.png", n + 1)), "x") for n in range(60)]
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "16\n"
        process.send_signal(signal.SIGKILL)
    store = ImageStore(records, GEOMETRY)
    status = np.fromfile(store.folder / "status.u8", np.uint8)
    done = np.flatnonzero(status)
    assert 12 <= len(done) <= 60
    raw = np.fromfile(store.folder / "pixels.u8", np.uint8).reshape(60, 3, 5, 5)
    assert raw[done, 0, 0, 0].tolist() == (done + 1).tolist()
    calls: list[int] = []
    store.ensure(np.arange(60), lambda what, done, total: calls.append(total))
    assert set(calls) == ({60 - len(done)} if len(done) < 60 else set())
    assert store.pixels(np.arange(60))[:, 2, 4, 4].tolist() == list(range(1, 61))


def test_pixels_are_on_disk_before_their_rows_are_marked(
    tmp_path: Path, draw_image: DrawImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageStore(build_records(tmp_path, draw_image, 5), GEOMETRY)
    mark = RowStore._mark
    on_disk = []

    def look_then_mark(self: RowStore, status_file: BinaryIO, *sets: Any) -> None:
        on_disk.append(np.fromfile(store.folder / "pixels.u8", np.uint8).reshape(5, -1)[:, -1].tolist())
        mark(self, status_file, *sets)

    monkeypatch.setattr(row_store, "_MAX_CHUNK_ROWS", 2)
    monkeypatch.setattr(RowStore, "_mark", look_then_mark)
    store.ensure(np.arange(5))
    assert on_disk == [[0, 3, 0, 0, 0], [0, 3, 6, 9, 0], [0, 3, 6, 9, 12]]


def test_a_waiting_process_shows_how_far_the_other_is(
    tmp_path: Path, draw_image: DrawImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_store, "_WAIT_SECONDS", 0.01)
    store = ImageStore(build_records(tmp_path, draw_image, 3), GEOMETRY)
    store.folder.mkdir(parents=True)
    other = filelock.FileLock(store.folder / "lock", thread_local=False)
    other.acquire()
    calls: list[tuple[str, int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        calls.append((what, done, total))
        other.release()

    store.ensure(np.arange(3), progress, "decoding")
    assert calls == [("decoding (in another process)", 0, 3), ("decoding", 3, 3)]


def test_an_empty_split_needs_no_store(tmp_path: Path) -> None:
    store = ImageStore([], GEOMETRY)
    store.ensure(rows())
    assert len(store) == 0
    assert not store.folder.exists()
