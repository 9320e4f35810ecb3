"""Which branch of a conditional search the next trial explores.

A space branches where other knobs depend on a choice, such as `freeze`: each of its values is a branch with knobs and
ranges of its own. Every branch first gets a random draw, and MIN_TRIALS trials with those of `first_points`, which are
no draws: they were chosen, and say little of the rest of their branch. Then the branches whose best score is not below
the median of all scores take turns, the least drawn first. A branch below it has lost clearly, and gets nothing more
unless the median falls. `benchmarks/RESULTS.md` compares this with other rules.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from sweep.space import SearchSpace

MIN_TRIALS = 2


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


def read_score(trial: FrozenTrial) -> float | None:
    """Return the score of a finished trial, of a stopped one its best so far; None where it has none."""
    if trial.state is TrialState.PRUNED:
        return max(trial.intermediate_values.values(), default=None)
    return trial.value if trial.state is TrialState.COMPLETE else None
