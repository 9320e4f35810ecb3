"""Short names of points, such as `lora r8 lr1e-2 e4`."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from sweep.space.fields import show
from sweep.space.ranges import Value

_LABEL_PREFIXES = {
    "lora_rank": "r", "lora_alpha": "a", "lora_dropout": "do", "learning_rate": "lr", "min_learning_rate": "minlr",
    "vision_learning_rate": "vlr", "num_epochs": "e", "batch_size": "b", "accumulation_steps": "acc",
    "weight_decay": "wd", "warmup_fraction": "wu", "label_smoothing": "ls", "max_grad_norm": "clip", "image_size": "px",
    "data_fraction": "df", "max_train_images": "n", "num_beams": "beam", "max_rotation_degrees": "rot",
    "max_brightness_change": "bri", "seed": "s",
}  # fmt: skip

_NAMED_BY_VALUE = ("model", "freeze", "lora_targets", "schedule", "precision")

_SWITCHES = {
    "augment": "aug", "lora_vision": "vision", "use_dora": "dora", "use_rslora": "rslora",
    "gradient_checkpointing": "recompute",
}  # fmt: skip

_LABEL_ORDER = (
    "model", "freeze", "lora_targets", "lora_vision", "lora_rank", "lora_alpha", "learning_rate", "num_epochs",
)  # fmt: skip


def short_label(point: Mapping[str, Value]) -> str:
    """Name a point in ASCII, such as `lora r8 lr1e-3 e4`; `default` for an empty one."""
    known = [knob for knob in _LABEL_ORDER if knob in point]
    ordered = known + [knob for knob in point if knob not in known]
    return " ".join(_label_part(knob, point[knob]) for knob in ordered) or "default"


def label_groups(points: Sequence[Mapping[str, Value]]) -> list[str]:
    """Name each point whatever its seed, the same for repeats of one config and for these alone.

    Configs that `short_label` would name alike, such as rates of 1e-3 and 1.02e-3, have their values written in full.
    """
    seedless = [{knob: value for knob, value in point.items() if knob != "seed"} for point in points]
    configs: dict[str, set[frozenset[tuple[str, Value]]]] = {}
    for config in seedless:
        configs.setdefault(short_label(config), set()).add(frozenset(config.items()))
    return [
        label
        if len(configs[label := short_label(config)]) == 1
        else " ".join(f"{knob}={value}" for knob, value in config.items())
        for config in seedless
    ]


def _label_part(knob: str, value: Value) -> str:
    if knob in _NAMED_BY_VALUE:
        return str(value)
    if knob in _SWITCHES:
        return ("" if value else "no-") + _SWITCHES[knob]
    if isinstance(value, float):
        text = _short_number(value, scientific=knob == "learning_rate")
    elif isinstance(value, bool) or value is None:
        text = show(value)
    else:
        plain = unicodedata.normalize("NFKD", str(value)).encode("ascii", "ignore").decode("ascii")
        plain = "".join(letter for letter in plain if letter.isprintable() or letter.isspace())
        text = re.sub(r"\s+", "-", plain.strip())
    return f"{_LABEL_PREFIXES.get(knob, knob + '=')}{text}"


def _short_number(value: float, *, scientific: bool) -> str:
    """Write two significant digits: `1e-3`, `4.5e-5`, `0.25`, `16`."""
    if scientific or (value and not 0.01 <= abs(value) < 1000):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.2g}" if abs(value) < 10 else f"{value:.0f}"
