"""Records by split and skipped records, collected while a source is read."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from medcap_core.data.records import Record, Reference, SkippedRecord, SplitName, fold_white_space

EMPTY_CAPTION = "empty caption"
_NO_TEXTS = {"", "nan", "null", "none", "n/a", "#n/a", "<na>"}
"""What tables hold in place of a missing text, in lower case and without dots and dashes around it."""

SPLIT_SPELLINGS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training", "restval"),
    "validation": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing"),
}


def recognise_split(name: str) -> SplitName | None:
    """Parse the name of a split (`val`, `dev`, `Training` ...); None for any other name."""
    folded = name.strip().lower()
    return next((split for split, spellings in SPLIT_SPELLINGS.items() if folded in spellings), None)


@dataclass
class Reading:
    """Records of one source as they are read.

    `splits` has a key for every split of the source, even if all its records were skipped; `notes` are sentences for
    the user; `splits_by_user` marks splits that the user chose, not those published with a data set.
    """

    splits: dict[SplitName, list[Record]] = field(default_factory=dict)
    skipped: list[SkippedRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    splits_by_user: bool = False
    _rows_of_images: dict[tuple[SplitName, Reference], int] = field(default_factory=dict)
    _num_further: int = 0
    _last_numbers: dict[tuple[SplitName, str], int] = field(default_factory=dict)
    _repeated_ids: dict[SplitName, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, split: SplitName, record: Record) -> None:
        """Add `record` with its caption folded and its id made unique in the split; skip it if the caption is empty.

        Of a further record of an image in the split the caption is one more reference of the first.
        """
        caption = _clean(record.caption)
        if _is_missing(caption):
            self.skip(split, record.id, EMPTY_CAPTION)
            return
        if record.case and _is_missing(record.case):
            record = replace(record, case=None)
        records = self.splits.setdefault(split, [])
        row = self._rows_of_images.setdefault((split, record.image), len(records))
        if row < len(records):
            self._num_further += 1
            if caption not in (first := records[row]).references:
                records[row] = replace(first, other_captions=(*first.other_captions, caption))
            return
        own = unique = _clean(record.id)
        while (split, unique) in self._last_numbers:
            self._last_numbers[split, own] += 1
            unique = f"{own}#{self._last_numbers[split, own]}"
        self._last_numbers[split, unique] = 1
        if unique != own:
            self._repeated_ids[split].append(own)
        unchanged = (unique, caption) == (record.id, record.caption)
        records.append(record if unchanged else replace(record, id=unique, caption=caption))

    def add_found(
        self,
        split: SplitName,
        record_id: str,
        found: Reference | str,
        caption: str,
        case: str | None = None,
        truth: Mapping[str, Any] | None = None,
    ) -> None:
        """Add the record of an image, or skip it where `found` is the reason that there is none."""
        if isinstance(found, str):
            self.skip(split, record_id, found)
        else:
            self.add(split, Record(record_id, found, caption, case or None, truth or {}))

    def describe_further_captions(self) -> list[str]:
        """Write one sentence where images have several captions."""
        if not self._num_further:
            return []
        return [
            f"{self._num_further:,} captions are further ones of an image: each image is one record, its captions are "
            "several references, and training takes one of them at random in each epoch."
        ]

    def skip(self, split: SplitName, record_id: str, reason: str) -> None:
        """Skip a record, with its id and the reason."""
        self.splits.setdefault(split, [])
        self.skipped.append(SkippedRecord(split, _clean(record_id), reason))

    def describe_repeated_ids(self) -> list[str]:
        """Write one sentence for each split in which ids were made unique."""
        return [
            f"{len(ids)} repeated ids in {split} were made unique by a suffix (#2, #3 ...): {', '.join(ids[:5])}"
            + (" ..." if len(ids) > 5 else ".")
            for split, ids in self._repeated_ids.items()
        ]


def _is_missing(text: str) -> bool:
    return text.strip(" .-").lower() in _NO_TEXTS


def _clean(text: str) -> str:
    """Fold white space and replace lone surrogates, which JSON can hold but UTF-8 cannot encode."""
    return fold_white_space(text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8"))
