"""The pointing game on synthetic heads: does the map of an answer peak where the structure lies that it is about?

As `pointing_game`, in three dimensions: one point for each answer, the patch at which its map is strongest; a hit is a
patch that holds at least one voxel of the structure. Answers count whether they are right or wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medcap_core.attention.pointing import PointingGame, build_game
from medcap_core.attention.volume_maps import Patch
from medcap_core.data.brain_phantoms import BrainPhantom
from medcap_core.data.brain_phantoms.anatomy import MaskName
from medcap_core.data.records import Record
from medcap_core.scoring.statistics import number_units

Mask = NDArray[np.bool_]

_STRUCTURES: Mapping[str, tuple[MaskName, ...]] = {
    "hippocampus": ("left_hippocampus", "right_hippocampus"),
    "cortex": ("cortex",),
}
_SIDES: Mapping[str, tuple[MaskName, ...]] = {"left": ("left_hippocampus",), "right": ("right_hippocampus",)}


def find_structures(record: Record, kind: str) -> tuple[MaskName, ...]:
    """What the true answer to a phantom's question of this kind is about; empty where that is no place in the head.

    `structure` is about what has shrunk most, `side` about the smaller hippocampus, `ventricles` about these.
    """
    if not isinstance(record.image, BrainPhantom):
        return ()
    if kind == "structure":
        return _STRUCTURES.get(record.truth["structure"], ())
    if kind == "side":
        return _SIDES.get(record.truth["side"], ())
    return ("ventricles",) if kind == "ventricles" else ()


def draw_structures(record: Record, names: Sequence[MaskName], size: int) -> Mask:
    """The voxels of a phantom's structures in the cube that a model sees, bool (size, size, size)."""
    assert isinstance(record.image, BrainPhantom)
    mask: Mask = np.zeros([size] * 3, dtype=bool)
    for name in names:
        mask[record.image.cube_mask(name, size)] = True
    return mask


def find_patches(mask: Mask, num_patches: int) -> Mask:
    """Which patches, `num_patches` along each axis, hold a voxel of a mask (S, S, S): bool (n, n, n)."""
    side = len(mask) // num_patches
    patches: Mask = np.any(mask.reshape([num_patches, side] * 3), axis=(1, 3, 5))
    return patches


@dataclass(frozen=True)
class PointedAnswer:
    """One answer's peak, and the patches (n, n, n) of the structure its question is about; `case` is the subject."""

    record_id: str
    case: str | None
    kind: str
    peak: Patch
    target: Mask


def play_volume_game(answers: Sequence[PointedAnswer], *, seed: int = 0) -> dict[str | None, PointingGame]:
    """Score the answers of each kind, and under None of all; empty where there are none.

    `shuffled_chance` puts in the masks of all other subjects asked the same, each what their own true answer is about.
    """
    if not answers:
        return {}
    hits = np.array([answer.target[answer.peak] for answer in answers], float)
    shares = np.array([answer.target.mean() for answer in answers])
    shuffled = _count_shuffled_hits(answers)
    # A scan without a subject is its own: its answers are drawn together.
    units = number_units([answer.case or f"scan {answer.record_id}" for answer in answers])
    games: dict[str | None, PointingGame] = {}
    for kind in (None, *dict.fromkeys(answer.kind for answer in answers)):
        rows = np.array([row for row, answer in enumerate(answers) if kind in (None, answer.kind)])
        num_scans = len({answers[row].record_id for row in rows})
        subjects = np.unique(units[rows], return_inverse=True)[1]
        ones = np.ones(len(rows))
        games[kind] = build_game(num_scans, hits[rows], shuffled[rows], ones, shares[rows], subjects, seed=seed)
    return games


def _count_shuffled_hits(answers: Sequence[PointedAnswer]) -> NDArray[np.float64]:
    """For each answer the chance that its peak lies in the structure of another subject asked the same."""
    counts = np.zeros(len(answers))
    for kind in {answer.kind for answer in answers}:
        rows = [row for row, answer in enumerate(answers) if answer.kind == kind]
        targets = np.stack([answers[row].target for row in rows])
        names = np.array([answers[row].case or answers[row].record_id for row in rows])
        for row, name in zip(rows, names, strict=True):
            others = targets[names != name]
            if len(others):
                counts[row] = others[(slice(None), *answers[row].peak)].mean()
    return counts
