"""Selection of records: splits cut where a source lacks them, and draws by share and cap."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.records import SPLITS, Record, SplitName
from medcap_core.errors import DataFault

# Cuts and draws never move with a trial's seed: trials with several seeds must see the same images, so that their
# scores differ by training alone and all of them share one image store.
DATA_SEED = 0

CUT_SHARE = 0.1
_MIN_CUT = 2
_GROUP_NOUNS = {"image": "cases", "scan": "subjects"}


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
    records (at least 2), drawn by `seed`; where records carry a case, whole cases are drawn, so that no
    case is in two splits. Raises DataFault where there is nothing to cut from.
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
        kept, cut, by_case = _cut(complete["train"], num_to_cut, seed, where=f"{where}: a {split} split")
        complete["train"], complete[split] = kept, cut
        noun = cut[0].noun
        unit = f"by whole {_GROUP_NOUNS[noun]}" if by_case else f"{noun} by {noun}"
        notes.append(f"There is no {split} split: {len(cut)} {noun}s were cut from train, {unit}, by seed {seed}.")
    return {split: complete[split] for split in SPLITS}, notes


def _cut(
    records: Sequence[Record], num_to_cut: int, seed: int, *, where: str
) -> tuple[list[Record], list[Record], bool]:
    """Return (kept, cut, whether by case); both lists keep their order."""
    by_case = any(record.case is not None for record in records)
    groups: dict[tuple[bool, str | int], list[int]] = {}
    for row, record in enumerate(records):
        key = (False, row) if record.case is None else (True, record.case)
        groups.setdefault(key, []).append(row)
    members = list(groups.values())
    taken: set[int] = set()
    for index in np.random.default_rng(seed).permutation(len(members)):
        # A case so large that it would double the cut stays in train.
        if len(taken) < num_to_cut and len(taken) + len(members[index]) <= 2 * num_to_cut:
            taken.update(members[index])
    if len(taken) < _MIN_CUT or len(records) - len(taken) < _MIN_CUT:
        noun = records[0].noun if records else Record.noun
        cases = f" of {len(members)} {_GROUP_NOUNS[noun]}" if by_case else ""
        raise DataFault(
            f"{where} cannot be cut from {len(records)} training {noun}s{cases}: add {noun}s or name the splits "
            "yourself."
        )
    kept = [record for row, record in enumerate(records) if row not in taken]
    cut = [record for row, record in enumerate(records) if row in taken]
    return kept, cut, by_case
