"""Captions of the base model itself: made once for each image, whatever sweep asks."""

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from medcap_core.config import TrialConfig
from medcap_core.data.caption_store import CaptionStore
from medcap_core.data.prepare import PreparedSplit
from medcap_core.device import choose_precision
from medcap_core.evaluation import OnProgress, generate_captions, ignore_progress
from medcap_core.image_sources import open_images
from medcap_core.models import Captioner, hash_weights

DECIDING_FIELDS = (
    "image_size",
    "quantization",
    "weights_dtype",
    "prompt",
    "num_beams",
    "max_new_tokens",
    "min_new_tokens",
    "length_penalty",
    "repetition_penalty",
)
"""Of a config: what decides an untrained captioner's captions beside weights, precision and images."""


def caption_zero_shot(
    captioner: Captioner, split: PreparedSplit, config: TrialConfig, progress: OnProgress = ignore_progress
) -> list[str]:
    """One caption for each image of the split by the untrained `captioner`, those known from earlier runs looked up."""
    positions = {row: position for position, row in enumerate(split.rows.tolist())}
    num_done = 0

    def caption(rows: NDArray[np.int64]) -> list[str]:
        nonlocal num_done
        part = split.part(np.array([positions[row] for row in rows.tolist()], dtype=np.int64))

        def note(what: str, done: int, _: int) -> None:
            progress(what, num_done + done, len(split))

        captions = generate_captions(captioner, open_images(captioner, part, config), config, progress=note)
        num_done += len(part)
        return captions

    captions = CaptionStore(split.store.key, describe_captioner(captioner, config)).complete(split.rows, caption)
    progress("captions", len(split), len(split))
    return captions


def describe_captioner(captioner: Captioner, config: TrialConfig) -> dict[str, object]:
    """All that decides an untrained captioner's captions, except the images."""
    device = next(captioner.parameters()).device
    described: dict[str, object] = {name: getattr(config, name) for name in DECIDING_FIELDS}
    described |= {
        "model": _identify(config.model),
        "precision": str(choose_precision(config, device)),
        "device": device.type,
        "versions": [torch.__version__, transformers.__version__],
    }
    if config.vision_model is not None:
        described["vision_model"] = _identify(config.vision_model)
    return described


def _identify(model: str) -> str:
    """The weights of a checkpoint; its name where they cannot be hashed, so that no two models are taken for one."""
    return hash_weights(model) or model
