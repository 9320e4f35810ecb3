"""A config's draw of records, their images, and what is left out."""

import csv
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from medcap_core.config import TrialConfig
from medcap_core.data.images import ImageGeometry
from medcap_core.data.prepare import PreparedData, TooManyBadRecords, judge_records, prepare_data, write_skipped
from medcap_core.data.records import SkippedRecord
from medcap_core.errors import DataFault
from tests.medcap_core.data.conftest import DrawImage

GEOMETRY = ImageGeometry(size=3)
ALL = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path, draw_image: DrawImage) -> Path:
    """An image folder of 50 + 20 + 10 images; the level of each is its number."""
    for split, start, count in (("train", 0, 50), ("validation", 100, 20), ("test", 200, 10)):
        rows = ["file_name,caption"]
        for number in range(start, start + count):
            draw_image(tmp_path / "f" / split / f"{number}.png", number)
            rows.append(f"{number}.png,caption {number}")
        (tmp_path / "f" / split / "metadata.csv").write_text("\n".join(rows))
    return tmp_path / "f"


def levels(data: PreparedData, split: str) -> list[int]:
    return data.splits[split].pixels(slice(None))[:, 0, 0, 0].tolist()


def test_everything_is_aligned(folder: Path) -> None:
    data = prepare_data(TrialConfig(data=str(folder)), GEOMETRY, splits=ALL)
    assert data.name == str(folder)
    assert data.kind == "image folder with metadata files"
    train = data.splits["train"]
    assert (len(train), train.split) == (50, "train")
    assert levels(data, "train") == list(range(50))
    assert train.ids == [f"{number}.png" for number in range(50)]
    assert train.captions == [f"caption {number}" for number in range(50)]
    batch = train.pixels([7, 3])
    assert batch.shape == (2, 3, 3, 3)
    assert batch[:, 1, 2, 2].tolist() == train.pixels(np.array([7, 3]))[:, 0, 0, 0].tolist() == [7, 3]
    assert data.skipped == []


def test_draws_and_caps(folder: Path) -> None:
    config = TrialConfig(data=str(folder), data_fraction=0.2, max_validation_images=5, max_test_images=4)
    data = prepare_data(config, GEOMETRY, splits=ALL)
    assert [len(data.splits[split]) for split in ALL] == [10, 5, 4]
    assert [f"{level}.png" for level in levels(data, "train")] == data.splits["train"].ids
    whole = prepare_data(config, GEOMETRY, whole_validation=True)
    assert list(whole.splits) == ["train", "validation"]
    assert len(whole.splits["validation"]) == 20
    capped = prepare_data(config.model_copy(update={"max_train_images": 6}), GEOMETRY)
    assert len(capped.splits["train"]) == 6
    assert set(capped.splits["train"].ids) < set(data.splits["train"].ids)


def test_the_trials_seed_moves_nothing(folder: Path) -> None:
    first, second = (
        prepare_data(TrialConfig(data=str(folder), data_fraction=0.3, max_validation_images=4, seed=seed), GEOMETRY)
        for seed in (0, 99)
    )
    assert [part.ids for part in first.splits.values()] == [part.ids for part in second.splits.values()]


def test_a_larger_fraction_decodes_only_what_is_new(folder: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    for fraction in (0.2, 0.6):
        config = TrialConfig(data=str(folder), data_fraction=fraction)
        prepare_data(config, GEOMETRY, splits=["train"], progress=lambda *call: calls.append(call))
    assert {(what, total) for what, _, total in calls} == {("decoding train images at 3 px", n) for n in (10, 20)}


def test_bad_records_are_left_out_and_listed(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "7.png").write_bytes(b"junk")
    (folder / "train" / "8.png").unlink()
    data = prepare_data(TrialConfig(data=str(folder)), GEOMETRY)
    assert levels(data, "train") == [number for number in range(50) if number not in (7, 8)]
    assert data.splits["train"].ids == [f"{level}.png" for level in levels(data, "train")]
    write_skipped(data.skipped, tmp_path / "skipped.csv")
    with (tmp_path / "skipped.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["split", "id", "reason"],
            ["train", "8.png", f"image file '8.png' not found in {folder / 'train'}; the nearest name is '48.png'"],
            ["train", "7.png", "unreadable image: not an image, or damaged from its first bytes on"],
        ]


def test_too_many_bad_records_stop_with_the_list(folder: Path) -> None:
    for number in range(7):
        (folder / "train" / f"{number}.png").write_bytes(b"junk")
    for number in range(100, 106):
        (folder / "validation" / f"{number}.png").unlink()
    with pytest.raises(TooManyBadRecords) as caught:
        judge_records(TrialConfig(data=str(folder)), GEOMETRY)
    faults = caught.value.faults
    # Of all splits 6 of 80 missing when read, 7 of the 74 others unreadable.
    assert faults[0] == (
        f"{folder}: 16.2% of the records of all splits cannot be used (train 7 of 50, validation 6 of 20, test 0 of "
        "10), but max_bad_record_share is 0.05: mend them, or raise max_bad_record_share if they are lost for good, "
        "and give the command again."
    )
    assert len(faults) == 12
    lacking = f"image file '100.png' not found in {folder / 'validation'}; the nearest name is '110.png'"
    assert faults[1] == f"validation 100.png: {lacking}"
    assert faults[11] == "... and 3 more"
    assert len(caught.value.skipped) == 13
    damaged = "unreadable image: not an image, or damaged from its first bytes on"
    assert caught.value.skipped[12] == SkippedRecord("train", "6.png", damaged)
    assert pickle.loads(pickle.dumps(caught.value)).faults == faults
    assert len(judge_records(TrialConfig(data=str(folder), max_bad_record_share=0.2), GEOMETRY)) == 13


def test_a_step_has_no_share_of_its_own(folder: Path) -> None:
    for number in range(100, 103):
        (folder / "validation" / f"{number}.png").write_bytes(b"junk")
    config = TrialConfig(data=str(folder))
    assert len(judge_records(config, GEOMETRY)) == 3  # 4% of all records, though 15% of validation
    assert len(prepare_data(config, GEOMETRY, splits=["validation"]).splits["validation"]) == 17


def test_missing_images_weigh_the_same_in_a_small_draw(folder: Path) -> None:
    (folder / "train" / "8.png").unlink()
    (folder / "train" / "9.png").unlink()  # 2 of 50 are 4%, though a tenth of train is 5 images
    config = TrialConfig(data=str(folder), data_fraction=0.1)
    assert len(judge_records(config, GEOMETRY)) == 2
    assert len(prepare_data(config, GEOMETRY, splits=["train"]).splits["train"]) == 5


def test_a_split_needs_two_images(folder: Path) -> None:
    with pytest.raises(DataFault, match="the train split has 1 usable images, but at least 2 are needed"):
        prepare_data(TrialConfig(data=str(folder), max_train_images=1), GEOMETRY)


def test_a_prepared_split_can_be_pickled(folder: Path) -> None:
    data = prepare_data(TrialConfig(data=str(folder)), GEOMETRY)
    data.splits["train"].pixels([0])
    dump = pickle.dumps(data)
    assert levels(pickle.loads(dump), "validation") == list(range(100, 120))


@pytest.mark.slow
def test_sixty_thousand_records_are_cheap_after_the_first_call(tmp_path: Path, draw_image: DrawImage) -> None:
    draw_image(tmp_path / "x.png", 5)
    for number in range(60_006):
        os.link(tmp_path / "x.png", tmp_path / f"{number}.png")
    rows = "".join(f"{number}.png,caption {number},train,id{number}\n" for number in range(60_000))
    splits = ("val", "val", "val", "test", "test", "test")
    rest = "".join(f"{60_000 + number}.png,text,{split},{split}{number}\n" for number, split in enumerate(splits))
    (tmp_path / "d.csv").write_text("path,caption,split,id\n" + rows + rest)
    config = TrialConfig(data=str(tmp_path / "d.csv"), data_fraction=0.001)
    prepare_data(config, GEOMETRY)
    start = time.process_time()
    assert len(prepare_data(config, GEOMETRY).splits["train"]) == 60
    assert time.process_time() - start < 0.3


def test_records_of_shared_cases_are_dropped_and_listed_but_not_bad(tmp_path: Path, draw_image: DrawImage) -> None:
    rows = []
    for number in range(20):
        draw_image(tmp_path / f"{number}.png", number)
        split = "train" if number < 16 else ("val", "test")[number % 2]
        rows.append(f"{number}.png,caption {number},{split},p{number if number < 8 else number % 8 + 4}\n")
    (tmp_path / "d.csv").write_text("path,caption,split,patient\n" + "".join(rows))
    config = TrialConfig(data=str(tmp_path / "d.csv"), drop_shared_cases=True, max_bad_record_share=0)
    data = prepare_data(config, GEOMETRY, splits=["train", "validation", "test"])
    cases = {name: {record.case for record in part.records} for name, part in data.splits.items()}
    assert not cases["train"] & (cases["validation"] | cases["test"])
    assert {record.reason for record in data.skipped} >= {"test has its case p5 too"}
    assert len(data.skipped) + sum(map(len, data.splits.values())) == 20
    assert judge_records(config, GEOMETRY) == []
    with pytest.raises(DataFault, match="cases have images in more than one split"):
        prepare_data(TrialConfig(data=str(tmp_path / "d.csv")), GEOMETRY)


def test_columns_of_ones_own_reach_the_reader(tmp_path: Path, draw_image: DrawImage) -> None:
    rows = [f"{draw_image(tmp_path / f'{n}.png', n).name},text {n},Befund {n}\n" for n in range(20)]
    (tmp_path / "d.csv").write_text("bild,text,befund\n" + "".join(rows))
    config = TrialConfig(data=str(tmp_path / "d.csv"), image_column="bild", caption_column="befund")
    assert all(caption.startswith("Befund") for caption in prepare_data(config, GEOMETRY).splits["train"].captions)
    with pytest.raises(DataFault, match=r"no column for the image .*; name yours by image_column"):
        prepare_data(TrialConfig(data=str(tmp_path / "d.csv")), GEOMETRY)
