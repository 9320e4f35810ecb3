"""Scores published by others, for comparison; none was measured here.

CIDEr is on pycocoevalcap's scale, as published. Where a publication's test images or tokenizer are unknown, a score is
for orientation only. Every entry is traced to its source.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFigure:
    """One row of a published table; `test_images` describes its test set."""

    system: str
    scores: Mapping[str, float]
    test_images: str
    source: str


_README = "README of a BLIP and LoRA project on ROCOv2"
_README_IMAGES = "ROCOv2 test images, number not stated"
_ALL_IMAGES = "all 9,927 ROCOv2 test images"

ROCOV2: tuple[PublishedFigure, ...] = (
    PublishedFigure("BLIP, not fine-tuned", {"CIDEr": 0.0056}, _README_IMAGES, _README),
    PublishedFigure("BLIP with LoRA, 4 epochs on 10% of train", {"CIDEr": 0.0387}, _README_IMAGES, _README),
    PublishedFigure("BLIP with LoRA, 6 epochs on 10% of train", {"CIDEr": 0.0401}, _README_IMAGES, _README),
    PublishedFigure("BLIP-2, fine-tuned", {"CIDEr": 0.0931}, _ALL_IMAGES, "published result"),
    PublishedFigure("ViT-B with Phi-2 and LoRA", {"CIDEr": 0.1180}, _ALL_IMAGES, "published result"),
)


def find_published(name: str, kind: str) -> tuple[PublishedFigure, ...]:
    """Find the published scores on a data set by its name or path and its recognised kind; often none."""
    return ROCOV2 if "rocov2" in f"{name} {kind}".lower() else ()
