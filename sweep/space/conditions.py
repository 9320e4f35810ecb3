"""Conditions between knobs: their order, which range holds, and which conditions can never or doubly hold.

A knob is active where one of its ranges holds; a range holds where every knob in its `when` is active and has one of
the values listed. Checks are exact: every combination of the values that conditions name is written out.
"""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import combinations

from sweep.space.faults import FaultList
from sweep.space.fields import show, show_plain, suggest_spelling
from sweep.space.ranges import Range, Value

Knobs = Mapping[str, tuple[Range, ...]]


def order_knobs(search: Knobs) -> list[str]:
    """List knobs with every parent before its children, otherwise in the order of the file; without cyclic ones."""
    ordered: list[str] = []

    def is_ready(knob: str) -> bool:
        return knob not in ordered and _parents(search, knob) <= set(ordered)

    while (knob := next(filter(is_ready, search), None)) is not None:
        ordered.append(knob)
    return ordered


def active_range(ranges: tuple[Range, ...], point: Mapping[str, Value]) -> Range | None:
    """Return the range that holds given the values of `point`, or None where the knob is inactive."""
    return next((item for item in ranges if _holds(item, point)), None)


def parameter_name(knob: str, ranges: tuple[Range, ...], active: Range) -> str:
    """Name one range as a parameter of a study.

    The knob's own name, or `learning_rate[freeze=full|encoder_only,augment=true]` where the knob has several ranges:
    each has its own distribution, and a sampler must not mix them.
    """
    if len(ranges) == 1:
        return knob
    conditions = (f"{parent}={'|'.join(map(show_plain, values))}" for parent, values in active.when.items())
    return f"{knob}[{','.join(conditions)}]"


def fold_fixed(search: Knobs, fixed: Mapping[str, Value]) -> dict[str, tuple[Range, ...]]:
    """Settle the conditions on fixed fields.

    A condition that a fixed value meets is dropped, as is a range that it rules out, a knob left without a range, and
    whatever depended on such a knob.
    """
    folded = {knob: ranges for knob, ranges in search.items() if knob not in fixed}
    while True:
        settled = {
            knob: tuple(kept for item in ranges if (kept := _settle(item, folded, fixed)) is not None)
            for knob, ranges in folded.items()
        }
        settled = {knob: ranges for knob, ranges in settled.items() if ranges}
        if settled == folded:
            return settled
        folded = settled


def check_conditions(search: Knobs, fixed: Mapping[str, Value], broken: set[str], faults: FaultList) -> None:
    """Note every condition that is unknown, cyclic, impossible, or holds together with another of the same knob.

    `broken` names the knobs that could not be read: what depends on them is not judged.
    """
    doubtful = set(broken)
    for knob, ranges in search.items():
        for key, item in key_ranges(knob, ranges):
            for parent, values in item.when.items():
                found = [] if parent in broken else _find_parent_faults(search, fixed, parent, values)
                for problem, remedy in found:
                    faults.add(f"{key}.when.{parent}", problem, remedy)
                    doubtful.add(knob)
    while dependent := {knob for knob in search if knob not in doubtful and _parents(search, knob) & doubtful}:
        doubtful |= dependent
    # What is left has met every condition on a fixed field, so folding drops conditions but no range.
    sound = fold_fixed({knob: ranges for knob, ranges in search.items() if knob not in doubtful}, fixed)
    _check_cycles(sound, faults)
    _check_overlaps({knob: sound[knob] for knob in order_knobs(sound)}, faults)


def _find_parent_faults(
    search: Knobs, fixed: Mapping[str, Value], parent: str, values: tuple[Value, ...]
) -> list[tuple[str, str]]:
    """Find problems and remedies of a condition: it names a searched or fixed knob that can have each of the values."""
    if parent in search:
        if any(item.kind in ("uniform", "loguniform") for item in search[parent]):
            remedy = "make the condition depend on a knob with listed values"
            return [(f"{parent} is a continuous range and meets no single value", remedy)]
        never = [value for value in values if not any(item.contains(value) for item in search[parent])]
        remedy = f"add the value to search.{parent} or remove it here"
        return [(f"{parent} never takes {show(value)}", remedy) for value in never]
    if parent not in fixed:
        remedy = suggest_spelling(parent, search) or "add it to 'search' or remove the condition"
        return [(f"{parent} is neither searched nor fixed", remedy)]
    if fixed[parent] in values:
        return []
    problem = f"{parent} is fixed to {show(fixed[parent])} and never takes {show(values[0])}"
    return [(problem, "remove this range or unfix the knob")]


def _check_cycles(search: Knobs, faults: FaultList) -> None:
    """Note the knobs whose conditions lead back to themselves, one fault a cycle."""
    left = {knob: sorted(_parents(search, knob)) for knob in search}
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            cycle = error.args[1][::-1]  # from child to parent
        else:
            return
        problem = f"its condition depends on itself ({' -> '.join(cycle)})"
        faults.add(f"search.{cycle[0]}", problem, "remove one of the conditions")
        left = {knob: [] if knob in cycle else parents for knob, parents in left.items()}


def _check_overlaps(search: Knobs, faults: FaultList) -> None:
    """Note ranges that no combination of values reaches, and pairs that hold together."""
    for knob, ranges in search.items():
        rows = _list_parent_values(search, knob)
        for key, item in key_ranges(knob, ranges):
            if not any(_holds(item, row) for row in rows):
                faults.add(f"{key}.when", "these conditions never hold together", "remove one of them")
        for (first, one), (second, other) in combinations(key_ranges(knob, ranges), 2):
            if any(_holds(one, row) and _holds(other, row) for row in rows):
                place = second.removeprefix("search.")
                faults.add(first, f"it can hold at the same time as {place}", "give them 'when' values that differ")


def _list_parent_values(search: Knobs, knob: str) -> list[dict[str, Value]]:
    """List the combinations of values that conditions of a knob, and of its parents in turn, name; without cycles."""
    ordered, needed = order_knobs(search), {knob}
    for name in reversed(ordered):
        needed |= _parents(search, name) if name in needed else set()
    rows: list[dict[str, Value]] = [{}]
    for parent in ordered:
        named = {value for name in needed for item in search[name] for value in item.when.get(parent, ())}
        rows += [
            row | {parent: value}
            for row in rows
            for value in named
            if any(_holds(item, row) and item.contains(value) for item in search[parent])
        ]
    return rows


def _holds(item: Range, point: Mapping[str, Value]) -> bool:
    return all(parent in point and point[parent] in values for parent, values in item.when.items())


def _settle(item: Range, search: Knobs, fixed: Mapping[str, Value]) -> Range | None:
    """Return the range without its conditions on fixed fields; None where one, or a missing knob, rules it out."""
    left = {}
    for parent, values in item.when.items():
        if parent in search:
            left[parent] = values
        elif parent not in fixed or fixed[parent] not in values:
            return None
    return item.model_copy(update={"when": left})


def _parents(search: Knobs, knob: str) -> set[str]:
    return {parent for item in search[knob] for parent in item.when}


def key_ranges(knob: str, ranges: tuple[Range, ...]) -> list[tuple[str, Range]]:
    """Pair the ranges of a knob with their key paths in the file."""
    if len(ranges) == 1:
        return [(f"search.{knob}", ranges[0])]
    return [(f"search.{knob}[{index}]", item) for index, item in enumerate(ranges)]
