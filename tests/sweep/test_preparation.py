"""Before the first trial: faults that show at once, what is listed of the data."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcap_core.data.prepare import TooManyBadRecords
from medcap_core.errors import ModelFault
from sweep.preparation import check_before_start, prepare_run
from sweep.space import build_space
from sweep.study import Study
from tests.sweep.real_runs import Materials, quiet_view


def test_every_way_to_use_the_model_is_tried_before_the_start(materials: Materials) -> None:
    values = {
        "name": "any",
        "data": str(materials.images),
        "model": str(materials.model),
        "fixed": {"max_caption_tokens": 16, "max_new_tokens": 10},
    }
    check_before_start(build_space(values, "test"))
    with pytest.raises(ModelFault, match="image_size 50 is no multiple of the 16-pixel patches"):
        check_before_start(build_space(values | {"search": {"image_size": {"choice": [48, 50]}}}, "test"))


def test_a_run_with_too_many_bad_records_keeps_the_list(
    create: Callable[..., Study], materials: Materials, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    for split, count in (("train", 6), ("validation", 3), ("test", 3)):
        (images / split).mkdir(parents=True)
        rows = [f"{index}.png,a lung" for index in range(count)]
        (images / split / "metadata.csv").write_text("\n".join(["file_name,text", *rows]) + "\n")
        for index in range(count):
            Image.new("L", (9, 9), 20 * index).save(images / split / f"{index}.png")
    (images / "train" / "4.png").write_bytes(b"no image")
    study = create(build_space({"name": "any", "data": str(images), "model": str(materials.model)}, "test"))
    with pytest.raises(TooManyBadRecords) as raised:
        prepare_run(study, quiet_view())
    assert "8.3% of the records cannot be used" in raised.value.faults[0]
    assert raised.value.faults[-1] == f"All are listed in {study.directory / 'skipped_records.csv'}."
    with (study.directory / "skipped_records.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["split"], row["id"]) == ("train", "4.png")


def test_duplicates_are_listed_before_training(
    create: Callable[..., Study], materials: Materials, tmp_path: Path
) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (11, 40, 40), dtype=np.uint8)
    for split, images in {"train": noise[:6], "validation": noise[6:8], "test": noise[[3, 8, 9]]}.items():
        (tmp_path / "images" / split).mkdir(parents=True)
        rows = [f"{index}.png,a lung" for index in range(len(images))]
        (tmp_path / "images" / split / "metadata.csv").write_text("\n".join(["file_name,text", *rows]) + "\n")
        for index, pixels in enumerate(images):
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{index}.png")
    values = {"name": "any", "data": str(tmp_path / "images"), "model": str(materials.model)}
    dropping = build_space(values | {"fixed": {"drop_duplicate_train_images": True}}, "test")
    for name, space, num_train in (("listed", build_space(values, "test"), 6), ("dropped", dropping, 5)):
        study = create(space, name)
        data = prepare_run(study, quiet_view())
        assert (study.directory / "duplicate_images.csv").read_text().splitlines()[1:] == [
            "train,3.png,test,0.png,exact,0"
        ]
        assert len(data.splits["train"]) == num_train
        assert study.directory.joinpath("skipped_records.csv").read_text().count("duplicate") == 6 - num_train
