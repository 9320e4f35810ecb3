"""CSV, TSV and JSONL files of image paths and captions."""

import json
from pathlib import Path

import numpy as np
import pytest

from medcap_core.data.records import SkippedRecord
from medcap_core.data.sources import load_data
from medcap_core.data.sources.tables import read_rows, read_table
from medcap_core.errors import DataFault
from tests.medcap_core.data.conftest import DrawImage

NAMES = ["a.png", "sub/b.v2.png", "100%.png"]


@pytest.fixture
def folder(tmp_path: Path, draw_image: DrawImage) -> Path:
    for level, name in enumerate(NAMES):
        draw_image(tmp_path / name, 10 * level)
    return tmp_path


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_bytes(content.encode())
    return path


def test_csv_with_every_column(folder: Path) -> None:
    rows = (
        "Path,Report,split,patient_id,id,modality\n"
        'a.png,"one, ""two""",train,p1,x.1,CT\n'
        "sub/b.v2.png,  three\u00a0four ,val,,y/2,MR\n"
        "100%.png,five,TEST,p3,,US\n"
    )
    reading = read_table(write(folder, "data.csv", "\ufeff" + rows))
    (train,), (validation,), (test,) = (reading.splits[split] for split in ("train", "validation", "test"))
    assert (train.id, train.caption, train.case, train.truth) == ("x.1", 'one, "two"', "p1", {"modality": "CT"})
    assert (validation.id, validation.caption, validation.case) == ("y/2", "three four", None)
    assert test.id == "100%.png"
    assert np.asarray(test.image.open())[0, 0] == 20
    assert reading.skipped == []


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ";"), ("csv", "\t"), ("tsv", "\t")])
def test_other_delimiters(folder: Path, suffix: str, delimiter: str) -> None:
    content = f"image{delimiter}text\r\na.png{delimiter}one, two\r\n"
    assert read_table(write(folder, f"d.{suffix}", content)).splits["train"][0].caption == "one, two"


def test_tsv_with_raw_quotes(folder: Path) -> None:
    content = 'image\ttext\na.png\t"Ground glass" opacity\n100%.png\tplain\n'
    reading = read_table(write(folder, "d.tsv", content))
    assert [record.caption for record in reading.splits["train"]] == ['"Ground glass" opacity', "plain"]
    assert reading.notes == ["The quotes in d.tsv do not pair, so they were read as plain characters."]


def test_jsonl(folder: Path) -> None:
    rows = [
        {"file_name": "a.png", "text": "one\u2028two\x0bthree", "case": 7},
        {"file_name": "100%.png", "text": None, "case": 7},
        {"file_name": "sub/b.v2.png", "text": "lone \ud83d half", "case": 8, "level": 2},
        {"file_name": "a.png", "text": ["several", 5]},
    ]
    content = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    reading = read_table(write(folder, "d.jsonl", content))
    first, second = reading.splits["train"]
    assert (first.caption, first.case) == ("one two three", "7")
    assert second.caption == "lone ? half"
    assert second.truth == {"level": 2}
    assert reading.skipped == [
        SkippedRecord("train", "100%.png", "empty caption"),
        SkippedRecord("train", "a.png", "line 4: text is not text"),
    ]


def test_bad_rows_are_skipped_with_reasons(folder: Path) -> None:
    content = (
        "path,caption\na.png,one\nmissing.png,two\n100%.png, \n,four\n"
        "sub/b.v2.png,five, six\nbad\0name.png,seven\n" + "x" * 300 + ".png,eight\n"
    )
    reading = read_table(write(folder, "d.csv", content))
    assert [record.id for record in reading.splits["train"]] == ["a.png"]
    reasons = [(record.id, record.reason) for record in reading.skipped]
    assert reasons[0] == ("missing.png", f"image file 'missing.png' not found in {folder}")
    assert reasons[1:3] == [("100%.png", "empty caption"), ("d.csv line 5", "no image named")]
    assert reasons[3] == ("sub/b.v2.png", "line 6 has 3 cells, the header 2: quote the caption")
    assert reasons[4][0] == "bad name.png"
    assert "not found" in reasons[5][1]


def test_repeated_ids_are_made_unique_and_reported(folder: Path) -> None:
    content = "path,caption\n" + "".join(f"a.png,caption {number}\n" for number in range(3))
    rows = "".join(f"{name},filler\n" for name in NAMES[1:] * 2)
    data = load_data(str(write(folder, "d.csv", content + rows)))
    everything = [record for split in data.splits.values() for record in split]
    assert sorted(record.id for record in everything) == sorted(
        ["a.png", "a.png#2", "a.png#3", "100%.png", "100%.png#2", "sub/b.v2.png", "sub/b.v2.png#2"]
    )
    assert data.notes[0] == (
        "4 repeated ids in train were made unique by a suffix (#2, #3 ...): a.png, a.png, sub/b.v2.png, 100%.png."
    )


def test_splits_from_the_folders_of_the_paths(tmp_path: Path, draw_image: DrawImage) -> None:
    for name in ("train/a.png", "val/b.png", "test/c.png"):
        draw_image(tmp_path / name, 3)
    reading = read_table(write(tmp_path, "d.csv", "path,text\ntrain/a.png,x\nval/b.png,y\ntest/c.png,z\n"))
    assert {split: [record.caption for record in part] for split, part in reading.splits.items()} == {
        "train": ["x"],
        "validation": ["y"],
        "test": ["z"],
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", "foo,caption\na.png,x\n", "no column for the image .*its columns are foo, caption"),
        ("d.csv", "path,foo\na.png,x\n", "no column for the caption"),
        ("d.csv", "", "its columns are none"),
        ("d.csv", 'path,caption\na.png,"never closed\n100%.png,x\n', "broken quoting"),
        ("d.csv", "path,caption,split\na.png,x,fold1\n", "column split holds 'fold1'"),
        ("d.jsonl", '{"path": "a.png", "text": "x"}\n{oops}\n', "line 2 is not JSON"),
        ("d.jsonl", '["a.png", "x"]\n', "line 1 is not a JSON object"),
    ],
)
def test_broken_files_are_faults(folder: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataFault, match=message) as caught:
        read_table(write(folder, name, content))
    assert all(str(folder / name) in fault for fault in caught.value.faults)


def test_another_encoding_is_a_fault(folder: Path) -> None:
    (folder / "d.csv").write_bytes("path,caption\na.png,Röntgen\n".encode("cp1252"))
    with pytest.raises(DataFault, match=r"d\.csv is not UTF-8 \(byte 20\)"):
        read_table(folder / "d.csv")


def test_very_long_captions_are_read(folder: Path) -> None:
    caption = "word " * 40_000
    path = write(folder, "d.csv", f"path,caption\na.png,{caption}\n")
    assert read_rows(path).rows[0].text("caption") == caption
