"""Selection of records: splits cut where a source lacks them, and draws by share and cap."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.grouping import GROUP_NOUNS, group_records
from medcap_core.data.records import SPLITS, Record, SplitName
from medcap_core.errors import DataFault

# Cuts and draws never move with a trial's seed: trials with several seeds must see the same images, so that their
# scores differ by training alone and all of them share one image store.
DATA_SEED = 0

CUT_SHARE = 0.1
_MIN_CUT = 2
_MOST_EQUAL_CAPTIONS = 20
"""A caption of more images is a stock phrase ("Normal chest."), not that of one case."""


def select_rows(num_records: int, *, fraction: float = 1.0, cap: int | None = None, seed: int) -> NDArray[np.int64]:
    """Draw a share of `num_records` rows, at most `cap`, sorted.

    The draw is the head of one seeded permutation, so a smaller draw is a subset of every larger one of the same seed.
    At least one row is drawn unless there are none.
    """
    count = min(num_records, max(1, round(fraction * num_records)))
    if cap is not None:
        count = min(count, cap)
    order = np.random.default_rng(seed).permutation(num_records)
    return np.sort(order[:count]).astype(np.int64)


def cut_missing_splits(
    splits: dict[SplitName, list[Record]], *, seed: int, where: str
) -> tuple[dict[SplitName, list[Record]], list[str]]:
    """Cut the splits a source lacks from train, and return them with one note on each.

    The only split of a source becomes train. A missing test or validation split is 10% of the train
    records (at least 2), drawn by `seed`, in whole groups (`group_records`): by case, else by equal images and equal
    captions, so that none of these is in two splits. Raises DataFault where there is nothing to cut from.
    """
    complete = dict(splits)
    notes = []
    if "train" not in complete:
        if len(complete) != 1:
            found = ", ".join(complete) or "none"
            raise DataFault(f"{where}: no training split was found (splits found: {found}).")
        (only,) = complete
        complete = {"train": complete[only]}
        notes.append(f"The only split is '{only}'; it is taken as the training split.")
    num_to_cut = max(_MIN_CUT, round(CUT_SHARE * len(complete["train"])))
    for split in ("test", "validation"):
        if split in complete:
            continue
        kept, cut, groups = _cut(complete["train"], num_to_cut, seed, where=f"{where}: a {split} split")
        complete["train"], complete[split] = kept, cut
        noun = cut[0].noun
        unit = f"by {groups}" if groups else f"{noun} by {noun}"
        notes.append(f"There is no {split} split: {len(cut)} {noun}s were cut from train, {unit}, by seed {seed}.")
    return {split: complete[split] for split in SPLITS}, notes


def _cut(
    records: Sequence[Record], num_to_cut: int, seed: int, *, where: str
) -> tuple[list[Record], list[Record], str]:
    """Return (kept, cut, what grouped them, empty for nothing); both lists keep their order."""
    members, groups = group_records(records, most=min(2 * num_to_cut, _MOST_EQUAL_CAPTIONS))
    taken = _draw(members, num_to_cut, seed)
    if groups and not _MIN_CUT <= len(taken) <= len(records) - _MIN_CUT and all(r.case is None for r in records):
        members, groups = [[row] for row in range(len(records))], ""  # images or captions almost all alike
        taken = _draw(members, num_to_cut, seed)
    if not _MIN_CUT <= len(taken) <= len(records) - _MIN_CUT:
        noun = records[0].noun if records else Record.noun
        cases = f" of {len(members)} {GROUP_NOUNS[noun]}" if groups else ""
        raise DataFault(
            f"{where} cannot be cut from {len(records)} training {noun}s{cases}: add {noun}s or name the splits "
            "yourself."
        )
    kept = [record for row, record in enumerate(records) if row not in taken]
    cut = [record for row, record in enumerate(records) if row in taken]
    return kept, cut, groups


def _draw(members: Sequence[Sequence[int]], num_to_cut: int, seed: int) -> set[int]:
    """Draw whole groups of rows until `num_to_cut` rows are drawn; a group that would double this stays."""
    taken: set[int] = set()
    for index in np.random.default_rng(seed).permutation(len(members)):
        if len(taken) < num_to_cut and len(taken) + len(members[index]) <= 2 * num_to_cut:
            taken.update(members[index])
    return taken
