"""Early stopping of trials: asynchronous successive halving with rungs at shares of each trial's own schedule.

Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA), MLSys 2020, in the variant that stops
trials and never pauses them. One departure from Optuna's `SuccessiveHalvingPruner`: there, a first report past several
rungs enters all of them. A schedule of two epochs first reports at 50% and would then be compared at 25% with trials
half as far, and raise the threshold for them. Here a report enters only the highest rung it has reached. Decisions
follow from the curves alone, so a resumed run needs no stored state.
"""

from collections.abc import Iterable, Mapping

Curve = Mapping[int, float]
"""Best score so far by per cent of the schedule."""


def build_rungs(grace_fraction: float, reduction_factor: int) -> list[int]:
    """Build the shares of a schedule, in per cent below 100, at which trials are compared.

    For a grace of 0.25 and a factor of 2: 25 and 50.
    """
    rungs = []
    share = 100.0 * grace_fraction
    while round(share) < 100:
        rungs.append(round(share))
        share *= reduction_factor
    return rungs


def find_rung_value(curve: Curve, rungs: list[int], index: int) -> float | None:
    """Find a trial's value at rung `index`: its first report at or past that rung and before the next, or None."""
    end = rungs[index + 1] if index + 1 < len(rungs) else 100
    steps = [step for step in curve if rungs[index] <= step < end]
    return curve[min(steps)] if steps else None


def should_prune(curve: Curve, others: Iterable[Curve], rungs: list[int], reduction_factor: int) -> bool:
    """Decide whether a trial is pruned after its newest report, the last of `curve`.

    It is, if that report is the trial's first in a rung and not among the best 1/`reduction_factor` (rounded down, at
    least one; ties stay) of all reports in the rung so far, itself included. A trial at the end of its schedule is
    never pruned.
    """
    newest = max(curve, default=0)
    index = sum(rung <= newest for rung in rungs) - 1
    if newest >= 100 or index < 0:
        return False
    if any(rungs[index] <= step < newest for step in curve):
        return False
    values = [find_rung_value(other, rungs, index) for other in others]
    competing = sorted([*(value for value in values if value is not None), curve[newest]], reverse=True)
    num_kept = max(1, len(competing) // reduction_factor)
    return curve[newest] < competing[num_kept - 1]
