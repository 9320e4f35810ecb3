"""Parquet files and Hub data sets through the `datasets` library."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import datasets
import pandas as pd
import pytest
from PIL import Image

from medcap_core.config import TrialConfig
from medcap_core.data.arrow_images import ArrowImage
from medcap_core.data.records import SkippedRecord
from medcap_core.data.sources import load_data
from medcap_core.data.sources.hub import HUB_ALIASES, read_hub, read_parquet
from medcap_core.data.sources.tables import TableColumns
from medcap_core.errors import DataFault
from tests.support.data_sets import levels, sizes

datasets.disable_progress_bars()


def encode(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 3), level).save(buffer, "PNG")
    return buffer.getvalue()


def build_table(start: int, count: int, **columns: object) -> datasets.Dataset:
    text = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "image_id": text, "caption": text})
    rows = range(start, start + count)
    table = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": encode(row), "path": None} for row in rows],
            "image_id": [f"img.{row}" for row in rows],
            "caption": [f" caption\u00a0{row}" for row in rows],
        },
        features=features,
    )
    for name, values in columns.items():
        table = table.add_column(name, values)
    return table


def test_the_hubs_layout(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    cuis = [["C1", "C2"], [], ["C3"]]
    build_table(0, 3, cui=cuis).to_parquet(folder / "train-00000-of-00002.parquet")
    build_table(3, 2, cui=cuis[:2]).to_parquet(folder / "train-00001-of-00002.parquet")
    build_table(10, 2, cui=cuis[:2]).to_parquet(folder / "validation-00000-of-00001.parquet")
    build_table(20, 2, cui=cuis[:2]).to_parquet(folder / "test-00000-of-00001.parquet")
    data = load_data(str(tmp_path / "set"))
    assert data.kind == "parquet files in the Hub's layout"
    assert levels(data) == [[0, 1, 2, 3, 4], [10, 11], [20, 21]]
    first = data.splits["train"][0]
    assert (first.id, first.caption, first.truth) == ("img.0", "caption 0", {"concepts": ["C1", "C2"]})
    assert data.notes == []
    prints = {record.image.fingerprint() for part in data.splits.values() for record in part}
    assert len(prints) == 9


def test_references_are_small_and_picklable(tmp_path: Path) -> None:
    build_table(0, 7).to_parquet(tmp_path / "one.parquet")
    record = load_data(str(tmp_path / "one.parquet")).splits["train"][0]
    assert isinstance(record.image, ArrowImage)
    dump = pickle.dumps(record.image)
    assert len(dump) < 1000
    copy = pickle.loads(dump)
    assert copy == record.image
    assert hash(copy) == hash(record.image)
    assert copy.open().getpixel((0, 0)) == record.image.open().getpixel((0, 0))


def test_train_and_test_only(tmp_path: Path) -> None:
    build_table(0, 30).to_parquet(tmp_path / "train-00000-of-00003.parquet")
    build_table(50, 4).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    data = load_data(str(tmp_path))
    assert sizes(data) == [27, 3, 4]
    assert sorted(levels(data)[0] + levels(data)[1]) == list(range(30))
    assert data.notes == [
        "Only 1 of the 3 parquet files of train are there; the rest is left out.",
        "There is no validation split: 3 images were cut from train, image by image, by seed 0.",
    ]


def test_plain_columns_of_bytes_without_ids(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("dev", 10), ("test", 20)):
        (tmp_path / split).mkdir()
        frame = pd.DataFrame({"image": [encode(start), encode(start + 1)], "text": ["one", "  "]})
        frame.to_parquet(tmp_path / split / "0000.parquet")
    data = load_data(str(tmp_path))
    assert levels(data) == [[0], [10], [20]]
    assert [record.id for record in data.splits["validation"]] == ["validation_000000"]
    assert SkippedRecord("test", "test_000001", "empty caption") in data.skipped


def test_columns_of_ones_own(tmp_path: Path) -> None:
    frame = pd.DataFrame({"scan": [encode(n) for n in range(20)], "text": "no", "befund": [f"b{n}" for n in range(20)]})
    frame.to_parquet(tmp_path / "one.parquet")
    data = load_data(str(tmp_path / "one.parquet"), own=TableColumns("scan", "Befund"))
    assert {record.caption[0] for part in data.splits.values() for record in part} == {"b"}
    assert sorted(level for part in levels(data) for level in part) == list(range(20))


def test_rows_of_one_image_are_its_references(tmp_path: Path) -> None:
    """Across files; rows of another case or of another name are other images, whatever their bytes."""

    def build(*rows: tuple[int, str | None, str, str]) -> datasets.Dataset:
        text = datasets.Value("string")
        features = datasets.Features({"image": datasets.Image(), "patient_id": text, "text": text})
        columns = {
            "image": [{"bytes": encode(level), "path": name} for level, name, _, _ in rows],
            "patient_id": [case for _, _, case, _ in rows],
            "text": [text for *_, text in rows],
        }
        return datasets.Dataset.from_dict(columns, features=features)

    first = build((0, None, "p1", "a"), (1, None, "p2", "b"), (0, None, "p1", "c"))
    second = build((0, None, "p1", "d"), (1, None, "p3", "e"), (1, "other.png", "p2", "f"), (0, None, "p1", "a"))
    first.to_parquet(tmp_path / "train-00000-of-00002.parquet")
    second.to_parquet(tmp_path / "train-00001-of-00002.parquet")
    build((5, None, "v1", "x"), (6, None, "v2", "y")).to_parquet(tmp_path / "validation-00000-of-00001.parquet")
    build((7, None, "t1", "x"), (8, None, "t2", "y")).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    data = load_data(str(tmp_path))
    assert [record.references for record in data.splits["train"]] == [("a", "c", "d"), ("b",), ("e",), ("f",)]
    assert levels(data)[0] == [0, 1, 1, 1]
    assert data.notes[0].startswith("3 captions are further ones of an image")


def test_findings_and_impression_are_joined_and_lists_are_references(tmp_path: Path) -> None:
    columns = {"image": [encode(0), encode(1)], "Findings": ["Clear lungs.", None], "impression": ["No.", "I."]}
    frame = pd.DataFrame(columns)
    frame.to_parquet(tmp_path / "train.parquet")
    lists = pd.DataFrame({"image": [encode(2), encode(3)], "caption": [["a", "b"], ["c"]]})
    lists.to_parquet(tmp_path / "lists.parquet")
    reading = read_parquet(tmp_path / "train.parquet")
    assert [record.caption for record in reading.splits["train"]] == ["Clear lungs. No.", "I."]
    reading = read_parquet(tmp_path / "lists.parquet")
    assert [record.references for record in reading.splits["train"]] == [("a", "b"), ("c",)]


def test_rows_without_image_bytes(tmp_path: Path) -> None:
    images = [content for number in range(3) for content in (encode(number), None, b"junk%d" % number)]
    frame = pd.DataFrame({"image": images, "text": ["x"] * 9})
    frame.to_parquet(tmp_path / "one.parquet")
    data = load_data(str(tmp_path / "one.parquet"))
    records = {record.id: record for part in data.splits.values() for record in part}
    with pytest.raises(ValueError, match="holds no image bytes"):
        records["train_000001"].image.open()
    with pytest.raises(OSError, match="cannot identify image file"):
        records["train_000002"].image.open()


def test_shards_that_name_files_are_refused(tmp_path: Path) -> None:
    for shard in range(2):
        frame = pd.DataFrame({"image": ["a.png", "b.png"], "text": ["x", "y"]})
        frame.to_parquet(tmp_path / f"train-0000{shard}-of-00002.parquet")
    with pytest.raises(DataFault, match="column image names files; write all rows of a split into one table"):
        load_data(str(tmp_path))


def test_faults(tmp_path: Path) -> None:
    pd.DataFrame({"a": [b"1", b"2"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataFault, match="needs a column image and a column caption or text; its columns are a"):
        load_data(str(tmp_path))
    build_table(0, 3).to_parquet(tmp_path / "more.parquet")
    with pytest.raises(DataFault, match=r"more\.parquet: its name does not say which split"):
        load_data(str(tmp_path))
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "more.parquet").read_bytes()[:300])
    with pytest.raises(DataFault, match=r"cut\.parquet cannot be read as parquet"):
        load_data(str(tmp_path / "cut.parquet"))


def test_a_hub_set_seen_before_is_read_without_the_network(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    files = {}
    for split, start in (("train", 0), ("val", 10), ("test", 20), ("extra", 30)):
        build_table(start, 2).save_to_disk(tmp_path / split)
        files[split] = [str(path) for path in (tmp_path / split).glob("*.arrow")]
    (cache / "hub").mkdir(parents=True)
    (cache / "hub" / "some-owner--some-set.json").write_text(json.dumps(files))
    data = load_data("some-owner/some-set")
    assert data.kind == "Hub data set some-owner/some-set"
    assert levels(data) == [[0, 1], [10, 11], [20, 21]]
    assert data.notes == ["The split 'extra' was not used: it is neither train, validation nor test."]
    next((tmp_path / "val").glob("*.arrow")).unlink()
    with pytest.raises(DataFault, match="the Hugging Face Hub cannot be reached"):
        read_hub("some-owner/some-set")


def test_a_hub_set_in_the_hubs_own_cache_is_read_offline(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_cache = tmp_path / "hf"
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", hub_cache)
    build_table(40, 3).to_parquet(tmp_path / "train.parquet")
    table, made_folder = str(tmp_path / "train.parquet"), str(tmp_path / "made")
    made = datasets.load_dataset("parquet", data_files=table, cache_dir=made_folder)
    source = Path(made["train"].cache_files[0]["filename"]).parent
    place = hub_cache / "some-owner___cached-set" / "default" / "0.0.0" / source.name
    place.parent.mkdir(parents=True)
    source.rename(place)
    for file in place.glob("*.arrow"):
        file.rename(place / file.name.replace("parquet-", "cached-set-"))
    info = json.loads((place / "dataset_info.json").read_text())
    info |= {"dataset_name": "cached-set", "builder_name": "parquet"}
    (place / "dataset_info.json").write_text(json.dumps(info))
    reading = read_hub("some-owner/cached-set")
    assert [record.id for record in reading.splits["train"]] == ["img.40", "img.41", "img.42"]
    assert (cache / "hub" / "some-owner--cached-set.json").is_file()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rocov2", "ROCOv2, Hub data set eltorio/ROCOv2-radiology"),
        ("rocov2-mini", "1,978 train and 327 test images of ROCOv2, Hub data set unsloth/Radiology_mini"),
        ("roco", "ROCO, Hub data set eltorio/ROCO-radiology"),
    ],
)
def test_data_sets_by_name(tmp_path: Path, cache: Path, name: str, kind: str) -> None:
    """A set of train and test only, as the Hub's copy is once it was converted; validation is cut from train."""
    files = {}
    for split, start, count in (("train", 0, 20), ("test", 50, 3)):
        build_table(start, count, cui=[["C1"]] * count).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
        made = datasets.load_dataset(
            "parquet", data_files={split: str(tmp_path / f"{split}-00000-of-00001.parquet")}, cache_dir=str(tmp_path)
        )
        files[split] = [file["filename"] for file in made[split].cache_files]
    (cache / "hub").mkdir(parents=True)
    listing = cache / "hub" / f"{HUB_ALIASES[name][1].replace('/', '--')}.json"
    listing.write_text(json.dumps(files))
    data = load_data(name)
    assert data.kind == kind
    assert sizes(data) == [18, 2, 3]
    assert sorted(levels(data)[0] + levels(data)[1]) == list(range(20))
    assert data.splits["test"][0].truth == {"concepts": ["C1"]}
    assert TrialConfig(data=name).data == name


def test_a_damaged_listing_is_asked_for_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    (cache / "hub").mkdir(parents=True)
    for content in ("", "[1]", '{"train": 3}', '{"train": [3]}', "[" * 10**5, "9" * 5000):
        (cache / "hub" / "some-owner--some-set.json").write_text(content)
        with pytest.raises(DataFault, match="the Hugging Face Hub cannot be reached"):
            read_hub("some-owner/some-set")


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("suffix", ["txt", "json", "caption"])
def test_webdatasets(tmp_path: Path, suffix: str) -> None:
    for split, start in (("train", 0), ("val", 10), ("test", 20)):
        with tarfile.open(tmp_path / f"{split}-000.tar", "w") as archive:
            for row in (start, start + 1):
                caption = f"caption {row}" if suffix != "json" else json.dumps({"n": row, "caption": f"caption {row}"})
                add_member(archive, f"k{row}.png", encode(row))
                add_member(archive, f"k{row}.{suffix}", caption.encode())
    data = load_data(str(tmp_path))
    assert data.kind == "WebDataset"
    assert levels(data) == [[0, 1], [10, 11], [20, 21]]
    assert [f"{record.id} {record.caption}" for record in data.splits["test"]] == ["k20 caption 20", "k21 caption 21"]


NO_TARS = {
    "lacking": (
        {"a.png": b"", "a.txt": b"", "b.png": b""},
        "1 of its 2 samples lack a file that others have, such as b.txt",
    ),
    "apart": ({"a.png": b"", "b.png": b"", "a.txt": b"", "b.txt": b""}, "the files of one sample do not follow each"),
    "pickle": ({"a.png": b"", "a.pth": b""}, "holds .pth files, which run code when they are read"),
}


@pytest.mark.parametrize(("members", "reason"), NO_TARS.values(), ids=NO_TARS)
def test_webdatasets_that_cannot_be_read_whole(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    with tarfile.open(tmp_path / "0001.tar", "w") as archive:
        for name, content in members.items():
            add_member(archive, name, content)
    with pytest.raises(DataFault, match=reason):
        load_data(str(tmp_path))
    content = (tmp_path / "0001.tar").read_bytes()
    (tmp_path / "0001.tar").write_bytes(content[: content.index(b"a.png") + 700])
    with pytest.raises(DataFault, match="ends too early: it was cut off"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no archive" * 99, bytes(600)])
def test_broken_webdatasets(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.tar").write_bytes(content)
    with pytest.raises(DataFault) as caught:
        load_data(str(tmp_path))
    assert str(tmp_path) in caught.value.faults[0]
    assert "\n" not in caught.value.faults[0]
