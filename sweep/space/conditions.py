"""Conditions between knobs: their order, which branch holds, and which conditions can never or doubly hold.

A knob is active where one of its branches holds; a branch holds where every knob in its `when` is active and has one of
the values listed. Checks are exact: the part of the space in which a branch holds is written out as regions.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from sweep.space.fields import FaultList, show, show_plain, suggest_spelling
from sweep.space.ranges import Branch, Choice, Grid, IntRange

Knobs = Mapping[str, tuple[Branch, ...]]
Region = dict[str, frozenset[Any]]  # knob -> the values it may have there; a knob left out is free


def order_knobs(search: Knobs) -> list[str]:
    """Knobs with every parent before its children, otherwise in the order of the file; cyclic ones are left out."""
    ordered: list[str] = []
    while True:
        ready = (knob for knob in search if knob not in ordered and _parents(search, knob) <= set(ordered))
        knob = next(ready, None)
        if knob is None:
            return ordered
        ordered.append(knob)


def active_branch(branches: tuple[Branch, ...], point: Mapping[str, Any]) -> Branch | None:
    """The branch that holds given the values of `point`, or None where the knob is inactive."""
    for branch in branches:
        if all(parent in point and point[parent] in values for parent, values in branch.when.items()):
            return branch
    return None


def parameter_name(knob: str, branches: tuple[Branch, ...], branch: Branch) -> str:
    """The name of one branch as a parameter of a study.

    The knob's own name, or `learning_rate[freeze=lora]` where the knob has several branches: each has its own
    distribution, and a sampler must not mix them.
    """
    return knob if len(branches) == 1 else f"{knob}[{describe_condition(branch)}]"


def describe_condition(branch: Branch) -> str:
    """`freeze=full|encoder_only,augment=true`; empty where the branch always holds."""
    return ",".join(f"{knob}={'|'.join(show_plain(item) for item in items)}" for knob, items in branch.when.items())


def fold_fixed(search: Knobs, fixed: Mapping[str, Any]) -> dict[str, tuple[Branch, ...]]:
    """Settle the conditions on fixed fields.

    A condition that a fixed value meets is dropped, as is a branch that it rules out, a knob left without a branch, and
    whatever depended on such a knob.
    """
    folded = {knob: branches for knob, branches in search.items() if knob not in fixed}
    while True:
        settled = {
            knob: tuple(kept for branch in branches if (kept := _settle(branch, folded, fixed)) is not None)
            for knob, branches in folded.items()
        }
        settled = {knob: branches for knob, branches in settled.items() if branches}
        if settled == folded:
            return settled
        folded = settled


def check_conditions(search: Knobs, fixed: Mapping[str, Any], broken: set[str], faults: FaultList) -> None:
    """Note every condition that is unknown, cyclic, impossible, or holds together with another of the same knob.

    `broken` names the knobs that could not be read: what depends on them is not judged.
    """
    doubtful = set(broken)
    for knob, branches in search.items():
        for key, branch in _keyed(knob, branches):
            for parent, values in branch.when.items():
                if parent not in broken and not _check_parent(search, fixed, parent, values, f"{key}.when", faults):
                    doubtful.add(knob)
    while dependent := {knob for knob in search if knob not in doubtful and _parents(search, knob) & doubtful}:
        doubtful |= dependent
    # What is left has met every condition on a fixed field, so folding drops conditions but no branch.
    sound = fold_fixed({knob: branches for knob, branches in search.items() if knob not in doubtful}, fixed)
    _check_cycles(sound, faults)
    _check_regions({knob: sound[knob] for knob in order_knobs(sound)}, faults)


def _check_parent(
    search: Knobs, fixed: Mapping[str, Any], parent: str, values: tuple[Any, ...], key: str, faults: FaultList
) -> bool:
    """Whether a condition names a knob that is searched or fixed and can have each of the values."""
    if parent in fixed and parent not in search:
        if fixed[parent] in values:
            return True
        taken = f"{parent} is fixed to {show(fixed[parent])}"
        faults.add(
            f"{key}.{parent}", f"{taken} and never takes {show(values[0])}", "remove this range or unfix the knob"
        )
        return False
    if parent not in search:
        remedy = suggest_spelling(parent, search) or "add it to 'search' or remove the condition"
        faults.add(f"{key}.{parent}", f"{parent} is neither searched nor fixed", remedy)
        return False
    ranges = [branch.range for branch in search[parent]]
    if not all(isinstance(item, Choice | Grid | IntRange) for item in ranges):
        faults.add(
            f"{key}.{parent}",
            f"{parent} is a continuous range and meets no single value",
            "make the condition depend on a knob with listed values",
        )
        return False
    never = [value for value in values if not any(item.contains(value) for item in ranges)]
    for value in never:
        remedy = f"add the value to search.{parent} or remove it here"
        faults.add(f"{key}.{parent}", f"{parent} never takes {show(value)}", remedy)
    return not never


def _check_cycles(search: Knobs, faults: FaultList) -> None:
    """Note the knobs whose conditions lead back to themselves, one fault a cycle."""
    left = {knob for knob in search if knob not in order_knobs(search)}
    while left:
        path = [min(left, key=list(search).index)]
        while (following := min(_parents(search, path[-1]) & left, default=None)) is not None and following not in path:
            path.append(following)
        if following is not None:
            cycle = path[path.index(following) :]
            chain = " -> ".join([*cycle, cycle[0]])
            faults.add(
                f"search.{cycle[0]}", f"its condition depends on itself ({chain})", "remove one of the conditions"
            )
        left -= set(path)


def _check_regions(search: Knobs, faults: FaultList) -> None:
    """Note branches that no combination of values reaches, and pairs that hold together."""
    for knob, branches in search.items():
        reached = [(key, compute_regions(search, branch)) for key, branch in _keyed(knob, branches)]
        for key, regions in reached:
            if not regions:
                faults.add(f"{key}.when", "these conditions never hold together", "remove one of them")
        for (first, ones), (second, others) in combinations(reached, 2):
            if any(_intersect(one, other) is not None for one in ones for other in others):
                place = second.removeprefix("search.")
                faults.add(first, f"it can hold at the same time as {place}", "give them 'when' values that differ")


def compute_regions(search: Knobs, branch: Branch) -> list[Region]:
    """Where a branch holds, as regions: none if it never does. `search` must be free of cycles."""
    regions: list[Region] = [{}]
    for parent, values in branch.when.items():
        options = list(_parent_regions(search, parent, values))
        regions = [joint for one in regions for other in options if (joint := _intersect(one, other)) is not None]
    return regions


def _parent_regions(search: Knobs, parent: str, values: tuple[Any, ...]) -> Iterator[Region]:
    for branch in search[parent]:
        taken = frozenset(value for value in values if branch.range.contains(value))
        if taken:
            for region in compute_regions(search, branch):
                yield region | {parent: taken}


def _intersect(one: Region, other: Region) -> Region | None:
    joint = dict(one)
    for knob, values in other.items():
        joint[knob] = joint[knob] & values if knob in joint else values
        if not joint[knob]:
            return None
    return joint


def _settle(branch: Branch, search: Knobs, fixed: Mapping[str, Any]) -> Branch | None:
    """The branch without its conditions on fixed fields; None where one of them, or a missing knob, rules it out."""
    left = {}
    for parent, values in branch.when.items():
        if parent in search:
            left[parent] = values
        elif parent not in fixed or fixed[parent] not in values:
            return None
    return Branch(branch.range, left)


def _parents(search: Knobs, knob: str) -> set[str]:
    return {parent for branch in search[knob] for parent in branch.when}


def _keyed(knob: str, branches: tuple[Branch, ...]) -> list[tuple[str, Branch]]:
    """Branches with their key paths in the file."""
    if len(branches) == 1:
        return [(f"search.{knob}", branches[0])]
    return [(f"search.{knob}[{index}]", branch) for index, branch in enumerate(branches)]
