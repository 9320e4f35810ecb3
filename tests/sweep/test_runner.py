"""The steps of a run that need no trials: faults before it, its log, and a run in which nothing succeeded."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcap_core.data.prepare import TooManyBadRecords
from medcap_core.errors import ConfigFault, ModelFault
from sweep.cluster import TrialResources
from sweep.runner import EveryTrialFailed, check_before_start, choose_best, discard_unused, prepare_run
from sweep.space import build_space
from sweep.study import Study
from sweep.trial_record import TrialState
from tests.sweep.real_runs import Materials, quiet_view

ONE = TrialResources(num_workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent=1)


def test_what_a_fault_left_empty_is_removed(create: Callable[..., Study]) -> None:
    study = create(build_space({"name": "any"}, "test"), "unused")
    discard_unused(study.directory, TooManyBadRecords("5 of 9"))
    assert study.directory.is_dir()
    discard_unused(study.directory, ConfigFault("no"))
    assert not study.directory.exists()


def test_a_run_with_trials_is_kept(create: Callable[..., Study]) -> None:
    study = create(build_space({"name": "any"}, "test"))
    study.propose()
    discard_unused(study.directory, ConfigFault("no"))
    assert (study.directory / "trials" / "trial_0000" / "trial.json").is_file()


def test_a_run_without_a_model_says_why(create: Callable[..., Study]) -> None:
    study = create(
        build_space({"name": "any", "search": {"learning_rate": {"uniform": [0.1, 0.2]}}, "trials": 3}, "test")
    )
    for reason in ("No memory left.", "The loss was not finite.", "No memory left."):
        record = study.propose()
        assert record is not None
        study.start(record.name)
        study.finish(record.name, TrialState.FAILED, reason)
    with pytest.raises(EveryTrialFailed, match=r"gave a model: No memory left\. / The loss was not finite\.$"):
        choose_best(study, ONE, quiet_view())


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
