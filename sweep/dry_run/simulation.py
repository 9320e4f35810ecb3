"""How long a search may take: simulated on costs alone, with scores made up, since those cannot be known before.

Trials start in order as places become free, so that a last long one may run alone; the study's own rule stops weak
ones.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweep.space.points import num_trials
from sweep.space.schema import SearchSpace
from sweep.study.pruning import build_rungs, should_prune
from sweep.study.record import compute_step

NUM_SEARCHES = 20
MOST_TRIALS = 200
"""So many trials stand for more."""
SHARE_OF_MODE = 0.5
"""Of the variance of scores, what comes from the trials' modes; the rest is each trial's own."""


@dataclass(frozen=True)
class TrialCost:
    """Seconds of one trial: until its first step, and of each of its epochs; trials of one `mode` score alike."""

    mode: str
    begin_seconds: float
    epoch_seconds: float
    num_epochs: int


@dataclass(frozen=True)
class SimulatedSearch:
    """`seconds` from the first trial's start to the last one's end; those of all trials; the share of epochs run."""

    seconds: float
    trial_seconds: float
    share_run: float


def simulate_searches(
    space: SearchSpace, given: Sequence[TrialCost], drawn: Sequence[TrialCost], num_at_once: int
) -> list[SimulatedSearch]:
    """Searches that differ by draws and scores. `given` are first points; `drawn` random trials, or a grid's rows.

    Where neither draws nor scores decide anything, one search stands for all.
    """
    generator = np.random.default_rng(0)
    is_certain = space.sampler == "grid" and not space.stops_weak_trials
    return [_simulate(space, given, drawn, num_at_once, generator) for _ in range(1 if is_certain else NUM_SEARCHES)]


def _simulate(
    space: SearchSpace,
    given: Sequence[TrialCost],
    drawn: Sequence[TrialCost],
    num_at_once: int,
    generator: np.random.Generator,
) -> SimulatedSearch:
    trials = _draw_trials(space, given, drawn, generator)
    scores = _draw_scores(trials, generator)
    rungs = build_rungs(space.grace_fraction, space.reduction_factor)
    curves: list[dict[int, float]] = []
    done = [0] * len(trials)
    running: list[tuple[float, int]] = []  # when its next epoch ends, and which trial
    now = trial_seconds = 0.0
    while running or len(curves) < len(trials):
        while len(running) < num_at_once and len(curves) < len(trials):
            trial = trials[len(curves)]
            heapq.heappush(running, (now + trial.begin_seconds + trial.epoch_seconds, len(curves)))
            trial_seconds += trial.begin_seconds
            curves.append({})
        now, index = heapq.heappop(running)
        trial, curve = trials[index], curves[index]
        trial_seconds += trial.epoch_seconds
        done[index] += 1
        curve[compute_step(done[index], trial.num_epochs)] = scores[index]
        is_over = done[index] == trial.num_epochs
        if not is_over and space.stops_weak_trials:
            others = [other for number, other in enumerate(curves) if number != index]
            is_over = should_prune(curve, others, rungs, space.reduction_factor)
        if not is_over:
            heapq.heappush(running, (now + trial.epoch_seconds, index))
    scale = num_trials(space) / len(trials)
    planned = sum(trial.num_epochs for trial in trials)
    return SimulatedSearch(now * scale, trial_seconds * scale, sum(done) / planned)


def _draw_trials(
    space: SearchSpace, given: Sequence[TrialCost], drawn: Sequence[TrialCost], generator: np.random.Generator
) -> list[TrialCost]:
    count = min(num_trials(space), MOST_TRIALS)
    if space.sampler == "grid":
        return list(drawn[:count])
    return [*given, *(drawn[index] for index in generator.integers(len(drawn), size=count))][:count]


def _draw_scores(trials: Sequence[TrialCost], generator: np.random.Generator) -> list[float]:
    of_mode = {mode: generator.normal() for mode in sorted({trial.mode for trial in trials})}
    return [
        float(SHARE_OF_MODE**0.5 * of_mode[trial.mode] + (1 - SHARE_OF_MODE) ** 0.5 * generator.normal())
        for trial in trials
    ]
