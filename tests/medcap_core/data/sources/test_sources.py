"""Every layout is recognised, named and read; what cannot be read is a clear fault."""

import shutil
import zipfile
from pathlib import Path

import pytest

from medcap_core.config import TrialConfig
from medcap_core.data.phantoms import load_phantoms
from medcap_core.data.records import SkippedRecord, SplitName
from medcap_core.data.sources import load_data
from medcap_core.errors import DataFault
from tests.medcap_core.data.conftest import DrawImage
from tests.support.data_sets import level, levels, sizes

PREFIXES: dict[SplitName, str] = {"train": "train", "validation": "valid", "test": "test"}


def build_rocov2(root: Path, draw_image: DrawImage, place: str = "{prefix}_images") -> Path:
    """Three images a split, ids with gaps, the third without its image."""
    for number, prefix in enumerate(PREFIXES.values()):
        ids = [f"ROCOv2_2023_{prefix}_{index:06d}" for index in (1, 2, 6)]
        for index, name in enumerate(ids[:2]):
            draw_image(root / place.format(prefix=prefix) / f"{name}.jpg", 100 * number + index)
        captions = [f"{ids[0]},plain", f'{ids[1]},"  quoted, ""raw""\xa0end "', f"{ids[2]},lost"]
        (root / f"{prefix}_captions.csv").write_text("\n".join(["ID,Caption", *captions, ""]), "utf-8")
    (root / "train_concepts.csv").write_text("ID,CUIs\nROCOv2_2023_train_000001,C0040405;C0856747\n", "utf-8")
    return root


@pytest.mark.parametrize("place", ["{prefix}_images", "{prefix}", "{prefix}_images/{prefix}", "{prefix}_images/images"])
def test_rocov2_from_zenodo(tmp_path: Path, draw_image: DrawImage, place: str) -> None:
    data = load_data(str(build_rocov2(tmp_path / "r", draw_image, place)))
    assert data.kind == "ROCOv2, Zenodo folder"
    assert levels(data) == [[0, 1], [100, 101], [200, 201]]
    first, second = data.splits["train"]
    assert (first.id, first.truth) == ("ROCOv2_2023_train_000001", {"concepts": ["C0040405", "C0856747"]})
    assert (second.caption, second.truth) == ('quoted, "raw" end', {})
    assert [(record.split, record.id) for record in data.skipped] == [
        (split, f"ROCOv2_2023_{prefix}_000006") for split, prefix in PREFIXES.items()
    ]


def test_rocov2_still_zipped(tmp_path: Path, draw_image: DrawImage) -> None:
    root = build_rocov2(tmp_path / "r", draw_image)
    for prefix in PREFIXES.values():
        with zipfile.ZipFile(root / f"{prefix}_images.zip", "w") as archive:
            for image in sorted((root / f"{prefix}_images").iterdir()):
                archive.writestr(f"__MACOSX/{prefix}/{image.name}", b"junk")
                archive.write(image, f"{prefix}/{image.name}")
        shutil.rmtree(root / f"{prefix}_images")
    data = load_data(str(root))
    assert levels(data) == [[0, 1], [100, 101], [200, 201]]
    prints = {record.image.fingerprint() for part in data.splits.values() for record in part}
    assert len(prints) == 6
    (root / "test_images.zip").write_bytes((root / "test_images.zip").read_bytes()[:200])
    shutil.copytree(root, tmp_path / "cut")
    with pytest.raises(DataFault, match=r"test_images\.zip is not a whole zip archive"):
        load_data(str(tmp_path / "cut"))


def test_rocov2_without_images_says_where_it_looked(tmp_path: Path, draw_image: DrawImage) -> None:
    root = build_rocov2(tmp_path / "r", draw_image)
    shutil.rmtree(root / "valid_images")
    with pytest.raises(DataFault, match=r"valid_captions\.csv has no images .*valid_images/, valid/ and valid_ima"):
        load_data(str(root))


def build_roco(root: Path, draw_image: DrawImage) -> Path:
    for number, split in enumerate(("train", "validation", "test")):
        place = root / split / "radiology"
        for index in range(3):
            draw_image(place / "images" / f"ROCO_{number}000{index}.jpg", 50 * number + index)
        lines = [
            f'ROCO_{number}0000\t "raw quote, 5" \x0bwide\r',
            f"ROCO_{number}0001\t  Épanchement\ttab",
            f"ROCO_{number}0002\t ",
            f"ROCO_{number}0009\t image gone",
        ]
        (place / "captions.txt").write_bytes(("\n".join(lines) + "\n").encode())
        (place / "cuis.txt").write_text(f"ROCO_{number}0000\t\tC001\tC002\n")
        other = root / split / "non-radiology"
        draw_image(other / "images" / "ROCO_9.jpg", 9)
        (other / "captions.txt").write_text("ROCO_9\t never read\n")
    return root


@pytest.mark.parametrize("folder", ["data", "."])
def test_roco_original(tmp_path: Path, draw_image: DrawImage, folder: str) -> None:
    build_roco(tmp_path / "r" / folder, draw_image)
    data = load_data(str(tmp_path / "r"))
    assert data.kind == "ROCO v1, original layout"
    assert levels(data) == [[0, 1], [50, 51], [100, 101]]
    first, second = data.splits["train"]
    assert (first.id, first.caption) == ("ROCO_00000", '"raw quote, 5" wide')
    assert first.truth == {"concepts": ["C001", "C002"]}
    assert second.caption == "Épanchement tab"
    images = tmp_path / "r" / folder / "train" / "radiology" / "images"
    assert [record for record in data.skipped if record.split == "train"] == [
        SkippedRecord("train", "ROCO_00002", "empty caption"),
        SkippedRecord("train", "ROCO_00009", f"image file not found in {images.resolve()}"),
    ]


def test_roco_images_under_the_names_its_own_script_gives(tmp_path: Path, draw_image: DrawImage) -> None:
    root = build_roco(tmp_path / "r" / "data", draw_image)
    place = root / "train" / "radiology"
    (place / "images" / "ROCO_00000.jpg").rename(place / "images" / "PMC46_cro-0008.g01.jpg")
    (place / "images" / "ROCO_00001.jpg").rename(place / "images" / "PMC47_b.jpg")
    (place / "dlinks.txt").write_text("ROCO_00000\twget -r ftp://x/8d/34/PMC46.tar.gz -P /d\tcro-0008.g01.jpg\n")
    (place / "licences.txt").write_text("ROCO_ID,PMC_ID,CC\nROCO_00001,PMC47_b.jpg,CC BY\n")
    data = load_data(str(tmp_path / "r"))
    assert levels(data)[0] == [0, 1]
    assert [record.case for record in data.splits["train"]] == ["PMC46", "PMC47"]
    assert data.notes == []
    test = root / "test" / "radiology"
    (test / "dlinks.txt").write_text("ROCO_20000\twget -r ftp://x/8d/34/PMC47.tar.gz -P /d\tc.jpg\n")
    (test / "images" / "ROCO_20000.jpg").rename(test / "images" / "PMC47_c.jpg")
    assert load_data(str(tmp_path / "r")).notes == [
        "1 of 2 test images (50.0%) share a case with train; drop_shared_cases: true drops those cases from train."
    ]
    dropped = load_data(str(tmp_path / "r"), drop_shared_cases=True)
    assert levels(dropped) == [[0], [50, 51], [100, 101]]
    assert dropped.dropped == [SkippedRecord("train", "ROCO_00001", "test has its case PMC47 too")]


def test_rocov2_takes_the_article_of_its_licence_table_as_case(tmp_path: Path, draw_image: DrawImage) -> None:
    root = build_rocov2(tmp_path / "r", draw_image)
    rows = [
        "ROCOv2_2023_train_000001,CC BY,https://www.ncbi.nlm.nih.gov/pmc/articles/PMC12/",
        "ROCOv2_2023_test_000001,CC BY,PMC12",
        "ROCOv2_2023_test_000002,CC BY,https://doi.org/10.1155/2016/AB.",
    ]
    (root / "license_information.csv").write_text("\n".join(["ID,License,Source", *rows]))
    data = load_data(str(root))
    cases = {record.id: record.case for part in data.splits.values() for record in part if record.case}
    assert cases == {
        "ROCOv2_2023_train_000001": "PMC12",
        "ROCOv2_2023_test_000001": "PMC12",
        "ROCOv2_2023_test_000002": "10.1155/2016/ab",
    }
    assert data.notes[0].startswith("1 of 2 test images (50.0%) share a case with train")


def test_roco_without_images_is_a_fault(tmp_path: Path, draw_image: DrawImage) -> None:
    build_roco(tmp_path / "r", draw_image)
    shutil.rmtree(tmp_path / "r" / "test" / "radiology" / "images")
    with pytest.raises(DataFault, match=r"test/radiology has captions but no folder images/"):
        load_data(str(tmp_path / "r"))


@pytest.mark.parametrize("pattern", ["radiology{name}data.csv", "radiology/{name}data.csv"])
@pytest.mark.parametrize("ask_for", ["r", "r/all_data"])
def test_roco_repacked(tmp_path: Path, draw_image: DrawImage, pattern: str, ask_for: str) -> None:
    root = build_roco(tmp_path / "r" / "all_data", draw_image)  # it keeps the original captions.txt
    for number, (split, name) in enumerate([("train", "train"), ("validation", "val"), ("test", "test")]):
        draw_image(root / split / "radiology" / "images" / f"PMC{number}_a.g1.jpg", 60 + number)
        rows = ["id,name,caption", f'ROCO_{number}1,PMC{number}_a.g1.jpg," spaced, ""x"""', "ROCO_2,PMC_gone.jpg,lost"]
        (root / split / pattern.format(name=name)).write_text("\n".join(rows) + "\n")
    data = load_data(str(tmp_path / ask_for))
    assert data.kind == "ROCO v1, repacked with CSV files"
    assert levels(data) == [[60], [61], [62]]
    assert (data.splits["train"][0].id, data.splits["train"][0].caption) == ("ROCO_01", 'spaced, "x"')
    assert len(data.skipped) == 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_image_folder(tmp_path: Path, draw_image: DrawImage, suffix: str) -> None:
    for number, split in enumerate(("train", "val", "test")):
        draw_image(tmp_path / "f" / split / "x.1.png", 20 + number)
        rows = {
            "csv": f"file_name,caption,case_id\nx.1.png,seen,c{number}\n",
            "jsonl": '{"file_name": "x.1.png", "text": "seen"}\n',
        }
        (tmp_path / "f" / split / f"metadata.{suffix}").write_text(rows[suffix])
    data = load_data(str(tmp_path / "f"))
    assert data.kind == "image folder with metadata files"
    assert levels(data) == [[20], [21], [22]]
    assert data.splits["train"][0].case == ("c0" if suffix == "csv" else None)
    assert data.notes == []


def test_image_folder_with_one_metadata_file_at_its_root(tmp_path: Path, draw_image: DrawImage) -> None:
    rows = ["file_name,text,case_id"]
    for index in range(20):
        draw_image(tmp_path / "f" / f"{index}.png", index)
        rows.append(f"{index}.png,caption {index},case {index // 2}")
    (tmp_path / "f" / "metadata.csv").write_text("\n".join(rows))
    data = load_data(str(tmp_path / "f"))
    assert sizes(data) == [16, 2, 2]
    assert sorted(level for part in levels(data) for level in part) == list(range(20))
    assert len({record.case for record in data.splits["validation"]}) == 1
    assert [note.split(":")[0] for note in data.notes] == ["There is no test split", "There is no validation split"]
    assert load_data(str(tmp_path / "f")).splits == data.splits
    assert load_data(str(tmp_path / "f"), seed=1).splits != data.splits


def test_two_metadata_files_are_a_fault(tmp_path: Path) -> None:
    for suffix in ("csv", "jsonl"):
        (tmp_path / f"metadata.{suffix}").write_text("")
    with pytest.raises(DataFault, match=r"holds metadata\.csv and metadata\.jsonl: keep one"):
        load_data(str(tmp_path))


def test_names_and_paths_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataFault, match="does not exist and is no name of a data set"):
        load_data(str(tmp_path / "absent"))
    with pytest.raises(DataFault, match="'~nobody-here' does not exist and is no name of a data set"):
        load_data(TrialConfig(data="~nobody-here").data)
    with pytest.raises(DataFault, match=r"no data set in a known layout; looked for .*ROCOv2 folder.*parquet"):
        load_data(str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    for name in ("rocov2", "some-owner/no-such-set"):
        with pytest.raises(DataFault, match=r"no copy of it in the Hub cache .* cannot be reached: load it once"):
            load_data(name)


def test_a_source_without_one_usable_record_says_why(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("path,caption\nx.png,seen\n")
    with pytest.raises(DataFault, match=r"no usable record; 1 were left out, such as train x\.png: image file 'x\."):
        load_data(str(tmp_path / "data.csv"))
    (tmp_path / "data.csv").write_text("path,caption\n")
    with pytest.raises(DataFault, match=r"no usable record; 0 were left out\."):
        load_data(str(tmp_path / "data.csv"))


def test_phantoms_by_name() -> None:
    data = load_data("phantoms", seed=3)
    assert data.name == "phantoms"
    assert "synthetic" in data.kind
    assert len({record.id for part in data.splits.values() for record in part}) == sum(map(len, data.splits.values()))
    assert data.splits["train"][:1] == load_phantoms("target", {"train": 1}, seed=3).splits["train"]


def test_real_rocov2_rows(sample_data: Path, tmp_path: Path, draw_image: DrawImage) -> None:
    for path in (sample_data / "formats" / "rocov2").iterdir():
        shutil.copy(path, tmp_path / path.name)
    lines = (tmp_path / "test_captions.csv").read_text("utf-8").split("\n")
    ids = [line.partition(",")[0] for line in lines if line.startswith("ROCOv2")]
    for name in ids:
        draw_image(tmp_path / "test_images" / f"{name}.jpg", 8)
    data = load_data(str(tmp_path))
    records = {record.id: record for part in data.splits.values() for record in part}
    assert sorted(records) == sorted(ids)
    assert len(ids) == 12
    assert data.skipped == []
    assert all(record.caption == " ".join(record.caption.split()) for record in records.values())
    assert max(len(record.caption.split()) for record in records.values()) > 50
    assert records["ROCOv2_2023_test_000001"].truth == {
        "concepts": ["C0040405", "C0856747"],
        "concept_names": {"C0856747": "Aneurysm, Ascending Aorta"},  # the sample names few
    }


def test_real_roco_rows(sample_data: Path, tmp_path: Path, draw_image: DrawImage) -> None:
    place = tmp_path / "data" / "train" / "radiology"
    place.mkdir(parents=True)
    for path in (sample_data / "formats" / "roco_v1").iterdir():
        shutil.copy(path, place / path.name)
    lines = (place / "captions.txt").read_bytes().decode().rstrip("\n").split("\n")
    for index, line in enumerate(lines):
        name = line.partition("\t")[0]
        if index % 2:
            draw_image(place / "images" / f"{name}.jpg", index)
        else:
            licence = next(row for row in (place / "licences.txt").read_text().split("\n") if row.startswith(name))
            draw_image(place / "images" / licence.split(",")[1], index)
    data = load_data(str(tmp_path))
    records = [record for part in data.splits.values() for record in part]
    assert len(lines) - len(records) <= 1  # licences.txt starts with a header and ends one row early
    assert {record.id: level(record) for record in records}.items() <= {
        line.partition("\t")[0]: index for index, line in enumerate(lines)
    }.items()


def test_real_image_folder(sample_data: Path) -> None:
    data = load_data(str(sample_data / "data" / "medpix2"))
    assert sizes(data) == [1474, 164, 191]
    assert data.skipped == []
    assert len({record.case for record in data.splits["train"]}) == 473
    assert set(data.splits["train"][0].truth) == {"modality", "region", "plane"}


@pytest.mark.parametrize("name", ["1.dcm", "patient/series/IM0001"])
def test_dicom_files_without_captions_are_told_what_they_lack(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataFault, match=r"holds DICOM files but no captions: write a CSV file with the columns path"):
        load_data(str(tmp_path))
