"""The next point of a search: from a list (first points, grid rows) or from the sampler.

A proposal depends only on the space, its seed, the trial's number and the trials so far: the sampler is built for each
proposal with a seed derived from the number, so a resumed search proposes what it would have without the interruption.
Points are drawn in a copy of the study in memory; the run's record is written once the point is complete and valid.

A space branches where other knobs depend on a choice, such as `freeze`: each of its values is a branch with knobs and
ranges of its own. Every branch first gets a random draw, and MIN_TRIALS trials with those of `first_points`, which are
no draws: they were chosen, and say little of the rest of their branch. Then the branches whose best score is not below
the median of all scores take turns, the least drawn first. A branch below it has lost clearly, and gets nothing more
unless the median falls. Within a branch, a best trial that still rose at its end is tried with the most epochs before
the sampler draws again. `benchmarks/RESULTS.md` compares this with other rules.
"""

import math
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from statistics import median
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution, distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from medcap_core.config import TrialConfig
from medcap_core.errors import ConfigFault
from sweep.space import Point, SearchSpace, adopt_changes, build_config, encode_point, grid_rows, num_trials, propose
from sweep.study.record import Distribution, TrialRecord

MAX_INVALID_DRAWS = 100
MAX_REPEATED_DRAWS = 20
MIN_TRIALS = 2
"""Trials that each branch gets before branches are compared."""


def build_proposal(
    space: SearchSpace, number: int, history: Sequence[FrozenTrial], tried: Collection[TrialConfig]
) -> TrialRecord:
    """Build the record of trial `number` (from 0), given all trials before it, after those of a warm start.

    Points with incompatible fields are drawn again, up to MAX_INVALID_DRAWS, and so are configs in `tried`, up to
    MAX_REPEATED_DRAWS; then a repeat is accepted, as a small space may be exhausted. Raises ConfigFault if no draw is
    valid.
    """
    if space.sampler == "grid":
        return _take_grid_row(space, number)
    given = encode_point(space, space.first_points[number]) if number < len(space.first_points) else None
    fault: ConfigFault | None = None
    repeats: list[TrialRecord] = []
    for attempt in range(MAX_INVALID_DRAWS):
        try:
            proposal = _draw(space, number, attempt, history, given)
        except ConfigFault as error:
            fault = error
            continue
        if proposal.config not in tried:
            return proposal
        repeats.append(proposal)
        if len(repeats) == MAX_REPEATED_DRAWS:
            break
    if repeats:
        return repeats[0]
    assert fault is not None
    said = (
        f"search space {space.name}: {MAX_INVALID_DRAWS} draws for one trial were all invalid; narrow its ranges or "
        "add conditions. The last one:"
    )
    raise ConfigFault((said, *fault.faults))


def score_failures(history: Sequence[FrozenTrial], at_fault: Collection[int]) -> list[FrozenTrial]:
    """Give the failed trials `at_fault`, by number, the lowest score that any trial has reported.

    Optuna's samplers ignore failed trials, and would go on proposing a rate at which training diverges. Only the
    sampler sees these scores.
    """
    lowest = min((value for trial in history for value in trial.intermediate_values.values()), default=0.0)
    return [
        optuna.create_trial(value=lowest, params=trial.params, distributions=trial.distributions)
        if number in at_fault
        else trial
        for number, trial in enumerate(history)
    ]


def can_have_proposed(space: SearchSpace, record: TrialRecord) -> bool:
    """Check whether a trial is of this space, which may have been changed since.

    Mixing both would compare trials of different settings, and Optuna refuses a knob whose choices change.
    """
    try:
        again = _take_grid_row(space, record.number) if space.sampler == "grid" else _replay(space, record)
    except (ConfigFault, ValueError, IndexError):  # now invalid, another knob or choice, or a row less
        return False
    config = adopt_changes(space, record.config)
    return (again.point, again.config, again.distributions) == (record.point, config, record.distributions)


def _replay(space: SearchSpace, record: TrialRecord) -> TrialRecord:
    trial = optuna.trial.FixedTrial(record.parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a value now outside its range fails the comparison
        point = propose(space, trial)
    return build_record(space, record.number, point, trial)


def build_sampler(space: SearchSpace, number: int, attempt: int, *, at_random: bool = False) -> BaseSampler:
    """Build Optuna's sampler for one proposal."""
    seed = int(np.random.SeedSequence([space.seed, number, attempt]).generate_state(1)[0])
    if space.sampler == "random" or at_random:
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group` is marked experimental
        return TPESampler(
            seed=seed,
            n_startup_trials=1,  # the random draws are counted here, without the first points
            multivariate=True,
            group=True,  # without it, knobs under a condition are drawn independently of all others
            constant_liar=True,  # spreads trials that run at the same time
        )


def _draw(
    space: SearchSpace, number: int, attempt: int, history: Sequence[FrozenTrial], given: Point | None
) -> TrialRecord:
    """Draw one point: a listed one, or one of the branch whose turn it is, by what is known of that branch.

    Knobs that a listed point lacks are drawn at random.
    """
    at_random = given is not None
    if given is None and space.sampler == "tpe":
        knob = find_branching_knob(space)
        if knob is None:
            at_random = len(history) - len(space.first_points) < min(10, max(4, num_trials(space) // 3))
        else:
            branch, at_random = choose_branch(space, knob, history, len(history) - number)
            given = {knob: branch}
            history = [trial for trial in history if trial.params[knob] == branch]
        if not at_random and attempt == 0:
            given = lengthen_best(history) or given
    scratch = optuna.create_study(
        direction="maximize", sampler=build_sampler(space, number, attempt, at_random=at_random)
    )
    scratch.add_trials(history)
    if given is not None:
        scratch.enqueue_trial(given)
    trial = scratch.ask()
    point = propose(space, trial)
    return build_record(space, number, point, trial)


def _take_grid_row(space: SearchSpace, number: int) -> TrialRecord:
    rows, distributions = grid_rows(space), dict[str, BaseDistribution]()
    row = rows[number]
    for name in row:
        values = {repr(other[name]): other[name] for other in rows if name in other}
        distributions[name] = CategoricalDistribution(tuple(values.values()))
    return build_record(space, number, row, optuna.create_trial(value=0.0, params=row, distributions=distributions))


def build_record(space: SearchSpace, number: int, point: Point, trial: BaseTrial) -> TrialRecord:
    """Build the record of trial `number` at a point that `trial` is in Optuna's terms."""
    return TrialRecord(
        name=f"trial_{number:04d}",
        number=number,
        point=point,
        config=build_config(space, point),
        parameters=trial.params,
        distributions={
            name: Distribution.model_validate_json(distribution_to_json(range_))
            for name, range_ in trial.distributions.items()
        },
    )


def find_branching_knob(space: SearchSpace) -> str | None:
    """Find the choice that most ranges depend on; None where no range depends on any."""
    named = Counter(parent for ranges in space.search.values() for item in ranges for parent in item.when)
    roots = [knob for knob, ranges in space.search.items() if ranges[0].kind == "choice" and not ranges[0].when]
    return max((knob for knob in roots if named[knob]), key=lambda knob: named[knob], default=None)


def choose_branch(
    space: SearchSpace, knob: str, history: Sequence[FrozenTrial], num_earlier: int = 0
) -> tuple[Any, bool]:
    """Choose the branch of the next trial; the second value says whether it is one of the branch's random draws.

    `history` holds all trials so far by number, after `num_earlier` of other runs, which count as draws but take no
    turn. Trials that still run count as tried, but have no score yet.
    """
    branches = space.search[knob][0].values
    tried = Counter(trial.params[knob] for trial in history)
    drawn = Counter(trial.params[knob] for trial in history[num_earlier + len(space.first_points) :])
    ever_drawn = drawn + Counter(trial.params[knob] for trial in history[:num_earlier])
    short = [branch for branch in branches if ever_drawn[branch] < 1 or tried[branch] < MIN_TRIALS]
    if short:
        return min(short, key=lambda branch: (ever_drawn[branch], tried[branch])), True
    scores = [(trial.params[knob], score) for trial in history if (score := read_score(trial)) is not None]
    bar = median(score for _, score in scores) if scores else None
    best = {branch: max((score for other, score in scores if other == branch), default=None) for branch in branches}
    # A branch without a score has trials that run, or that all failed: the former may still turn out well.
    going = [branch for branch in branches if bar is None or (known := best[branch]) is None or known >= bar]
    return min(going, key=lambda branch: drawn[branch]), False


def lengthen_best(history: Sequence[FrozenTrial]) -> Point | None:
    """Build the parameters of the best whole trial with the most epochs of its range.

    None where its score did not rise to its end, where these are tried already, and where epochs are not searched.
    """
    whole = [trial for trial in history if trial.state is TrialState.COMPLETE and trial.intermediate_values]
    if not whole:
        return None
    best = max(whole, key=lambda trial: trial.values[0])
    name = next((name for name in best.params if name.partition("[")[0] == "num_epochs"), None)
    if name is None:
        return None
    *before, last = (score for _, score in sorted(best.intermediate_values.items()))
    epochs = best.distributions[name]
    assert isinstance(epochs, IntDistribution | CategoricalDistribution)
    most = epochs.high if isinstance(epochs, IntDistribution) else max(n for n in epochs.choices if isinstance(n, int))
    longer = best.params | {name: most}
    is_tried = any(trial.params == longer for trial in history)
    return None if is_tried or last <= max(before, default=-math.inf) else longer


def read_score(trial: FrozenTrial) -> float | None:
    """Return the score of a finished trial, of a stopped one its best so far; None where it has none."""
    if trial.state is TrialState.PRUNED:
        return max(trial.intermediate_values.values(), default=None)
    return trial.value if trial.state is TrialState.COMPLETE else None
