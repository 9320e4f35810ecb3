"""Doubtful inputs of a data set: blank images, and volumes whose header contradicts itself."""

from collections.abc import Sequence

from medcap_core.config import TrialConfig
from medcap_core.data.images import Geometry
from medcap_core.data.prepare import prepare_data
from medcap_core.data.records import SPLITS
from medcap_core.data.scans.files import NiftiFile
from medcap_core.data.scans.nifti import describe_other_zooms
from medcap_core.data.stores.duplicates import load_hashes
from medcap_core.runtime.progress import Progress

_NUM_NAMED = 5


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
            f"{len(blank):,} images are nearly black or constant and show a model nothing ({_list(blank)}): look at "
            "them, and write those anew that were scaled twice or saved with the wrong depth."
        )
    if contradictory:
        sentences.append(
            f"{len(contradictory):,} NIfTI files state two voxel sizes, of which the affine's is used "
            f"({_list(contradictory)}): correct their headers if it is wrong."
        )
    return sentences


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_NUM_NAMED]) + (" ..." if len(names) > _NUM_NAMED else "")
