"""Preparation of the images (or scans) and captions of each split for a trial's config."""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcap_core.config import TrialConfig
from medcap_core.data.grouping import list_some
from medcap_core.data.images import Geometry
from medcap_core.data.records import SPLITS, Dataset, Record, SkippedRecord, SplitName
from medcap_core.data.scans.files import NiftiFile
from medcap_core.data.scans.nifti import describe_other_zooms
from medcap_core.data.sources import load_data
from medcap_core.data.sources.tables import TableColumns
from medcap_core.data.splits import DATA_SEED, select_rows
from medcap_core.data.stores.duplicates import DuplicateImages, find_duplicates, load_hashes
from medcap_core.data.stores.images import ImageStore
from medcap_core.errors import DataFault
from medcap_core.runtime.cache import cache_root
from medcap_core.runtime.files import write_csv_atomically
from medcap_core.runtime.progress import Progress

_MIN_IMAGES = 2
_NUM_LISTED = 10


class TooManyBadRecords(DataFault):
    """More records are unusable than `max_bad_record_share` allows; `skipped` lists them all."""

    def __init__(self, faults: str | Iterable[str], skipped: Sequence[SkippedRecord] = ()) -> None:
        super().__init__(faults)
        self.skipped = list(skipped)


@dataclass(frozen=True)
class PreparedSplit:
    """The usable records of a split, in order, and the row of each in the image store."""

    split: SplitName
    records: list[Record]
    store: ImageStore
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def captions(self) -> list[str]:
        """The first caption of each record."""
        return [record.caption for record in self.records]

    @property
    def references(self) -> list[tuple[str, ...]]:
        """All captions of each record."""
        return [record.references for record in self.records]

    @property
    def ids(self) -> list[str]:
        """The id of each record, unique in the split."""
        return [record.id for record in self.records]

    def part(self, positions: NDArray[np.int64]) -> "PreparedSplit":
        """Return the part of the split at `positions`, in that order."""
        records = [self.records[position] for position in positions.tolist()]
        return PreparedSplit(self.split, records, self.store, self.rows[positions])

    def pixels(self, positions: NDArray[np.int64] | slice | list[int]) -> NDArray[np.uint8]:
        """Read the images at `positions`, uint8 RGB (B, 3, S, S), or scans (B, 1, S, S, S); not normalised."""
        return self.store.pixels(self.rows[positions])


@dataclass(frozen=True)
class PreparedData:
    """The prepared splits; `skipped` lists the records left out when reading and when decoding."""

    name: str
    kind: str
    notes: list[str]
    splits: dict[SplitName, PreparedSplit]
    skipped: list[SkippedRecord] = field(default_factory=list)


def prepare_data(
    config: TrialConfig,
    geometry: Geometry,
    *,
    splits: Sequence[SplitName] = ("train", "validation"),
    whole_validation: bool = False,
    progress: Progress | None = None,
) -> PreparedData:
    """Read the data set, draw the records `config` asks for and decode their images once.

    train: `data_fraction`, then `max_train_images`; validation: `max_validation_images` unless `whole_validation`;
    test: `max_test_images`. All draws use DATA_SEED, never `config.seed`, so that trials see the same images. With
    `drop_duplicate_train_images`, train loses the images that test or the whole validation split also hold. The data
    set stays in memory for later calls. Bad records are left out, and judged by `judge_records` alone. Raises DataFault
    where a split is left with fewer than 2 images or where the data set holds scans and the model takes images, or vice
    versa.
    """
    dataset = load_dataset(config)
    prepared, skipped = _decode(config, geometry, splits, progress, whole_validation=whole_validation)
    skipped.extend(record for record in dataset.dropped if record.split in splits)
    if config.drop_duplicate_train_images and "train" in prepared:
        prepared["train"], dropped = _drop_duplicates(config, geometry, prepared["train"], progress)
        skipped.extend(dropped)
    faults = [
        f"{config.data}: the {split} split has {len(part)} usable {geometry.noun}s, but at least {_MIN_IMAGES} are "
        f"needed: add {geometry.noun}s, or raise data_fraction or the split's cap."
        for split, part in prepared.items()
        if len(part) < _MIN_IMAGES
    ]
    if faults:
        raise DataFault(faults)
    return PreparedData(dataset.name, dataset.kind, dataset.notes, prepared, skipped)


def judge_records(
    config: TrialConfig, geometry: Geometry, progress: Progress | None = None, *, whole_validation: bool = True
) -> list[SkippedRecord]:
    """Read and decode all splits, and judge the share of their records that is unusable.

    Judged once, before anything trains, so that no later step, which needs some of the splits, has a share of its own.
    Returns the unusable records. Raises TooManyBadRecords above `max_bad_record_share`, and as `prepare_data`.
    """
    dataset = load_dataset(config)
    prepared, skipped = _decode(config, geometry, SPLITS, progress, whole_validation=whole_validation)
    num_left_out = Counter(record.split for record in dataset.skipped)
    num_read = {split: num_left_out[split] + len(dataset.splits[split]) for split in SPLITS}
    num_unreadable = Counter(record.split for record in skipped[len(dataset.skipped) :])
    num_opened = {split: num_unreadable[split] + len(prepared[split]) for split in SPLITS}
    # Reading covers all records, decoding only the drawn ones, so each share has a base of its own.
    share_left_out = Fraction(num_left_out.total(), max(1, sum(num_read.values())))
    share_unreadable = Fraction(num_unreadable.total(), max(1, sum(num_opened.values())))
    bad_share = float(1 - (1 - share_left_out) * (1 - share_unreadable))
    if bad_share > config.max_bad_record_share:
        of_splits = [
            f"{split} {num_left_out[split] + num_unreadable[split]:,} of {num_read[split]:,}"
            + (f" ({num_opened[split]:,} opened)" if num_opened[split] < len(dataset.splits[split]) else "")
            for split in SPLITS
        ]
        listed = [f"{record.split} {record.id}: {record.reason}" for record in skipped[:_NUM_LISTED]]
        if len(skipped) > _NUM_LISTED:
            listed.append(f"... and {len(skipped) - _NUM_LISTED} more")
        fault = (
            f"{config.data}: {bad_share:.1%} of the records of all splits cannot be used ({', '.join(of_splits)}), but "
            f"max_bad_record_share is {config.max_bad_record_share}: mend them, or raise max_bad_record_share if they "
            "are lost for good, and give the command again."
        )
        raise TooManyBadRecords([fault, *listed], skipped)
    return skipped


def _decode(
    config: TrialConfig,
    geometry: Geometry,
    splits: Sequence[SplitName],
    progress: Progress | None,
    *,
    whole_validation: bool,
) -> tuple[dict[SplitName, PreparedSplit], list[SkippedRecord]]:
    """Decode the images that `config` draws of `splits`.

    Returns the readable ones, and the records that are bad: first those left out in reading, then the unreadable.
    """
    dataset = load_dataset(config)
    if {record.noun for records in dataset.splits.values() for record in records} - {geometry.noun}:
        holds, takes = ("scans", "flat images") if geometry.noun == "image" else ("flat images", "scans")
        remedy = "model: medblip3d" if geometry.noun == "image" else "data: brain_phantoms or a table of scans"
        raise DataFault(f"{config.data} holds {holds}, but the model {config.model} takes {takes}: use {remedy}.")
    prepared: dict[SplitName, PreparedSplit] = {}
    skipped = [record for record in dataset.skipped if record.split in splits]
    unit = "px" if geometry.noun == "image" else "voxels a side"
    for split in splits:
        drawn = draw_rows(dataset, split, config, whole_validation=whole_validation)
        store = _open_store(_key_of(config), split, geometry, cache_root())
        store.ensure(drawn, progress, f"decoding {split} {geometry.noun}s at {geometry.size} {unit}")
        usable = drawn[store.readable(drawn)]
        records, reasons = dataset.splits[split], store.unreadable
        bad = [row for row in drawn.tolist() if row in reasons]
        skipped += [SkippedRecord(split, records[row].id, f"unreadable {geometry.noun}: {reasons[row]}") for row in bad]
        prepared[split] = PreparedSplit(split, [records[row] for row in usable.tolist()], store, usable)
    return prepared, skipped


def find_duplicate_images(config: TrialConfig, geometry: Geometry, progress: Progress | None = None) -> DuplicateImages:
    """Compare the train images drawn by `config`, before any drop, with the whole validation split and with test.

    Decodes the images that are not yet decoded. Raises as `prepare_data`.
    """
    all_kept = config.model_copy(update={"drop_duplicate_train_images": False})
    splits = prepare_data(all_kept, geometry, splits=SPLITS, whole_validation=True, progress=progress).splits
    train = splits["train"]
    pairs = find_duplicates(train, (splits["validation"], splits["test"]), progress)
    return DuplicateImages(pairs, int(load_hashes(train, progress).blank.sum()), geometry.noun)


def _drop_duplicates(
    config: TrialConfig, geometry: Geometry, train: PreparedSplit, progress: Progress | None
) -> tuple[PreparedSplit, list[SkippedRecord]]:
    """Drop the train images that another split also holds; returns the rest and the dropped records."""
    pairs = reversed(find_duplicate_images(config, geometry, progress).pairs)  # the first of an image's counts
    reasons = {pair.id: f"{pair.kind} duplicate of {pair.other_split} {pair.other_id}" for pair in pairs}
    dropped = [SkippedRecord("train", name, reasons[name]) for name in train.ids if name in reasons]
    return train.part(np.flatnonzero([name not in reasons for name in train.ids])), dropped


def write_skipped(skipped: Iterable[SkippedRecord], path: Path) -> None:
    """Write the skipped records as CSV, `split,id,reason`."""
    write_csv_atomically(path, [("split", "id", "reason"), *map(astuple, skipped)])


_DataKey = tuple[str, TableColumns, bool]


def load_dataset(config: TrialConfig) -> Dataset:
    """Load the data set as `config` has it read, once in a process. Raises DataFault."""
    return read_dataset(_key_of(config))


def _key_of(config: TrialConfig) -> _DataKey:
    return config.data, TableColumns(config.image_column, config.caption_column), config.drop_shared_cases


@functools.lru_cache(maxsize=4)
def read_dataset(key: _DataKey) -> Dataset:
    """Read the data set; the cache of `load_dataset`."""
    name_or_path, own, drop_shared_cases = key
    return load_data(name_or_path, seed=DATA_SEED, own=own, drop_shared_cases=drop_shared_cases)


@functools.lru_cache(maxsize=16)
def _open_store(key: _DataKey, split: SplitName, geometry: Geometry, root: Path) -> ImageStore:
    return ImageStore(read_dataset(key).splits[split], geometry, root)


def draw_rows(dataset: Dataset, split: SplitName, config: TrialConfig, *, whole_validation: bool) -> NDArray[np.int64]:
    """Draw the rows of a split that `config` asks for, sorted; see `prepare_data`."""
    validation = None if whole_validation else config.max_validation_images
    caps = {"train": config.max_train_images, "validation": validation, "test": config.max_test_images}
    fraction = config.data_fraction if split == "train" else 1.0
    return select_rows(len(dataset.splits[split]), fraction=fraction, cap=caps[split], seed=DATA_SEED)


def describe_doubtful_inputs(config: TrialConfig, geometry: Geometry, progress: Progress | None = None) -> list[str]:
    """Write a sentence on the images that are nearly black or constant, and one on NIfTI files of two voxel sizes.

    Images are judged by their decoded pixels, with the hashes that `find_duplicates` keeps; of volumes the headers are
    read. Covers the records drawn by `config`. Raises as `prepare_data`.
    """
    blank, contradictory = [], []
    for name, split in prepare_data(config, geometry, splits=SPLITS, progress=progress).splits.items():
        if geometry.noun == "image":
            is_blank = load_hashes(split, progress).blank
            blank += [f"{name} {split.ids[position]}" for position in is_blank.nonzero()[0].tolist()]
        for record in split.records:
            if isinstance(record.image, NiftiFile) and (said := describe_other_zooms(record.image.path)):
                contradictory.append(f"{record.image.path} ({said})")
    sentences = []
    if blank:
        sentences.append(
            f"{len(blank):,} images are nearly black or constant and show a model nothing ({list_some(blank)}): look "
            "at them, and write those anew that were scaled twice or saved with the wrong depth."
        )
    if contradictory:
        sentences.append(
            f"{len(contradictory):,} NIfTI files state two voxel sizes, of which the affine's is used "
            f"({list_some(contradictory)}): correct their headers if it is wrong."
        )
    return sentences
