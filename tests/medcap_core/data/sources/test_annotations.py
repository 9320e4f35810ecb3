"""JSON annotations, text files and IU X-Ray's tables become records as a table does; broken JSON is one sentence."""

import json
import os
from pathlib import Path

import pytest

from medcap_core.data.records import Dataset, Record, SkippedRecord
from medcap_core.data.sources import load_data
from medcap_core.data.sources.annotations import read_annotations
from medcap_core.data.sources.iu_xray import read_iu_xray
from medcap_core.data.sources.tables import TableColumns, read_table
from medcap_core.data.sources.text_files import read_text_files
from medcap_core.errors import DataFault
from tests.medcap_core.data.conftest import DrawImage
from tests.support.data_sets import sizes, write


def named(records: list[Record]) -> list[tuple[str, str]]:
    """The name of each image and its caption."""
    return [(record.image.path.name, record.caption) for record in records]  # type: ignore[union-attr]


def named_by_split(data: Dataset) -> list[list[tuple[str, str]]]:
    return [named(records) for records in data.splits.values()]


@pytest.fixture
def images(tmp_path: Path, draw_image: DrawImage) -> Path:
    for index in range(12):
        draw_image(tmp_path / "images" / f"{index}.png", index)
    return tmp_path


def test_coco_captions_keep_the_captions_of_an_image_together(images: Path) -> None:
    content = {
        "info": {"year": 2026},
        "images": [{"id": 7, "file_name": "0.png", "patient_id": "p0"}, {"id": 8, "file_name": "1.png"}],
        "annotations": [
            {"id": 1, "image_id": 7, "caption": "one"},
            {"id": 2, "image_id": "8", "caption": "other"},
            {"id": 3, "image_id": 7, "caption": "two"},
            {"id": 4, "image_id": 9, "caption": "lost"},
            {"id": 5, "image_id": 8, "bbox": [0, 0, 1, 1], "segmentation": []},
            {"id": 6, "image_id": 8, "caption": None},
        ],
    }
    reading = read_annotations(write(images / "annotations" / "captions.json", content))
    assert len(reading.describe_further_captions()) == 1
    records = reading.splits["train"]
    assert named(records) == [("0.png", "one"), ("1.png", "other")]
    assert [(record.id, record.case, record.references) for record in records] == [
        ("7", "p0", ("one", "two")),
        ("8", None, ("other",)),
    ]
    assert reading.skipped == [
        SkippedRecord("train", "8", "empty caption"),
        SkippedRecord("train", "9", "no image named"),
    ]
    assert reading.notes == ["captions.json was read as COCO captions."]


def test_the_captions_of_an_image_stay_in_one_split(images: Path) -> None:
    content = {
        "images": [{"id": index, "file_name": f"{index}.png"} for index in range(12)],
        "annotations": [
            {"id": 12 * number + index, "image_id": index, "caption": f"caption {number} of {index}"}
            for number in range(5)
            for index in range(12)
        ],
    }
    data = load_data(str(write(images / "captions.json", content)))
    assert sizes(data) == [8, 2, 2]
    assert {len(record.references) for records in data.splits.values() for record in records} == {5}
    assert len({record.image for records in data.splits.values() for record in records}) == 12


def test_annotations_with_columns_of_ones_own(images: Path) -> None:
    content = [{"Bild": f"{index}.png", "Befund": [f"Befund {index}"], "text": "x"} for index in range(12)]
    path = write(images / "all.json", content)
    data = load_data(str(path), own=TableColumns("Bild", "Befund"))
    assert {record.caption for records in data.splits.values() for record in records} == {
        f"Befund {index}" for index in range(12)
    }


def test_a_subject_in_two_splits_of_annotations_is_refused(images: Path) -> None:
    def study(index: int) -> dict[str, object]:
        return {"subject_id": index % 3, "image_path": [f"{index}.png"], "report": f"report {index}"}

    content = {"train": [study(0), study(1)], "val": [study(2)], "test": [study(3)]}
    with pytest.raises(DataFault, match=r"1 cases have images in more than one split \(0\)"):
        load_data(str(write(images / "annotation.json", content)))


def test_coco_in_a_file_for_each_split(images: Path) -> None:
    for number, split in enumerate(("train2017", "val2017", "test2017")):
        for kind, key in (("captions", "caption"), ("instances", "category_id")):
            content = {
                "images": [{"id": 1, "file_name": f"{number}.png"}],
                "annotations": [{"id": 1, "image_id": 1, key: split}],
            }
            write(images / "annotations" / f"{kind}_{split}.json", content)
    data = load_data(str(images))
    assert data.kind == "JSON annotations"
    assert [named(records) for records in data.splits.values()] == [
        [("0.png", "train2017")],
        [("1.png", "val2017")],
        [("2.png", "test2017")],
    ]


def test_r2gen_takes_the_first_image_of_a_report(images: Path) -> None:
    def study(index: int) -> dict[str, object]:
        return {"id": f"s{index}", "image_path": [f"{index}.png", f"{index + 6}.png"], "report": f"report {index}"}

    content = {"train": [study(0), study(1)], "val": [study(2)], "test": [study(3)]}
    write(images / "annotation.json", content)
    data = load_data(str(images))
    assert [named(records) for records in data.splits.values()] == [
        [("0.png", "report 0"), ("1.png", "report 1")],
        [("2.png", "report 2")],
        [("3.png", "report 3")],
    ]
    assert [record.id for record in data.splits["train"]] == ["s0", "s1"]
    assert data.notes == [
        "annotation.json was read as a list of reports for each split.",
        "4 rows of annotation.json name several images; the first of each is used.",
    ]


@pytest.mark.parametrize(
    "content",
    [
        [{"image": "0.png", "caption": ["a", "b"]}, {"image": "1.png", "caption": "c"}],
        {"data": [{"file_name": "0.png", "text": ["a", "b"]}, {"file_name": "1.png", "text": "c"}]},
        {"0.png": ["a", "b"], "1.png": ["c"]},
        {"schema": {"fields": []}, "data": [{"image": "0.png", "text": ["a", "b"]}, {"image": "1.png", "text": "c"}]},
        {"columns": ["image", "text"], "index": [0, 1], "data": [["0.png", ["a", "b"]], ["1.png", "c"]]},
        {"image": {"0": "0.png", "1": "1.png"}, "text": {"0": ["a", "b"], "1": "c"}},
        {"image": ["0.png", "1.png"], "text": [["a", "b"], "c"]},
        {"train": {"0.png": ["a", "b"], "1.png": "c"}},
        {"0": {"image_path": "0.png", "text": ["a", "b"]}, "1": {"image_path": "1.png", "text": "c"}},
        '{"image": "0.png", "text": ["a", "b"]}\n\n{"image": "1.png", "text": "c"}\n',
    ],
)
def test_lists_of_records_and_captions_by_name(images: Path, content: object) -> None:
    reading = read_annotations(write(images / "all.json", content))
    (note,) = reading.describe_further_captions()
    assert note.startswith("1 captions are further ones of an image: each image is one record")
    assert [record.references for record in reading.splits["train"]] == [("a", "b"), ("c",)]


def test_absolute_paths_of_another_machine(images: Path) -> None:
    content = {
        split: [{"id": split, "image_path": [f"/home/someone/images/{index}.png"], "report": split}]
        for index, split in enumerate(("train", "val", "test"))
    }
    reading = read_annotations(write(images / "annotations" / "annotation.json", content))
    assert [named(records) for records in reading.splits.values()] == [
        [("0.png", "train")], [("1.png", "val")], [("2.png", "test")],
    ]  # fmt: skip


def test_karpathys_splits(images: Path) -> None:
    content = [
        {
            "filepath": "images", "filename": f"{index}.png", "cocoid": 100 + index, "sentids": [index], "split": split,
            "sentences": [{"raw": f"{split} a", "tokens": []}, {"raw": f"{split} b", "tokens": []}],
        }
        for index, split in enumerate(("train", "restval", "val", "test"))
    ]  # fmt: skip
    path = write(images / "dataset_coco.json", {"images": content, "dataset": "coco"})
    data = load_data(str(path))
    assert [named(records) for records in data.splits.values()] == [
        [("0.png", "train a"), ("1.png", "restval a")],
        [("2.png", "val a")],
        [("3.png", "test a")],
    ]
    assert data.splits["test"][0].references == ("test a", "test b")
    assert data.splits["test"][0].id == "103"
    write(path, {"images": [{"filename": "0.png", "sentences": ["a"]}]})
    with pytest.raises(DataFault, match="entry 0: sentences: entry 0 is not an object"):
        load_data(str(path))


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_the_first_answer_of_a_conversation_is_the_caption(images: Path, suffix: str) -> None:
    asked, answered = {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A mass."}
    rows: list[dict[str, object]] = [
        {"image": "images/0.png", "conversations": [asked, answered, asked, {"from": "gpt", "value": "Left."}]},
        {
            "images": ["images/1.png"],
            "messages": [{"role": "user"}, {"role": "assistant", "content": [{"type": "text", "text": "A cyst."}]}],
        },
        {"image": "images/2.png", "conversations": [asked]},
    ]
    found = []
    for row in rows:
        path = write(images / f"a.{suffix}", [row] if suffix == "json" else json.dumps(row))
        reading = read_annotations(path) if suffix == "json" else read_table(path)
        found.append((named(reading.splits["train"]), reading.notes[-1]))
    first = "The first answer of each conversation is its caption"
    assert found == [
        ([("0.png", "A mass.")], f"{first}; 1 conversations have further ones, which are not used."),
        ([("1.png", "A cyst.")], f"{first}."),
        ([], f"{first}."),
    ]


LISTS = [
    "['its' \"it's\"]", "array(['its', \"it's\"], dtype=object)", "[np.str_('its'), np.str_(\"it's\")]",
    '["its", "it\'s"]', "['its'\n \"it's\"]",
]  # fmt: skip


@pytest.mark.parametrize("cell", LISTS)
def test_lists_of_captions_in_cells_as_python_and_numpy_show_them(images: Path, cell: str) -> None:
    quoted = cell.replace('"', '""')
    reading = read_table(write(images / "a.csv", f'image,caption\nimages/0.png,"{quoted}"\n'))
    assert reading.splits["train"][0].references == ("its", "it's")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_lists_in_the_cells_of_tables(images: Path, suffix: str) -> None:
    names = ["images/0.png", "images/1.png"]
    rows = {
        "csv": f'image_path,report\n"{names}",one\n"[\'images/2.png\']",[a]\n',
        "jsonl": f'{{"image_path": {json.dumps(names)}, "report": "one"}}\n'
        '{"image_path": "images/2.png", "report": "[a]"}',
    }
    path = write(images / f"labels.{suffix}", rows[suffix])
    reading = read_table(path)
    assert named(reading.splits["train"]) == [("0.png", "one"), ("2.png", "[a]")]
    assert reading.notes == [f"1 rows of labels.{suffix} name several images; the first of each is used."]


DEEP = "[" * 100_000
LONG = "9" * 5000
MALFORMED = [
    ("", "is not JSON"),
    ("17\n18", "entry 0 is not an object"),
    ('{"columns": ["image"], "data": [3]}', "data is not a list of rows"),
    ('{"image": {"0": "a.png"}, "caption": "b"}', "caption is no column of cells"),
    (LONG, "Exceeds the limit"),
    (DEEP, "is nested too deeply"),
    ('{"a":' * 100_000, "is nested too deeply"),
    ("17", "no known layout"),
    ("{}", "no known layout"),
    ('{"images": 3, "annotations": []}', "images is not a list"),
    ('{"images": [4], "annotations": []}', "images: entry 0 is not an object"),
    ('{"images": [{"id": 1}], "annotations": []}', "images: entry 0 has no file_name"),
    ('{"images": [{"id": [1], "file_name": "a"}], "annotations": []}', "images: entry 0 has no id"),
    ('{"images": [], "annotations": [{"image_id": 1}]}', "no annotation has a caption: give COCO's file of captions"),
    ('{"train": {"a": 1}}', "train is not a list"),
    ('{"train": [5]}', "train: entry 0 is not an object"),
    ('[{"image": "0.png"}]', "no column for the caption"),
    ('[{"image": {"x": 1}, "caption": "a"}]', "line 1: image is not text"),
    ('[{"image": "images/0.png", "caption": 5, "id": {"x": []}}]', "train images/0.png: line 1: id is not text"),
    ('[{"image": "images/0.png", "caption": "a", "split": 3}]', "column split holds '3'"),
    ("[]", "is empty"),
]


def test_records_by_image_name(images: Path) -> None:
    content = {f"{index}.png": {"caption": str(index), "patient": "p"} for index in range(2)}
    (first, second) = read_annotations(write(images / "a.json", content)).splits["train"]
    assert (first.caption, second.caption, second.case) == ("0", "1", "p")


@pytest.mark.parametrize(("content", "reason"), MALFORMED)
def test_malformed_json_is_one_sentence(images: Path, content: str, reason: str) -> None:
    with pytest.raises(DataFault, match=reason) as caught:
        load_data(str(write(images / "a.json", content)))
    assert all("\n" not in fault for fault in caught.value.faults)


@pytest.mark.parametrize(("content", "reason"), [row for row in MALFORMED if len(row[0]) > 1000])
def test_malformed_json_lines_are_one_sentence(images: Path, content: str, reason: str) -> None:
    with pytest.raises(DataFault, match=f"a.jsonl line 1 .*{reason}|{reason}"):
        load_data(str(write(images / "a.jsonl", content)))


def test_other_encodings_of_json(images: Path) -> None:
    content = json.dumps([{"image": "0.png", "caption": "é"}], ensure_ascii=False)
    for encoding in ("utf-8-sig", "utf-16"):
        (images / "a.json").write_bytes(content.encode(encoding))
        assert named(read_annotations(images / "a.json").splits["train"]) == [("0.png", "é")]
    (images / "a.json").write_bytes(content.encode("cp1252"))
    with pytest.raises(DataFault, match=r"a\.json is not UTF-8 \(byte 32\): save it as UTF-8"):
        read_annotations(images / "a.json")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_pipe_is_no_data_set(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataFault, match="is no data set in a known layout"):
        load_data(str(tmp_path / name))


def test_a_text_file_beside_each_image(tmp_path: Path, draw_image: DrawImage) -> None:
    for split in ("train", "val", "test"):
        for index in range(3):
            image = draw_image(tmp_path / split / f"{index}.png", index)
            if index < 2:
                write(image.with_suffix(".txt"), f"\ufeff{split}\n{index}")
    (tmp_path / "val" / "1.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "test" / "1.txt").rename(tmp_path / "test" / "1.TXT").write_text("test 1", "utf-16")
    (tmp_path / "test" / "0.txt").rename(tmp_path / "test" / "0.png.txt")
    data = load_data(str(tmp_path))
    assert data.kind == "images with a text file beside each"
    assert [named(records) for records in data.splits.values()] == [
        [("0.png", "train 0"), ("1.png", "train 1")],
        [("0.png", "val 0")],
        [("0.png", "test 0"), ("1.png", "test 1")],
    ]
    assert SkippedRecord("train", "train/2.png", "there is no 2.txt beside it") in data.skipped
    assert SkippedRecord("validation", "val/1.png", "1.txt is not UTF-8, UTF-16 or cp1252 (byte 2)") in data.skipped
    assert "1 text files are not UTF-8; they were read as UTF-16." in data.notes
    assert read_text_files(tmp_path / "val").splits.keys() == {"train"}


def test_the_two_tables_of_iu_xray(tmp_path: Path, draw_image: DrawImage) -> None:
    reports = "uid,MeSH,findings,impression\n1,normal,Clear lungs.,No disease.\n2,x,,Nodule.\n3,x,Mass.,\n4,x,,\n"
    write(tmp_path / "indiana_reports.csv", reports)
    projections = ["uid,filename,projection"]
    for index, (uid, projection) in enumerate(
        [("1", "Frontal"), ("1", "Lateral"), ("2", "Frontal"), ("3", "Lateral"), ("4", "Frontal"), ("5", "Frontal")]
    ):
        draw_image(tmp_path / "images" / "images_normalized" / f"{index}_IM-0001-4001.dcm.png", index)
        projections.append(f"{uid},{index}_IM-0001-4001.dcm.png,{projection}")
    write(tmp_path / "indiana_projections.csv", "\n".join([*projections, "1,absent.png,Frontal"]))
    reading = read_iu_xray(tmp_path / "indiana_reports.csv")
    assert named(reading.splits["train"]) == [
        ("0_IM-0001-4001.dcm.png", "Clear lungs. No disease."),
        ("2_IM-0001-4001.dcm.png", "Nodule."),
    ]
    assert [record.case for record in reading.splits["train"]] == ["1", "2"]
    assert [(record.id[:1], record.reason) for record in reading.skipped] == [
        ("4", "empty caption"),
        ("5", "study '5' is not in indiana_reports.csv"),
        ("a", f"image 'absent.png' not found in {tmp_path}"),
    ]
    assert reading.notes == ["2 lateral images were not used; 1 studies have no frontal image."]
    (tmp_path / "indiana_projections.csv").unlink()
    with pytest.raises(DataFault, match=r"indiana_projections\.csv is missing: IU X-Ray needs"):
        load_data(str(tmp_path))
