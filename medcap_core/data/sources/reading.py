"""What a loader builds while it reads a source: records by split, and what was left out and why."""

from dataclasses import dataclass, field, replace

from medcap_core.data.records import Record, SkippedRecord, SplitName, fold_white_space

EMPTY_CAPTION = "empty caption"

_SPELLINGS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "val": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}

SPLIT_SPELLINGS: dict[SplitName, tuple[str, ...]] = {
    split: tuple(name for name, meant in _SPELLINGS.items() if meant == split)
    for split in ("train", "validation", "test")
}


def recognise_split(name: str) -> SplitName | None:
    """The split that `name` means (`val`, `dev`, `Training` ...), or None."""
    return _SPELLINGS.get(name.strip().lower())


@dataclass
class Reading:
    """Records of one source as they are read.

    `splits` has a key for every split the source has, even where all its records were left out. `notes` are sentences
    for the user.
    """

    splits: dict[SplitName, list[Record]] = field(default_factory=dict)
    skipped: list[SkippedRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _taken_ids: dict[SplitName, set[str]] = field(default_factory=dict)
    _repeated_ids: dict[SplitName, list[str]] = field(default_factory=dict)

    def add(self, split: SplitName, record: Record) -> None:
        """Keep `record`, its caption folded and its id unique in the split; skip it where the caption is empty."""
        caption = fold_white_space(_replace_surrogates(record.caption))
        if not caption:
            self.skip(split, record.id, EMPTY_CAPTION)
            return
        unique = self._make_unique(split, fold_white_space(_replace_surrogates(record.id)))
        if (unique, caption) != (record.id, record.caption):
            record = replace(record, id=unique, caption=caption)
        self.splits.setdefault(split, []).append(record)

    def skip(self, split: SplitName, record_id: str, reason: str) -> None:
        """Leave a record out, by name and reason."""
        self.splits.setdefault(split, [])
        self.skipped.append(SkippedRecord(split, fold_white_space(_replace_surrogates(record_id)), reason))

    def describe_repeated_ids(self) -> list[str]:
        """One sentence for each split in which ids had to be made unique."""
        return [
            f"{len(ids)} repeated ids in {split} were made unique by a suffix (#2, #3 ...): {', '.join(ids[:5])}"
            + (" ..." if len(ids) > 5 else ".")
            for split, ids in self._repeated_ids.items()
        ]

    def _make_unique(self, split: SplitName, record_id: str) -> str:
        taken = self._taken_ids.setdefault(split, set())
        unique, count = record_id, 1
        while unique in taken:
            count += 1
            unique = f"{record_id}#{count}"
        if count > 1:
            self._repeated_ids.setdefault(split, []).append(record_id)
        taken.add(unique)
        return unique


def _replace_surrogates(text: str) -> str:
    """JSON can hold lone surrogates, which no UTF-8 file can be written with."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
