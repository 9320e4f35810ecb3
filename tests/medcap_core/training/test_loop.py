"""What `fit` promises: epochs reported in order, exact resumption, faults named."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, load_file, save_file

from medcap_core.config import TrialConfig
from medcap_core.data.batches import order_of_epoch
from medcap_core.data.prepare import PreparedData
from medcap_core.errors import ConfigFault, NonFiniteLoss, OutOfMemory
from medcap_core.models.blip.captioner import BlipCaptioner
from medcap_core.runtime.workers import Workers
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.loop import fit
from medcap_core.training.trial import Trial
from tests.support.tiny_blip import TinySplit, generate_captions, save_tiny_blip, tiny_config, tiny_data

MODES: dict[str, dict[str, object]] = {
    "full": {"freeze": "full", "schedule": "cosine", "warmup_fraction": 0.2},
    "lora": {
        "freeze": "lora", "lora_dropout": 0.3, "lora_vision": True, "lora_targets": "attention_mlp", "augment": True
    },
}  # fmt: skip
DATA = tiny_data(num_train=14, num_validation=9)


def config_of(tiny_blip: Path, mode: str) -> TrialConfig:
    return tiny_config(tiny_blip, num_epochs=3, **MODES[mode])


def scores(reports: list[EpochReport]) -> list[tuple[float, ...]]:
    """What of each report does not depend on the machine's speed."""
    names = ("epoch", "num_epochs", "score", "validation_loss", "training_loss", "learning_rate")
    return [attrgetter(*names)(report) for report in reports]


def run(config: TrialConfig, folder: Path, data: PreparedData = DATA) -> list[EpochReport]:
    reports: list[EpochReport] = []
    fit(config, data, folder, reports.append)
    return reports


def test_the_objective_decides_what_is_scored(tiny_blip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"CIDEr": 0.5, "validation_loss": 2.0}
    reports = run(tiny_config(tiny_blip, objective=both), tmp_path / "both")
    assert [report.score for report in reports] == [
        pytest.approx(0.5 * report.parts["CIDEr"] - 2.0 * report.validation_loss) for report in reports
    ]
    assert [report.parts["validation_loss"] for report in reports] == [report.validation_loss for report in reports]
    monkeypatch.setattr(BlipCaptioner, "generate", None)  # a loss needs no captions
    by_loss = run(tiny_config(tiny_blip, objective="validation_loss"), tmp_path / "loss")
    assert [(report.score, report.parts, report.num_distinct) for report in by_loss] == [
        (report.validation_loss, {}, None) for report in reports
    ]


def test_patience_ends_a_trial_without_a_better_epoch(tiny_blip: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_blip, learning_rate=1e-9, num_epochs=5, patience=1)
    reports = run(config, tmp_path)  # no score changes
    assert [report.epoch for report in reports] == [1, 2]
    assert scores(run(config, tmp_path)) == scores(reports)  # and none is added when it goes on
    assert [report.epoch for report in run(config.model_copy(update={"patience": 2}), tmp_path)] == [1, 2, 3]


def test_each_epoch_says_how_varied_its_captions_are(tiny_blip: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_blip, num_epochs=1, learning_rate=1e-9, max_new_tokens=4)
    (report,) = run(config, tmp_path)
    trial = Trial(config, DATA, Workers(), torch.device("cpu"))
    captions = generate_captions(trial.captioner, trial.validation.images, config)
    assert report.num_distinct == len(set(captions))
    assert report.top_share == max(captions.count(caption) for caption in captions) / len(captions)
    assert (report.empty_share, report.cut_share) == (captions.count("") / len(captions), 4 / 9)


def test_one_caption_of_each_epoch_is_shown_beside_its_reference(tiny_blip: Path, tmp_path: Path) -> None:
    samples: list[tuple[str, str]] = []
    config = tiny_config(tiny_blip, freeze="zero_shot")
    fit(config, DATA, tmp_path, lambda _: None, show_sample=lambda *sample: samples.append(sample))
    ((caption, reference),) = samples
    assert caption
    assert reference == DATA.splits["validation"].records[0].caption


class Interrupted(Exception):
    """Ends a trial from its report callback, as a scheduler does."""


def run_until(epoch: int, config: TrialConfig, folder: Path) -> list[EpochReport]:
    reports: list[EpochReport] = []

    def report(done: EpochReport) -> None:
        reports.append(done)
        if done.epoch == epoch:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(config, DATA, folder, report)
    return reports


@dataclasses.dataclass
class Uninterrupted:
    folder: Path
    reports: list[EpochReport]

    @property
    def best(self) -> bytes:
        return (self.folder / "best" / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(tiny_blip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Uninterrupted]:
    """One whole trial of each mode, the first thing its process trains."""
    trials = {}
    for mode in MODES:
        folder = tmp_path_factory.mktemp(mode)
        trials[mode] = Uninterrupted(folder, run(config_of(tiny_blip, mode), folder))
    return trials


def find_best(reports: list[EpochReport]) -> int:
    scores = [report.score for report in reports]
    return scores.index(max(scores)) + 1


# A whole trial


@pytest.mark.parametrize("mode", MODES)
def test_each_epoch_is_reported_once_in_order(uninterrupted: dict[str, Uninterrupted], mode: str) -> None:
    reports = uninterrupted[mode].reports
    assert [(report.epoch, report.num_epochs) for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert max(report.score for report in reports) > 0
    for report in reports:
        assert 0 < report.training_seconds < report.seconds
        assert report.images_per_second == pytest.approx(14 / report.training_seconds)
        assert report.peak_memory_bytes > 1e8
        assert 0 < report.trainable_parameters <= report.total_parameters
    assert (reports[0].trainable_parameters == reports[0].total_parameters) is (mode == "full")


def test_full_training_learns(uninterrupted: dict[str, Uninterrupted]) -> None:
    losses = [report.training_loss for report in uninterrupted["full"].reports]
    assert losses[2] < losses[1] < losses[0]
    validation_losses = [report.validation_loss for report in uninterrupted["full"].reports]
    assert validation_losses[2] < validation_losses[0]


def test_the_schedule_spans_the_whole_trial(uninterrupted: dict[str, Uninterrupted]) -> None:
    """4 steps an epoch, 12 in all; 0.2 of them is 2.4, so 3 steps of warm-up; reported is an epoch's last step."""
    cosine = [0.5 * (1 + math.cos(math.pi * (step - 3) / 9)) for step in (3, 7, 11)]
    rates = [report.learning_rate for report in uninterrupted["full"].reports]
    assert rates == pytest.approx([1e-2 * factor for factor in cosine])
    linear = [report.learning_rate for report in uninterrupted["lora"].reports]
    assert linear == pytest.approx([1e-2 * (1 - step / 12) for step in (3, 7, 11)])


@pytest.mark.parametrize("mode", MODES)
def test_the_folder_holds_safetensors_and_a_history(uninterrupted: dict[str, Uninterrupted], mode: str) -> None:
    folder = uninterrupted[mode].folder
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"last/checkpoint.safetensors", "best/weights.safetensors", "history.json"}


def test_the_last_epoch_counts_and_every_one_is_kept_where_asked_for(
    uninterrupted: dict[str, Uninterrupted], tiny_blip: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "trial"
    shutil.copytree(uninterrupted["lora"].folder, folder)
    shutil.rmtree(folder / "best")
    last = (folder / "last" / "checkpoint.safetensors").read_bytes()
    changes = {"evaluate": "last", "checkpoint_every_epoch": True}
    reports = run(config_of(tiny_blip, "lora").model_copy(update=changes), folder)
    assert reports == uninterrupted["lora"].reports
    assert (folder / "epochs" / "epoch_0003.safetensors").read_bytes() == last
    best = load_file(folder / "best" / "weights.safetensors")
    assert all(torch.equal(weight, load(last)[f"weights/{name}"]) for name, weight in best.items())


def test_a_zero_shot_trial_is_scored_once(tiny_blip: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_blip, freeze="zero_shot", num_epochs=5)
    (report,) = run(config, tmp_path)
    assert (report.epoch, report.num_epochs, report.training_loss, report.images_per_second) == (1, 1, 0, 0)
    assert report.trainable_parameters == 0
    assert run(config, tmp_path) == [report]


def test_lower_precision_trains_nearly_alike(tmp_path: Path) -> None:
    model = save_tiny_blip(tmp_path / "model", initializer_range=0.1)
    losses = {}
    for precision in ("auto", "fp32", "bf16", "fp16"):
        config = tiny_config(model, precision=precision, num_epochs=1, learning_rate=1e-3)
        (report,) = run(config, tmp_path / precision)
        losses[precision] = report.training_loss
    assert losses["auto"] == losses["fp32"]
    assert len(set(losses.values())) == 3
    assert losses == pytest.approx(dict.fromkeys(losses, losses["fp32"]), abs=0.01)


# Resumption


@pytest.mark.parametrize(("mode", "epoch"), [("full", 2), ("lora", 1)])
def test_an_interrupted_trial_ends_as_an_uninterrupted_one(
    uninterrupted: dict[str, Uninterrupted], tiny_blip: Path, tmp_path: Path, mode: str, epoch: int
) -> None:
    whole, config = uninterrupted[mode], config_of(tiny_blip, mode)
    first = run_until(epoch, config, tmp_path)
    torch.manual_seed(4321)
    np.random.seed(4321)
    reports = run(config, tmp_path)
    assert reports[:epoch] == first  # told again, the times of then included
    assert scores(reports) == scores(whole.reports)
    assert (tmp_path / "best" / "weights.safetensors").read_bytes() == whole.best
    last = "last/checkpoint.safetensors"
    done, expected = load_file(tmp_path / last), load_file(whole.folder / last)
    assert done.keys() == expected.keys()
    assert all(torch.equal(done[name], expected[name]) for name in expected)


def test_a_trial_scores_alike_after_another_in_the_same_process(
    uninterrupted: dict[str, Uninterrupted], tiny_blip: Path, tmp_path: Path
) -> None:
    run(tiny_config(tiny_blip, freeze="encoder_only", num_epochs=1, seed=9, image_size=32), tmp_path / "other", small())
    again = run(config_of(tiny_blip, "lora"), tmp_path / "again")
    assert scores(again) == scores(uninterrupted["lora"].reports)
    assert (tmp_path / "again" / "best" / "weights.safetensors").read_bytes() == uninterrupted["lora"].best


def small() -> PreparedData:
    """A data set of 32-pixel images."""
    data = tiny_data(num_train=5, num_validation=3, seed=1)
    for split in data.splits.values():
        split.images = split.images[:, :, 8:40, 8:40]  # type: ignore[attr-defined]
    return data


def test_a_finished_trial_is_told_again_and_not_trained(
    uninterrupted: dict[str, Uninterrupted], tiny_blip: Path
) -> None:
    whole = uninterrupted["full"]
    before = whole.best
    told: list[str] = []
    reports: list[EpochReport] = []
    fit(config_of(tiny_blip, "full"), DATA, whole.folder, reports.append, lambda what, *_: told.append(what))
    assert reports == whole.reports
    assert told == []
    assert whole.best == before


@pytest.mark.parametrize("mode", MODES)
def test_best_holds_the_first_of_the_highest_even_after_a_kill_between_last_and_best(
    uninterrupted: dict[str, Uninterrupted], tiny_blip: Path, tmp_path: Path, mode: str
) -> None:
    """The best epoch, the first of the highest, is in `last/`, and `best/` is still without it."""
    whole, config = uninterrupted[mode], config_of(tiny_blip, mode)
    epoch = find_best(whole.reports)
    run_until(epoch, config, tmp_path)
    last = load_file(tmp_path / "last" / "checkpoint.safetensors")
    best = load_file(whole.folder / "best" / "weights.safetensors")
    assert all(torch.equal(weight, last[f"weights/{name}"]) for name, weight in best.items())
    shutil.rmtree(tmp_path / "best")
    (tmp_path / "history.json").unlink()
    assert scores(run_until(epoch, config, tmp_path)) == scores(whole.reports[:epoch])
    assert (tmp_path / "best" / "weights.safetensors").read_bytes() == whole.best
    assert len(json.loads((tmp_path / "history.json").read_text())) == epoch


# Failures


def test_a_batch_too_small_for_its_workers_is_a_fault(tiny_blip: Path) -> None:
    config = tiny_config(tiny_blip, batch_size=4, accumulation_steps=2)
    with pytest.raises(ConfigFault, match="batch_size 4 is too small for 3 workers x 2 accumulation steps"):
        Trial(config, DATA, Workers(0, 3), torch.device("cpu"))


def test_a_model_cannot_be_sharded_over_one_worker(tiny_blip: Path) -> None:
    with pytest.raises(ConfigFault, match=r"parallel fsdp shards .* one; give it more by resources\.workers"):
        Trial(tiny_config(tiny_blip, parallel="fsdp"), DATA, Workers(), torch.device("cpu"))


def one_long_caption(num_images: int, position: int) -> PreparedData:
    """Training captions of 8 tokens but one of 9."""
    data = tiny_data(num_train=num_images)
    captions = ["the left lung shows small opacity"] * num_images
    captions[position] = "the left lung shows a large nodule"
    data.splits["train"].captions[:] = captions
    return data


@pytest.mark.parametrize("position", [0, 5])
def test_a_loss_that_is_not_finite_names_its_step(tiny_blip: Path, tmp_path: Path, position: int) -> None:
    """The weights of the eighth position are broken, at which no other caption has a label."""
    model = tmp_path / "broken"
    shutil.copytree(tiny_blip, model)
    tensors = load_file(model / "model.safetensors")
    tensors["text_decoder.bert.embeddings.position_embeddings.weight"][7] = math.nan
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    config = tiny_config(model, freeze="decoder_only", batch_size=2, learning_rate=0.002)
    step = order_of_epoch(10, 0, 1).tolist().index(position) // 2 + 1
    with pytest.raises(NonFiniteLoss) as caught:
        run(config, tmp_path / "trial", one_long_caption(10, position))
    assert str(caught.value) == (
        f"The loss was not finite at step {step} (freeze decoder_only, learning_rate 0.002, precision auto); lower "
        "learning_rate or use precision bf16 or fp32."
    )
    assert not (tmp_path / "trial").exists()


def ask_for_too_much() -> None:
    torch.empty(2**50, dtype=torch.uint8)


def ask_numpy_for_too_much() -> None:
    np.empty(2**60, dtype=np.uint8)


def report_a_full_accelerator() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def report_a_card_filled_by_others() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def multiply_wrong_shapes() -> None:
    torch.ones(2, 3) @ torch.ones(2, 3)


class FailingSplit(TinySplit):
    """A split whose images cannot be had after the first step."""

    def __init__(self, fail: Callable[[], None]) -> None:
        super().__init__(6, seed=0)
        self.fail, self.num_calls = fail, 0

    def pixels(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.num_calls += 1
        if self.num_calls > 1:
            self.fail()
        return super().pixels(positions)


def run_failing(tiny_blip: Path, folder: Path, fail: Callable[[], None]) -> None:
    data = tiny_data()
    data.splits["train"] = FailingSplit(fail)  # type: ignore[assignment]
    run(tiny_config(tiny_blip, freeze="lora", batch_size=2, eval_batch_size=5), folder, data)


@pytest.mark.parametrize(
    "fail",
    [ask_for_too_much, ask_numpy_for_too_much, report_a_full_accelerator, report_a_card_filled_by_others],
)
def test_a_lack_of_memory_names_the_remedy(tiny_blip: Path, tmp_path: Path, fail: Callable[[], None]) -> None:
    with pytest.raises(OutOfMemory) as caught:
        run_failing(tiny_blip, tmp_path, fail)
    assert str(caught.value) == (
        "No memory left on the device (freeze lora, batch_size 2, accumulation_steps 1, eval_batch_size 5); raise "
        "accumulation_steps or lower eval_batch_size."
    )
    assert caught.value.__cause__ is not None


def test_other_errors_pass_unchanged(tiny_blip: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied") as caught:
        run_failing(tiny_blip, tmp_path, multiply_wrong_shapes)
    assert type(caught.value) is RuntimeError
