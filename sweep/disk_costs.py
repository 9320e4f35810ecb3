"""What a sweep will take of the disk."""

import math
from collections.abc import Sequence

import numpy as np

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.geometry import Geometry
from medcap_core.models import load_geometry
from sweep.cluster import TrialResources
from sweep.points import num_trials
from sweep.schema import SearchSpace
from sweep.trial_costs import UnitCost, count_images

Measured = tuple[TrialConfig, UnitCost]


def count_kept_bytes(space: SearchSpace, units: list[UnitCost]) -> int:
    """Bytes of the trials that are over: the three best; with `test: all` every one's weights, until they are scored.

    `units` are of random trials of the space, or of all rows of a grid.
    """
    weights_bytes = [4 * unit.trained_parameters for unit in units]
    of_all = num_trials(space) * float(np.mean(weights_bytes))
    if space.keep_checkpoints:
        return round(4 * of_all)  # Adam's two moments and the last epoch's weights beside the best one's
    best = min(3, num_trials(space)) * max(weights_bytes)
    return round(max(of_all, best)) if space.test == "all" else best


def estimate_disk(measured: list[Measured], resources: TrialResources) -> int:
    """Bytes at the fullest moment: running trials, `best/`, decoded and encoded images.

    Of several models the largest counts; images are decoded once for each size and encoded once for each encoder.
    """
    model_bytes = 4 * max(unit.total_parameters for _, unit in measured)
    weights_bytes = 4 * max(unit.trained_parameters for _, unit in measured)
    running_bytes = 4 * weights_bytes  # weights and Adam's two moments, and the best epoch's weights beside them
    decoded: dict[Geometry, int] = {}
    encoded_bytes = 0
    for group in by_encoder(measured):
        num_images = max(sum(count_images(config).values()) for config, _ in group)
        geometry = load_geometry(group[0][0])
        decoded[geometry] = max(decoded.get(geometry, 0), num_images)
        encoded_bytes += count_encoded(group) * max(unit.feature_bytes for _, unit in group)
    decoded_bytes = sum(math.prod(geometry.row_shape) * count for geometry, count in decoded.items())
    return resources.max_concurrent * running_bytes + model_bytes + decoded_bytes + encoded_bytes


def encoder_of(config: TrialConfig) -> tuple[object, ...]:
    """What decides an encoder's output for an image."""
    return (config.model, config.vision_model, config.weights_dtype, config.image_size)


def by_encoder(measured: Sequence[Measured]) -> list[list[Measured]]:
    """The measured configs, those with the same encoder together."""
    groups: dict[tuple[object, ...], list[Measured]] = {}
    for config, unit in measured:
        groups.setdefault(encoder_of(config), []).append((config, unit))
    return list(groups.values())


def count_encoded(group: Sequence[Measured]) -> int:
    """How many images one encoder sees; a zero-shot trial looks at no training images."""
    return max(
        sum(sizes.values()) - (config.freeze is FreezeMode.ZERO_SHOT) * sizes["train"]
        for config, sizes in ((config, count_images(config)) for config, _ in group)
    )
