import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medcap_core.config import TrialConfig
from medcap_core.data.batches import MicroBatch, order_of_epoch, split_step
from medcap_core.data.prepare import PreparedData
from medcap_core.models import load_captioner
from medcap_core.runtime.workers import Workers
from medcap_core.training.checkpoint import trained_weights
from medcap_core.training.optimization import set_learning_rate
from medcap_core.training.steps import STEPS_BEFORE_RECORDING, LaunchedSteps, RecordedSteps, Recording
from medcap_core.training.trial import Trial
from tests.support.tiny_blip import save_tiny_blip, tiny_config, tiny_data


def capture_gradients(config: TrialConfig, data: PreparedData) -> tuple[dict[str, torch.Tensor], float]:
    """The gradients, as the optimizer sees them, of one step over the whole training split."""
    trial = Trial(config, data, Workers(), torch.device("cpu"))
    step = order_of_epoch(len(trial.train.images), config.seed, 1)
    parts = [trial.train.make(part) for part in split_step(step, config.accumulation_steps)]
    gradients: dict[str, torch.Tensor] = {}

    def keep(*_: object) -> None:
        for name, parameter in trial.captioner.named_parameters():
            if parameter.grad is not None:
                gradients[name] = parameter.grad.clone()

    trial.optimizer.register_step_pre_hook(keep)
    loss = trial.steps.take(parts, trial.train.texts.count_labels(step))
    return gradients, float(loss)


def test_accumulation_changes_no_gradient(tmp_path: Path) -> None:
    tiny_blip = save_tiny_blip(tmp_path, initializer_range=0.1)  # gradients below 1, so that 1e-6 means something
    data = tiny_data(num_train=7)
    settings: dict[str, object] = {"batch_size": 8, "max_grad_norm": 1e6, "freeze": "full"}
    whole, loss = capture_gradients(tiny_config(tiny_blip, **settings), data)

    captioner = load_captioner(str(tiny_blip))
    tokens = captioner.tokenize(data.splits["train"].captions, tiny_config(tiny_blip))
    pixels = torch.from_numpy(data.splits["train"].pixels(np.arange(7)))
    total = captioner(pixels, *tokens.batch(range(7)), label_smoothing=0.1, encoded=False)
    (total / tokens.count_labels(range(7))).backward()
    assert loss == pytest.approx(total.item(), rel=1e-5)
    expected = {name: parameter.grad for name, parameter in captioner.named_parameters()}
    assert whole.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert 0.1 < largest < 1
    for accumulation_steps in (1, 2, 8):
        config = tiny_config(tiny_blip, **settings, accumulation_steps=accumulation_steps)
        parts, parts_loss = capture_gradients(config, data)
        assert parts_loss == pytest.approx(loss, rel=1e-5)
        for name, gradient in parts.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=0, msg=name)


def test_gradients_are_clipped_to_their_norm(tiny_blip: Path) -> None:
    gradients, _ = capture_gradients(tiny_config(tiny_blip, max_grad_norm=0.01, freeze="decoder_only"), tiny_data())
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    assert norm == pytest.approx(0.01, rel=1e-3)
    assert all(name.startswith("network.text_decoder.") for name in gradients)


def test_without_a_norm_gradients_are_not_clipped(tiny_blip: Path) -> None:
    settings: dict[str, object] = {"freeze": "decoder_only"}
    unclipped, _ = capture_gradients(tiny_config(tiny_blip, max_grad_norm="none", **settings), tiny_data())
    expected, _ = capture_gradients(tiny_config(tiny_blip, max_grad_norm=1e6, **settings), tiny_data())
    assert unclipped.keys() == expected.keys()
    for name, gradient in unclipped.items():
        assert torch.equal(gradient, expected[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("freeze", ["full", "lora"])
def test_recorded_steps_move_weights_as_launched_ones_do(tiny_blip: Path, freeze: str) -> None:
    config = tiny_config(tiny_blip, freeze=freeze, batch_size=4, accumulation_steps=2, precision="fp32")
    data = tiny_data(num_train=12)
    weights = []
    for is_recorded in (True, False):
        trial = Trial(config, data, Workers(), torch.device("cuda"))
        assert isinstance(trial.steps, RecordedSteps)
        steps = trial.steps if is_recorded else trial.steps.launched
        for index in range(3 * STEPS_BEFORE_RECORDING):
            set_learning_rate(trial.optimizer, config, index, 3 * STEPS_BEFORE_RECORDING)
            positions = np.arange(12)[index % 3 :: 3]
            parts = [trial.train.make(part) for part in split_step(positions, 2)]
            steps.take(parts, trial.train.texts.count_labels(positions))
        assert bool(trial.steps.recordings) is is_recorded
        weights.append(trained_weights(trial.captioner))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-6, rtol=1e-5, msg=name)


def test_a_step_too_large_to_record_is_launched(tiny_blip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one thing a recording needs that launching does not is more memory."""
    trial = Trial(tiny_config(tiny_blip, freeze="full"), tiny_data(), Workers(), torch.device("cpu"))
    assert isinstance(trial.steps, LaunchedSteps)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", torch.set_rng_state)
    attempts = []

    def record(self: RecordedSteps, parts: list[MicroBatch]) -> Recording:
        attempts.append(len(parts))
        self.launched.accumulate(parts, 1e6)  # what the run before the recording leaves behind
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")  # noqa: TRY301
        except torch.OutOfMemoryError:
            raise RuntimeError("the recording was invalidated")  # noqa: B904 - as the end of a recording does

    monkeypatch.setattr(RecordedSteps, "_record", record)
    recorded = RecordedSteps(trial.steps)
    parts = [trial.train.make(np.arange(4))]
    num_labels = trial.train.texts.count_labels(np.arange(4))
    losses = [float(recorded.take(parts, num_labels)) for _ in range(STEPS_BEFORE_RECORDING + 3)]
    fewer = [trial.train.make(np.arange(2))]
    for _ in range(STEPS_BEFORE_RECORDING + 1):
        recorded.take(fewer, trial.train.texts.count_labels(np.arange(2)))
    assert attempts == [1]  # a broken recording may leave no room for others
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)


def test_no_more_shapes_are_recorded_than_memory_is_meant_for(tiny_blip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(tiny_config(tiny_blip, freeze="full"), tiny_data(num_train=7), Workers(), torch.device("cpu"))
    assert isinstance(trial.steps, LaunchedSteps)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr("medcap_core.training.steps.MOST_RECORDINGS", 2)
    graph: Any = SimpleNamespace(replay=lambda: None)
    monkeypatch.setattr(
        RecordedSteps,
        "_record",
        lambda _, parts: Recording(graph, [part.copy() for part in parts], torch.ones(()), torch.zeros(())),
    )
    recorded = RecordedSteps(trial.steps)
    for size in (1, 2, 3, 1, 3):
        for _ in range(STEPS_BEFORE_RECORDING + 1):
            recorded.take([trial.train.make(np.arange(size))], 11)
    assert [images[0] for ((images, *_),) in recorded.recordings] == [1, 2]
