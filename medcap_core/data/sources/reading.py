"""Records by split and skipped records, collected while a source is read."""

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
    """Parse the name of a split (`val`, `dev`, `Training` ...); None for any other name."""
    return _SPELLINGS.get(name.strip().lower())


@dataclass
class Reading:
    """Records of one source as they are read.

    `splits` has a key for every split of the source, even if all its records were skipped; `notes` are sentences for
    the user.
    """

    splits: dict[SplitName, list[Record]] = field(default_factory=dict)
    skipped: list[SkippedRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _taken_ids: dict[SplitName, set[str]] = field(default_factory=dict)
    _repeated_ids: dict[SplitName, list[str]] = field(default_factory=dict)

    def add(self, split: SplitName, record: Record) -> None:
        """Add `record` with its caption folded and its id made unique in the split; skip it if the caption is empty."""
        caption = fold_white_space(_replace_surrogates(record.caption))
        if not caption:
            self.skip(split, record.id, EMPTY_CAPTION)
            return
        unique = self._make_unique(split, fold_white_space(_replace_surrogates(record.id)))
        if (unique, caption) != (record.id, record.caption):
            record = replace(record, id=unique, caption=caption)
        self.splits.setdefault(split, []).append(record)

    def skip(self, split: SplitName, record_id: str, reason: str) -> None:
        """Skip a record, with its id and the reason."""
        self.splits.setdefault(split, [])
        self.skipped.append(SkippedRecord(split, fold_white_space(_replace_surrogates(record_id)), reason))

    def describe_repeated_ids(self) -> list[str]:
        """Write one sentence for each split in which ids were made unique."""
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
    """Replace lone surrogates, which JSON can hold but UTF-8 cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
