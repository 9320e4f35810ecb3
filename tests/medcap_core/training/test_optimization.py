from pathlib import Path

import pytest
from pydantic import ValidationError

from medcap_core.models import load_captioner
from medcap_core.models.tuning import apply_tuning
from medcap_core.training.optimization import build_optimizer, compute_rate_factor, set_learning_rate
from tests.support.tiny_blip import tiny_config

UNUSED = Path("unused")


def is_vector(name: str) -> bool:
    return name.endswith(".bias") or "norm" in name.lower()


@pytest.mark.parametrize("freeze", ["full", "decoder_only"])
def test_biases_and_norms_are_not_decayed(tiny_blip: Path, freeze: str) -> None:
    captioner, config = load_captioner(str(tiny_blip)), tiny_config(tiny_blip, freeze=freeze, weight_decay=0.07)
    apply_tuning(captioner, config)
    names = {id(parameter): name for name, parameter in captioner.named_parameters()}
    groups = build_optimizer(captioner, config).param_groups
    held = {group["weight_decay"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}
    trained = {name for name, parameter in captioner.named_parameters() if parameter.requires_grad}
    assert held == {
        0.07: {name for name in trained if not is_vector(name)},
        0.0: {name for name in trained if is_vector(name)},
    }
    assert any(name.startswith("network.vision_model.") for name in held[0.07]) is (freeze == "full")


@pytest.mark.parametrize(
    ("settings", "is_vision_trained"),
    [
        ({"freeze": "full"}, True),
        ({"freeze": "encoder_only"}, True),
        ({"freeze": "decoder_only"}, False),
        ({"freeze": "lora", "lora_vision": True}, True),
    ],
)
def test_the_vision_tower_has_its_own_rate(
    tiny_blip: Path, settings: dict[str, object], is_vision_trained: bool
) -> None:
    changes = {"learning_rate": 0.05, "vision_learning_rate": 0.01, "weight_decay": 0.07}
    captioner, config = load_captioner(str(tiny_blip)), tiny_config(tiny_blip, **settings, **changes)
    apply_tuning(captioner, config)
    names = {id(parameter): name for name, parameter in captioner.named_parameters()}
    optimizer = build_optimizer(captioner, config)
    set_learning_rate(optimizer, config, step=0, num_steps=10)
    held = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    trained = {name for name, parameter in captioner.named_parameters() if parameter.requires_grad}
    vision = {name for name in trained if name.startswith("network.vision_model.")}
    assert bool(vision) is is_vision_trained
    expected = {
        name: (pytest.approx(0.0005 if name in vision else 0.05), 0.0 if is_vector(name) else 0.07) for name in trained
    }
    assert held == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "linear"}, [1.0, 0.8, 0.6, 0.4, 0.2]),
        # 0.3 of 5 steps is 1.5: two steps of warm-up, then three of the fall.
        ({"schedule": "linear", "warmup_fraction": 0.3}, [0.5, 1.0, 1.0, 2 / 3, 1 / 3]),
        # (1 + cos(pi k / 5)) / 2
        ({"schedule": "cosine"}, [1.0, 0.9045085, 0.6545085, 0.3454915, 0.0954915]),
        # (1 + cos(pi k / 4)) / 2 after one step of warm-up
        ({"schedule": "cosine", "warmup_fraction": 0.2}, [1.0, 1.0, 0.8535534, 0.5, 0.1464466]),
        # 0.2 + 0.8 (1 + cos(pi k / 5)) / 2
        (
            {"schedule": "cosine", "learning_rate": 0.05, "min_learning_rate": 0.01},
            [1.0, 0.9236068, 0.7236068, 0.4763932, 0.2763932],
        ),
        ({"schedule": "linear", "warmup_fraction": 0.99}, [0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_the_learning_rate_of_each_step(settings: dict[str, object], expected: list[float]) -> None:
    config = tiny_config(UNUSED, **settings)
    assert [compute_rate_factor(step, 5, config) for step in range(5)] == pytest.approx(expected, abs=1e-6)


def test_every_group_gets_the_rate_of_the_step(tiny_blip: Path) -> None:
    captioner, config = load_captioner(str(tiny_blip)), tiny_config(tiny_blip, learning_rate=0.05)
    optimizer = build_optimizer(captioner, config)
    set_learning_rate(optimizer, config, step=3, num_steps=10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.035, 0.035])


def test_the_lowest_rate_is_of_the_cosine_and_below_the_peak() -> None:
    for settings in ({"schedule": "linear", "learning_rate": 0.05}, {"schedule": "cosine", "learning_rate": 0.005}):
        with pytest.raises(ValidationError, match=r"min_learning_rate 0\.01"):
            tiny_config(UNUSED, min_learning_rate=0.01, **settings)
