"""CSV, TSV and JSONL files of image paths and captions."""

import gzip
import json
import sys
import tempfile
import time
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcap_core.data.records import ImageFile, Record, SkippedRecord
from medcap_core.data.sources import load_data
from medcap_core.data.sources.reading import Reading
from medcap_core.data.sources.rows import is_table, read_rows
from medcap_core.data.sources.tables import TableColumns, read_table
from medcap_core.errors import DataFault
from tests.medcap_core.data.conftest import DrawImage
from tests.support.data_sets import ids, sizes, write

NAMES = ["a.png", "sub/b.v2.png", "100%.png"]


@pytest.fixture
def folder(tmp_path: Path, draw_image: DrawImage) -> Path:
    for level, name in enumerate(NAMES):
        draw_image(tmp_path / name, 10 * level)
    return tmp_path


def test_csv_with_every_column(folder: Path) -> None:
    rows = (
        "Path,Report,split,patient_id,id,modality\n"
        'a.png,"one, ""two""",train,p1,x.1,CT\n'
        "sub/b.v2.png,  three\u00a0four ,val,,y/2,MR\n"
        "100%.png,five,TEST,p3,,US\n"
    )
    reading = read_table(write(folder / "data.csv", "\ufeff" + rows))
    (train,), (validation,), (test,) = (reading.splits[split] for split in ("train", "validation", "test"))
    assert (train.id, train.caption, train.case, train.truth) == ("x.1", 'one, "two"', "p1", {"modality": "CT"})
    assert (validation.id, validation.caption, validation.case) == ("y/2", "three four", None)
    assert test.id == "100%.png"
    assert np.asarray(test.image.open())[0, 0] == 20
    assert reading.skipped == []


@pytest.mark.parametrize(
    ("suffix", "delimiter"), [("csv", ";"), ("csv", "\t"), ("csv", "|"), ("tsv", "\t"), ("tsv", ",")]
)
def test_other_delimiters(folder: Path, suffix: str, delimiter: str) -> None:
    content = f'image{delimiter}text\r\na.png{delimiter}"one, two"\r\n'
    assert read_table(write(folder / f"d.{suffix}", content)).splits["train"][0].caption == "one, two"


def test_tsv_with_raw_quotes(folder: Path) -> None:
    content = 'image\ttext\na.png\t"Ground glass" opacity\n100%.png\tplain\n'
    reading = read_table(write(folder / "d.tsv", content))
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
    reading = read_table(write(folder / "d.jsonl", content))
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
    reading = read_table(write(folder / "d.csv", content))
    assert [record.id for record in reading.splits["train"]] == ["a.png"]
    reasons = [(record.id, record.reason) for record in reading.skipped]
    assert reasons[0] == ("missing.png", f"image file 'missing.png' not found in {folder}")
    assert reasons[1:3] == [("100%.png", "empty caption"), ("d.csv line 5", "no image named")]
    assert reasons[3] == ("sub/b.v2.png", "line 6 has 3 cells, the header 2: quote the caption")
    assert reasons[4][0] == "bad name.png"
    assert "not found" in reasons[5][1]


def test_repeated_ids_are_made_unique_and_reported(tmp_path: Path, draw_image: DrawImage) -> None:
    rows = [f"{draw_image(tmp_path / f'{n}.png', n).name},text {n},{name}\n" for n, name in enumerate("aaabcbc")]
    data = load_data(str(write(tmp_path / "d.csv", "path,caption,id\n" + "".join(rows))))
    everything = [record for split in data.splits.values() for record in split]
    assert sorted(record.id for record in everything) == ["a", "a#2", "a#3", "b", "b#2", "c", "c#2"]
    assert data.notes[0] == "4 repeated ids in train were made unique by a suffix (#2, #3 ...): a, a, b, c."


def test_many_records_of_one_id_take_no_longer_than_others() -> None:
    reading, started = Reading(), time.process_time()
    for number in range(10_000):
        reading.add("train", Record("same", ImageFile(Path(str(number))), "x"))
    assert time.process_time() - started < 3  # 0.2 s, or 7 s if each looks for a free suffix from the first on
    assert [record.id for record in reading.splits["train"]][::9999] == ["same", "same#10000"]


def test_splits_from_the_folders_of_the_paths(tmp_path: Path, draw_image: DrawImage) -> None:
    for name in ("train/a.png", "val/b.png", "test/c.png"):
        draw_image(tmp_path / name, 3)
    reading = read_table(write(tmp_path / "d.csv", "path,text\ntrain/a.png,x\nval/b.png,y\ntest/c.png,z\n"))
    captions = {split: [record.caption for record in part] for split, part in reading.splits.items()}
    assert captions == {"train": ["x"], "validation": ["y"], "test": ["z"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", "foo,caption\na.png,x\n", "no column for the image .*its columns are foo, caption"),
        ("d.csv", "path,foo\na.png,x\n", "no column for the caption"),
        ("d.csv", "", r"d\.csv is empty"),
        ("d.csv", "path,caption,caption\na.png,x,y\n", "several columns 'caption': rename all but one"),
        ("d.csv", 'path,caption\na.png,"never closed\n100%.png,x\n', "broken quoting"),
        ("d.csv", "path,caption,split\na.png,x,fold1\n", "column split holds 'fold1'"),
        ("d.jsonl", '{"path": "a.png", "text": "x"}\n{oops}\n', "line 2 is not JSON"),
        ("d.jsonl", '["a.png", "x"]\n', "line 1 is not a JSON object"),
    ],
)
def test_broken_files_are_faults(folder: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataFault, match=message) as caught:
        read_table(write(folder / name, content))
    assert all(str(folder / name) in fault for fault in caught.value.faults)


ACCENTS = "save it as UTF-8 if letters with accents come out wrong."


@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("utf-8", None),
        ("utf-16", "d.csv is not UTF-8; it was read as UTF-16."),
        ("utf-16-le", "d.csv is not UTF-8; it was read as UTF-16."),
        ("utf-16-be", "d.csv is not UTF-8; it was read as UTF-16."),
        ("utf-32", "d.csv is not UTF-8; it was read as UTF-32."),
        ("cp1252", f"d.csv is not UTF-8; it was read as cp1252 (Western European Windows); {ACCENTS}"),
    ],
)
def test_encodings_are_recognised_and_said(folder: Path, encoding: str, note: str | None) -> None:
    (folder / "d.csv").write_bytes("path,caption\na.png,Röntgen\n".encode(encoding))
    reading = read_table(folder / "d.csv")
    assert reading.splits["train"][0].caption == "Röntgen"
    assert reading.notes == ([note] if note else [])


def test_excel_files_of_the_old_format_are_faults(folder: Path) -> None:
    (folder / "d.xls").write_bytes(b"\xd0\xcf\x11\xe0 ...")
    with pytest.raises(DataFault, match=r"d\.xls is an Excel file of the old format or with a password"):
        read_table(folder / "d.xls")


def test_an_unknown_encoding_is_a_fault(folder: Path) -> None:
    (folder / "d.csv").write_bytes(b"path,caption\na.png,R\x81ntgen\n")
    with pytest.raises(DataFault, match=r"d\.csv is not UTF-8, UTF-16 or cp1252 \(byte 20\): save it as UTF-8"):
        read_table(folder / "d.csv")


STARTS = [
    b"", b"PK\x03\x04", b"\xff\xfe", b"\xff\xfe\0\0", b"image,caption\n", b'{"image": ', b"\xd0\xcf\x11\xe0",
    b"sep=;\n", b"PAR1", b"\x1f\x8b\x08\0",
]  # fmt: skip


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    suffix=st.sampled_from([".csv", ".tsv", ".txt", ".jsonl", ".json", ".json.gz", ".xlsx", ".parquet", ".tar"]),
    start=st.sampled_from(STARTS),
    content=st.binary(max_size=90) | st.text(max_size=30).map(str.encode),
)
def test_bytes_of_any_kind_are_one_sentence(suffix: str, start: bytes, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"d{suffix}"
        path.write_bytes(start + content)
        with pytest.raises(DataFault) as caught:
            load_data(str(path))
    assert all(fault and "\n" not in fault for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("header", "caption"),
    [
        ("Image Index,Findings,Impression", "clear lungs. no effusion"),
        ("FILE,impression,findings", "no effusion clear lungs."),
        ("ID,Report,impression", "clear lungs."),
        ("Image-Name,Caption,Study ID", "clear lungs."),
    ],
)
def test_columns_by_their_usual_names(folder: Path, header: str, caption: str) -> None:
    path = write(folder / "d.csv", f"{header}\na.png,clear lungs.,no effusion\n")
    (record,) = read_table(path).splits["train"]
    assert sorted(record.caption.split()) == sorted(caption.split())
    assert record.case == ("no effusion" if "Study ID" in header else None)


@pytest.mark.parametrize(
    "content",
    [
        "Image.Name,Ｃａｐｔｉｏｎ\na.png,x\n",
        "Image\u00a0Path,CAPTIONS,\na.png,x,\n",
        "caption,Image,image\nx,nope,a.png\n",
        "sep=;\nimage;caption\na.png;x\n",
        "\n\n# exported, no doubt\nimage;caption\na.png;x\n",
        "A title\nimage\tcaption\tone, two, three\na.png\tx\t1\n",
        "image,caption\na.png,x,,\n",
        "image,caption\n100%.png,NaN\na.png,x\n",
        "image,caption\ra.png,x\r",
        "\u200b'image',\u00a0caption?\na.png,x\n",
        "image,caption\n100%.png,N/A\nsub/b.v2.png, -\na.png,x\n",
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_what_people_call_a_csv_file(folder: Path, content: str, suffix: str) -> None:
    (record,) = read_table(write(folder / f"d.{suffix}", content)).splits["train"]
    assert (record.id, record.caption) == ("a.png", "x")


def test_a_missing_case_is_none(folder: Path) -> None:
    path = write(folder / "d.csv", "image,caption,patient\na.png,x,None\n100%.png,y,p\nsub/b.v2.png,z,NULL\n")
    assert [record.case for record in read_table(path).splits["train"]] == [None, "p", None]


def test_compressed_tables(folder: Path) -> None:
    rows = [{"image": "a.png", "caption": "x"}]
    for name, content in (
        ("d.csv.gz", "image,caption\na.png,x\n"),
        ("d.jsonl.gz", json.dumps(rows[0])),
        ("d.json.gz", json.dumps(rows)),
        ("d.csv", "image,caption\na.png,x\n"),
    ):
        (folder / name).write_bytes(gzip.compress(content.encode()))
        with pytest.raises(DataFault, match="a test split cannot be cut from 1 training images"):
            load_data(str(folder / name))
        (folder / name).write_bytes(gzip.compress(content.encode())[:-9])
        with pytest.raises(DataFault, match="is not a whole gzip archive"):
            load_data(str(folder / name))


@pytest.mark.parametrize(("line", "end"), [('{"image": "a.png", "caption": "x"},', ""), ("[", "]")])
def test_json_lines_as_lists_are_cut(folder: Path, line: str, end: str) -> None:
    content = f'{line}\n{{"image": "100%.png", "caption": "y"}}\n{end}'
    records = read_table(write(folder / "d.jsonl", content)).splits["train"]
    assert records[-1].caption == "y"


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_parquet_and_feather_files_of_paths(folder: Path, suffix: str) -> None:
    frame = pd.DataFrame({"image_path": ["a.png", "100%.png"], "caption": [["x", "y"], ["z"]], "split": "train"})
    frame.to_parquet(folder / "d.parquet") if suffix == "parquet" else frame.to_feather(folder / "d.feather")
    assert is_table(folder / f"d.{suffix}")
    records = read_table(folder / f"d.{suffix}").splits["train"]
    assert [(record.id, record.references) for record in records] == [("a.png", ("x", "y")), ("100%.png", ("z",))]


def test_columns_by_names_of_ones_own(folder: Path) -> None:
    path = write(folder / "d.csv", "caption,scan_ref,Befund\nwrong,a.png,right\n")
    (record,) = read_table(path, TableColumns("scan_ref", "befund")).splits["train"]
    assert (record.caption, record.truth) == ("right", {"caption": "wrong"})
    with pytest.raises(DataFault, match=r"image_column: .*d\.csv has no column 'nope'; its columns are caption"):
        load_data(str(path), own=TableColumns(image="nope"))
    with pytest.raises(DataFault, match="phantoms has columns of known names: leave out image_column"):
        load_data("phantoms", own=TableColumns(image="nope"))


def test_the_header_decides_on_the_separator_even_with_commas_in_a_name(folder: Path) -> None:
    path = write(folder / "d.csv", 'image|text|"age, in years"\na.png|one, two|5\n')
    assert read_table(path).splits["train"][0].caption == "one, two"


def test_excel(folder: Path) -> None:
    pytest.importorskip("openpyxl", reason="Excel files need the extra excel")
    sheet = pd.DataFrame({"Image Index": ["a.png", None, "100%.png"], "Findings": ["one", None, "NA"]})
    sheet.assign(case=[7, None, 8]).to_excel(folder / "d.xlsx", index=False)
    records = read_table(folder / "d.xlsx").splits["train"]
    assert [(record.id, record.caption) for record in records] == [("a.png", "one"), ("100%.png", "NA")]
    with zipfile.ZipFile(folder / "d.xlsx") as whole, zipfile.ZipFile(folder / "cut.xlsx", "w") as cut:
        for name in whole.namelist():
            cut.writestr(name, whole.read(name)[:-9])
    (folder / "bad.xlsx").write_bytes(b"junk")
    for name in ("bad", "cut"):
        with pytest.raises(DataFault, match=rf"{name}\.xlsx cannot be read as an Excel file \(.*\): save it as CSV"):
            read_table(folder / f"{name}.xlsx")


def fill_sheet(sheet: Any, rows: list[list[object]]) -> None:
    for row in rows:
        sheet.append(row)


def test_what_excel_files_hold(folder: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="Excel files need the extra excel")
    book = openpyxl.Workbook()
    fill_sheet(book.active, [["Please read"], ["me"]])
    sheet = book.create_sheet("data")
    rows = [["p", "a.png", date(2024, 1, 2)], [None, "100%.png", 3.0]]
    fill_sheet(sheet, [["Lungs, 2024"], [], ["Patient", "Image", "Caption"], *rows])
    sheet.merge_cells("A4:A5")
    book.save(folder / "d.xlsx")
    reading = read_table((folder / "d.xlsx").rename(folder / "d.csv"))  # by its content
    found = [(record.id, record.caption, record.case) for record in reading.splits["train"]]
    assert found == [("a.png", "2024-01-02 00:00:00", "p"), ("100%.png", "3", "p")]
    assert reading.notes == ["Of d.csv the sheet data was read, and not Sheet."]
    book.active.title, sheet.title = "val", "train"
    fill_sheet(book["val"], [["Image", "Caption"], ["sub/b.v2.png", "two"]])
    book["val"].delete_rows(1, 2)
    book.save(folder / "d.xlsx")
    splits = {split: [r.id for r in part] for split, part in read_table(folder / "d.xlsx").splits.items()}
    assert splits == {"validation": ["sub/b.v2.png"], "train": ["a.png", "100%.png"]}
    book["val"]["B2"] = '="a"&"b"'
    book.save(folder / "d.xlsx")
    with pytest.raises(DataFault, match=r"d\.xlsx: sheet val has formulas without saved values"):
        read_table(folder / "d.xlsx")


def test_excel_without_openpyxl_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    path = write(folder / "d.xlsx", "any")
    with pytest.raises(DataFault, match=r"d\.xlsx is an Excel file, which needs openpyxl: pip install .*\[excel\]"):
        read_table(path)


def test_a_table_for_each_split(tmp_path: Path, draw_image: DrawImage) -> None:
    for number in range(3):
        draw_image(tmp_path / "img" / f"{number}.png", number)
    write(tmp_path / "Train.csv", "path,caption\nimg/0.png,x\n")
    write(tmp_path / "dev.tsv", "path\tcaption\nimg/1.png\tx\n")
    write(tmp_path / "test.jsonl", {"path": "img/2.png", "caption": "x"})
    data = load_data(str(tmp_path))
    assert data.kind == "folder with a table for each split"
    assert ids(data) == [["img/0.png"], ["img/1.png"], ["img/2.png"]]
    assert data.notes == []
    assert read_table(tmp_path / "Train.csv").notes == [
        f"Train.csv was read alone, without dev.tsv and test.jsonl beside it: give the folder {tmp_path} to take its "
        "tables as splits."
    ]
    write(tmp_path / "val.csv", "path,caption\n")
    with pytest.raises(DataFault, match=r"holds dev\.tsv and val\.csv, tables of one split: keep one of them"):
        load_data(str(tmp_path))


def test_images_of_one_name_in_folders_named_by_split(tmp_path: Path, draw_image: DrawImage) -> None:
    for level, split in enumerate(("train", "val", "test")):
        draw_image(tmp_path / "images" / split / "1.png", level)
        write(tmp_path / f"{split}.csv", "path,caption\n1.png,x\n")
    images = [record.image for part in load_data(str(tmp_path)).splits.values() for record in part]
    assert [getattr(image, "path", tmp_path).parent.name for image in images] == ["train", "val", "test"]


def test_rows_of_one_image_are_references_of_one_record(tmp_path: Path, draw_image: DrawImage) -> None:
    rows = []
    for number in range(20):
        image = draw_image(tmp_path / f"{number}.png", number)
        rows += [f"{image.name},caption {number} {text}\n" for text in ("one", "two", "one", "three")]
    data = load_data(str(write(tmp_path / "d.csv", "path,caption\n" + "".join(rows))))
    assert sizes(data) == [16, 2, 2]
    assert len({record.image for part in data.splits.values() for record in part}) == 20
    first = data.splits["train"][0]
    number = first.id.partition(".")[0]
    assert first.references == tuple(f"caption {number} {text}" for text in ("one", "two", "three"))
    assert data.notes[0] == (
        "60 captions are further ones of an image: each image is one record, its captions are several references, and "
        "training takes one of them at random in each epoch."
    )


def test_an_image_in_two_splits_is_refused(folder: Path) -> None:
    path = write(folder / "d.csv", "path,caption,split\na.png,x,train\na.png,y,test\n100%.png,z,train\n")
    with pytest.raises(DataFault, match=r"1 cases have images in more than one split \(a\.png\)"):
        load_data(str(path))
    path = write(folder / "e.csv", "path,caption,split\na.png,x,train\na.png,y,test\n")
    with pytest.raises(DataFault, match=r"e\.csv: drop_shared_cases leaves no record in train, since another"):
        load_data(str(path), drop_shared_cases=True)


@pytest.mark.parametrize("name", ["PatientID", "Patient ID", "patient", "SUBJECT", "subject_id", "StudyID", "uid"])
def test_cases_by_their_usual_names(tmp_path: Path, draw_image: DrawImage, name: str) -> None:
    rows = [f"{draw_image(tmp_path / f'{n}.png', n).name},text {n},p{n // 5}\n" for n in range(50)]
    data = load_data(str(write(tmp_path / "d.csv", f"path,caption,{name}\n" + "".join(rows))))
    cases = [{record.case for record in part} for part in data.splits.values()]
    assert sum(map(len, cases)) == len(set.union(*cases)) == 10
    assert all("by whole cases" in note for note in data.notes)


def test_very_long_captions_are_read(folder: Path) -> None:
    caption = "word " * 40_000
    path = write(folder / "d.csv", f"path,caption\na.png,{caption}\n")
    assert read_rows(path).rows[0].text("caption") == caption
