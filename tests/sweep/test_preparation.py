"""Before the first trial: faults that show at once, what is listed of the data."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from medcap_core.data import prepare
from medcap_core.data.prepare import TooManyBadRecords
from medcap_core.errors import ConfigFault, ModelFault, RunFault
from medcap_core.models import load_trial_captioner
from medcap_core.runtime import device
from medcap_core.training.validation import build_request, find_scored
from sweep.execution.jobs import PredictionJob, predict_here
from sweep.preparation import check_before_start, check_evaluation, prepare_run
from sweep.space import SearchSpace, build_config, build_space
from tests.medcap_core.training.test_validation import ANSWERS, let_answer
from tests.support.real_runs import Materials, quiet_view
from tests.support.scans import write_scans
from tests.support.small_runs import Create
from tests.sweep.test_runner import ONE

SHORT = {"max_caption_tokens": 16, "max_new_tokens": 10}


def space_of(materials: Materials, data: Path | str | None = None, **others: Any) -> SearchSpace:
    """A space over the tiny model."""
    values = {"name": "any", "data": str(data or materials.images), "model": str(materials.model)}
    return build_space(values | others, "test")


def write_splits(folder: Path, caption: str, images: dict[str, Sequence[NDArray[np.uint8]]]) -> Path:
    """Folders of images by split, all with one caption."""
    for split, own in images.items():
        (folder / split).mkdir(parents=True)
        rows = [f"{index}.png,{caption}" for index in range(len(own))]
        (folder / split / "metadata.csv").write_text("\n".join(["file_name,text", *rows]) + "\n")
        for index, pixels in enumerate(own):
            Image.fromarray(pixels).save(folder / split / f"{index}.png")
    return folder


def draw_grey(count: int) -> list[NDArray[np.uint8]]:
    return [np.full((9, 9), 20 * index, dtype=np.uint8) for index in range(count)]


def test_every_way_to_use_the_model_is_tried_before_the_start(materials: Materials) -> None:
    assert check_before_start(space_of(materials, fixed=SHORT)) == []
    with pytest.raises(ModelFault, match="image_size 50 is no multiple of the 16-pixel patches"):
        check_before_start(space_of(materials, fixed=SHORT, search={"image_size": {"choice": [48, 50]}}))


def test_captions_that_are_cut_are_counted(materials: Materials) -> None:
    fixed = {"max_caption_tokens": 8, "max_new_tokens": 6, "prompt": ""}
    (note,) = check_before_start(space_of(materials, fixed=fixed))
    counted = r"Captions       \d+ of 22 training captions are cut to max_caption_tokens 8; the longest has \d+ tokens"
    assert re.fullmatch(counted, note)
    assert check_before_start(space_of(materials, fixed=fixed | {"freeze": "zero_shot"})) == []


def test_captions_that_cider_cannot_rank_are_told_before_the_start(materials: Materials, tmp_path: Path) -> None:
    write_splits(tmp_path, "no acute finding", dict.fromkeys(("train", "validation", "test"), draw_grey(3)))
    (note,) = check_before_start(space_of(materials, tmp_path, fixed=SHORT))
    assert note.startswith("Captions       3 of 3 validation captions are alike: an exact copy has CIDEr 0.000")


@pytest.mark.parametrize("instruction", ["avx512_bf16", "amx_bf16", None])
def test_a_large_model_is_offered_bf16_on_a_cpu_that_has_it(
    materials: Materials, monkeypatch: pytest.MonkeyPatch, instruction: str | None
) -> None:
    monkeypatch.setattr(device, "_FEW_PARAMETERS", 0)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instruction: True, "avx2": True}, raising=False)
    notes = check_before_start(space_of(materials, fixed=SHORT))
    assert [note for note in notes if "--set precision=bf16" in note] == notes
    assert len(notes) == (instruction is not None)
    assert check_before_start(space_of(materials, fixed=SHORT | {"precision": "fp32"})) == []


def test_a_run_with_too_many_bad_records_keeps_the_list(create: Create, materials: Materials, tmp_path: Path) -> None:
    drawn = {"train": draw_grey(6), "validation": draw_grey(3), "test": draw_grey(3)}
    images = write_splits(tmp_path / "images", "a lung", drawn)
    (images / "train" / "4.png").write_bytes(b"no image")
    study = create(space_of(materials, images))
    with pytest.raises(TooManyBadRecords) as raised:
        prepare_run(study, quiet_view())
    assert "8.3% of the records of all splits cannot be used (train 1 of 6, validation 0 of 3" in raised.value.faults[0]
    assert raised.value.faults[-1] == f"All are listed in {study.directory / 'skipped_records.csv'}."
    with (study.directory / "skipped_records.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["split"], row["id"]) == ("train", "4.png")


def write_table(folder: Path, captions: dict[int, str]) -> Path:
    """A table of 20 train, 10 validation and 10 test images, of which some have a caption of their own."""
    rows = ["path,caption,split"]
    generator = np.random.default_rng(3)
    for index in range(40):
        if not (folder / f"{index}.png").exists():
            Image.fromarray(generator.integers(0, 256, (9, 9), dtype=np.uint8)).save(folder / f"{index}.png")
        split = "train" if index < 20 else "validation" if index < 30 else "test"
        rows.append(f"{index}.png,{captions.get(index, 'a lung')},{split}")
    (folder / "data.csv").write_text("\n".join(rows) + "\n")
    forget_data()
    return folder / "data.csv"


def forget_data() -> None:
    """Read the data again, as another process would."""
    prepare.read_dataset.cache_clear()
    prepare._open_store.cache_clear()


def test_bad_records_may_be_mended_or_left_out_while_a_run_is_stopped(
    create: Create, materials: Materials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path, {35: ""})
    (tmp_path / "3.png").write_bytes(b"no image")
    study = create(space_of(materials, table))
    view, told = quiet_view(), []
    monkeypatch.setattr(view, "message", told.append)
    assert len(prepare_run(study, view).splits["test"]) == 9
    table.write_text(table.read_text().replace("3.png,a lung,train\n", "", 1))  # left out: nothing has changed
    forget_data()
    prepare_run(study, view)
    mended = "Data: bad records that this run began without are mended (test); its trials use them from now on"
    assert mended not in told
    write_table(tmp_path, {})
    assert len(prepare_run(study, view).splits["test"]) == 10
    assert mended in told
    study.paths.test_metrics.write_text("{}")
    with pytest.raises(RunFault, match="bad records of the test split were mended after it was scored"):
        prepare_run(study, view)
    study.paths.test_metrics.unlink()
    write_table(tmp_path, {5: "another lung"})
    with pytest.raises(RunFault, match="the train split has other records"):
        prepare_run(study, view)


def test_duplicates_are_listed_before_training(create: Create, materials: Materials, tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (11, 40, 40), dtype=np.uint8)
    drawn = {"train": noise[:6], "validation": noise[6:8], "test": noise[[3, 8, 9]]}
    images = write_splits(tmp_path / "images", "a lung", drawn)
    for name, is_dropped, num_train in (("listed", False, 6), ("dropped", True, 5)):
        study = create(space_of(materials, images, fixed={"drop_duplicate_train_images": is_dropped}), name)
        data = prepare_run(study, quiet_view())
        assert (study.directory / "duplicate_images.csv").read_text().splitlines()[1:] == [
            "train,3.png,test,0.png,exact,0"
        ]
        assert len(data.splits["train"]) == num_train
        assert study.directory.joinpath("skipped_records.csv").read_text().count("duplicate") == 6 - num_train


def test_a_metric_that_model_and_data_do_not_allow_is_told(materials: Materials) -> None:
    with pytest.raises(ConfigFault) as raised:
        check_before_start(space_of(materials, fixed=SHORT, objective="balanced_accuracy"))
    assert [fault.partition(", but")[0] for fault in raised.value.faults] == [
        "objective balanced_accuracy needs a model that answers questions, such as medblip3d",
        "objective balanced_accuracy needs validation scans of at least two diagnoses",
    ]


def test_answers_are_scored_at_the_first_look(
    create: Create, materials: Materials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_scans(tmp_path / "scans")
    monkeypatch.setattr(prepare, "load_data", lambda *_, **__: dataset)
    let_answer(ANSWERS, monkeypatch)
    fixed = SHORT | {"eval_batch_size": 2, "freeze": "full"}
    space = space_of(materials, dataset.name, objective="balanced_accuracy", fixed=fixed)
    check_before_start(space)
    view, told = quiet_view(), []
    monkeypatch.setattr(view, "message", told.append)
    study = create(space)
    data = prepare_run(study, view)

    class OwnCluster:
        is_own = True

    told.clear()
    check_evaluation(study, data, OwnCluster(), ONE, view)  # type: ignore[arg-type]
    (line,) = [line for line in told if line.startswith("Evaluation")]
    assert line.startswith("Evaluation checked on 4 validation images in ")  # MCI, dementia, not demented, MCI
    assert line.endswith('the untrained model has balanced accuracy 0.500, such as "MCI."')
    scored = find_scored(data.splits["validation"].records, "answers").tolist()
    job = PredictionJob("all", build_config(space, {}), None, "validation", scored, build_request("answers", 5))
    let_answer(ANSWERS, monkeypatch)
    assert [prediction.text for prediction in predict_here(job)] == list(ANSWERS)
    oracle = let_answer(["dementia"], monkeypatch)
    assert [prediction.text for prediction in predict_here(job, np.array([3]))] == ["dementia"]
    (seen,) = oracle.seen
    pixels = data.splits["validation"].pixels([5])  # the fourth of known diagnosis
    expected = load_trial_captioner(job.config).eval().encode_images(torch.from_numpy(pixels))
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-4)
