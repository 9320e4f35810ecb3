"""What a sweep will cost in time and disk: measured parts of its trials, counted and put together."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.geometry import Geometry
from medcap_core.data.records import SPLITS
from medcap_core.models import load_geometry
from sweep.dry_run.plan import CostEstimate, CostPart
from sweep.dry_run.simulation import TrialCost, simulate_searches
from sweep.dry_run.trial_costs import (
    DecodingCost,
    UnitCost,
    busy_processes,
    count_images,
    measure_decoding,
    measure_units,
)
from sweep.execution.cluster import TrialResources
from sweep.execution.jobs import MOST_IMAGES_HERE
from sweep.preparation import NUM_CHECK_BATCHES
from sweep.space.points import build_config, draw_configs, num_trials
from sweep.space.schema import SearchSpace
from sweep.study.ranking import NUM_CANDIDATES

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


NUM_DRAWS = 32
SECONDS_TO_HAND_ON = 0.2
"""From the end of a trial to the next one's begin in the same process: Tune and the driver."""
SECONDS_TO_SCORE_A_TEXT = 7e-4
"""One caption of the test split by all scores, with its share of intervals and tests."""
STARTS_OF_PROCESSES, STARTS_OF_WORKERS, STARTS_OF_THE_END = 1.5, 4.5, 2.0
"""What other programs take to start, in units of this process's own start, which is measured: what the processes of
trials take longer; the workers of a trial, which start anew for each; and at the end METEOR's Java, the report and
Ray's way out. On two quiet cores 6, 17 (two workers) and 7.4 s, to 3.8 s.
"""


@dataclass(frozen=True)
class _Sweep:
    """What the estimate adds up: the space, what its trials may take, and what was measured of them."""

    space: SearchSpace
    resources: TrialResources
    given: list[TrialConfig]
    drawn: list[TrialConfig]
    units: dict[tuple[object, ...], UnitCost]
    decoding: dict[Geometry, DecodingCost]
    start_seconds: float

    @property
    def num_devices(self) -> int:
        """How many processes work at once."""
        return self.resources.num_workers * self.resources.max_concurrent

    @property
    def measured(self) -> list[Measured]:
        """Every config with the costs of its kind."""
        return [(config, self.units[_kind(config)]) for config in (*self.given, *self.drawn)]

    @property
    def caption_seconds(self) -> float:
        """A caption by the mean model."""
        return float(np.mean([self.units[_kind(config)].caption_seconds for config in self.drawn]))


def estimate_cost(space: SearchSpace, resources: TrialResources, start_seconds: float) -> CostEstimate:
    """Measure a few steps of each kind of trial the space holds, and add up what the sweep will do of each.

    `start_seconds` is what imports and checks took this process. Needs a few decoded images; everything else is
    counted, not done. Steps are measured beside as many busy processes as there will be other trials. What the search
    makes of the trials is simulated; see `sweep.dry_run.simulation`. On a machine with other work, trials take longer
    than this says: Ray runs their processes at niceness 15.
    """
    given = [build_config(space, point) for point in space.first_points[: num_trials(space)]]
    drawn = draw_configs(space, NUM_DRAWS)
    kinds = {_kind(config): config for config in [*given, *drawn]}
    by_geometry = {load_geometry(config): config for config in kinds.values()}
    num_others = 0 if resources.gpus_per_worker else resources.num_workers * resources.max_concurrent - 1
    torch.set_num_threads(max(1, int(resources.cpus_per_worker)))
    with busy_processes(min(num_others, (os.cpu_count() or 1) - 1)):
        units = {kind: measure_units(config) for kind, config in kinds.items()}
    decoding = {geometry: measure_decoding(config) for geometry, config in by_geometry.items()}
    sweep = _Sweep(space, resources, given, drawn, units, decoding, start_seconds)

    searches = simulate_searches(
        space,
        [_estimate_trial(sweep, config) for config in given],
        [_estimate_trial(sweep, config) for config in drawn],
        resources.max_concurrent,
    )
    seconds = [search.seconds for search in searches]
    share = float(np.mean([search.share_run for search in searches]))
    trials = CostPart(
        f"{num_trials(space)} trials, {resources.max_concurrent} at once, {share:.0%} of their epochs",
        float(np.mean(seconds)),
    )
    parts = (*_estimate_start(sweep), trials, *_estimate_end(sweep))
    around = sum(part.seconds for part in parts) - trials.seconds
    return CostEstimate(
        seconds_per_trial=float(np.mean([search.trial_seconds for search in searches])) / num_trials(space),
        total_seconds=around + trials.seconds,
        range_seconds=(around + float(np.quantile(seconds, 0.1)), around + float(np.quantile(seconds, 0.9))),
        parts=parts,
        disk_bytes=estimate_disk(sweep.measured, resources) + count_kept_bytes(space, [units[_kind(c)] for c in drawn]),
        basis="a few measured steps and captions of each kind of trial on this machine",
    )


def _estimate_trial(sweep: _Sweep, config: TrialConfig) -> TrialCost:
    unit, sizes = sweep.units[_kind(config)], count_images(config)
    is_trained = config.freeze is not FreezeMode.ZERO_SHOT
    images = is_trained * sizes["train"] * unit.training_seconds + sizes["validation"] * unit.caption_seconds
    begin_seconds = unit.begin_seconds + SECONDS_TO_HAND_ON
    if sweep.resources.num_workers > 1:  # these start anew for each trial
        begin_seconds += STARTS_OF_WORKERS * sweep.start_seconds
    return TrialCost(
        mode=config.freeze,
        begin_seconds=begin_seconds,
        epoch_seconds=images / sweep.resources.num_workers + unit.scoring_seconds,
        num_epochs=config.num_epochs if is_trained else 1,
    )


def _estimate_start(sweep: _Sweep) -> tuple[CostPart, ...]:
    """Until the first trial; Ray and the trials' processes start meanwhile, which need the same cores."""
    num_decoded = {geometry: _count_to_decode(sweep, geometry) for geometry in sweep.decoding}
    decode_seconds = sum(sweep.decoding[geometry].seconds * count for geometry, count in num_decoded.items())
    num_encoded, encode_seconds = 0, 0.0
    for group in by_encoder(sweep.measured):
        count = _count_to_encode(group)
        num_encoded += count
        encode_seconds += count * max(unit.encoding_seconds for _, unit in group) / sweep.num_devices
    look_seconds = NUM_CHECK_BATCHES * sweep.drawn[0].eval_batch_size * sweep.caption_seconds
    return (
        CostPart("imports and checks", sweep.start_seconds),
        CostPart(
            f"{sum(num_decoded.values()):,} images to decode, {num_encoded:,} to encode, and a first look",
            decode_seconds + encode_seconds + look_seconds,
        ),
        CostPart("until Ray and the processes of trials have started", STARTS_OF_PROCESSES * sweep.start_seconds),
    )


def _estimate_end(sweep: _Sweep) -> tuple[CostPart, ...]:
    """After the last trial: the leading ones again, the test split, scores and report."""
    space, base = sweep.space, sweep.drawn[0]
    whole = count_images(base.model_copy(update={"max_validation_images": None}))
    num_tested = num_trials(space) if space.test == "all" else 1
    num_again = min(NUM_CANDIDATES, num_trials(space)) * whole["validation"] if base.max_validation_images else 0
    num_test = (1 + num_tested) * whole["test"]
    num_rows = num_tested + 4  # untrained, best constant caption, nearest image, shuffled images
    return (
        CostPart(
            f"{num_again + num_test:,} captions of the leading trials and the test split",
            _estimate_captions(sweep, num_again) + _estimate_captions(sweep, num_test),
        ),
        CostPart(
            f"scores of {num_rows} rows of the test split, report, end",
            num_rows * whole["test"] * SECONDS_TO_SCORE_A_TEXT + STARTS_OF_THE_END * sweep.start_seconds,
        ),
    )


def _estimate_captions(sweep: _Sweep, count: int) -> float:
    """Few captions of small models are made in the driver, others in processes that start for them."""
    seconds = count * sweep.caption_seconds
    if not sweep.resources.gpus_per_worker and count <= MOST_IMAGES_HERE and all(u.is_small for _, u in sweep.measured):
        return seconds
    return seconds / sweep.num_devices + STARTS_OF_PROCESSES * sweep.start_seconds


def _kind(config: TrialConfig) -> tuple[object, ...]:
    """What decides the time of a step: trials of one kind are measured once."""
    return (
        *encoder_of(config), config.quantization, config.freeze, config.lora_targets, config.lora_vision,
        config.batch_size, config.num_beams, config.augment,
    )  # fmt: skip


def _count_to_encode(group: Sequence[Measured]) -> int:
    """How many of them are not stored yet."""
    counts = [0]
    for config, unit in group:
        if unit.encoding_seconds:
            names = SPLITS[1:] if config.freeze is FreezeMode.ZERO_SHOT else SPLITS
            sizes = count_images(config)
            counts.append(sum(max(0, sizes[name] - unit.num_encoded[name]) for name in names))
    return max(counts)


def _count_to_decode(sweep: _Sweep, geometry: Geometry) -> int:
    """How many images of one size are not decoded yet; validation whole, since train is compared with all of it."""
    num_decoded = sweep.decoding[geometry].num_decoded
    counts = []
    for config, _ in sweep.measured:
        if load_geometry(config) == geometry:
            sizes = count_images(config.model_copy(update={"max_validation_images": None}))
            counts.append(sum(max(0, sizes[name] - num_decoded[name]) for name in SPLITS))
    return max(counts)
