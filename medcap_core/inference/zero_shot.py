"""Captions of the base model itself: made once for each image, whatever sweep asks."""

import hashlib
from dataclasses import replace

import numpy as np
import torch
import transformers

from medcap_core.config import TrialConfig
from medcap_core.data.batches import SourcePart
from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.stores.captions import CaptionStore
from medcap_core.inference.generation import ImagePrediction, Request, generate_predictions
from medcap_core.inference.image_sources import FrozenEncoder, open_images
from medcap_core.models import COMPOSED_FAMILIES, Captioner, hash_weights
from medcap_core.runtime.device import choose_precision
from medcap_core.runtime.progress import Progress, ignore_progress

SAVED_EVERY = 1024
"""Captions are kept as soon as there are so many new ones."""
DECIDING_FIELDS = (
    "image_size",
    "patch_size",
    "num_queries",
    "qformer_layers",
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


def predict_zero_shot(
    captioner: Captioner,
    split: PreparedSplit,
    request: Request,
    config: TrialConfig,
    progress: Progress = ignore_progress,
) -> list[ImagePrediction]:
    """Predict captions, and what else is asked, by the untrained `captioner`; known captions are looked up.

    Images are shown to the model where their caption is not known yet, all of them where questions are asked.
    """
    store = CaptionStore(split.store.key, describe_captioner(captioner, config))
    is_missing = np.isin(split.rows, store.missing(split.rows))
    shown = np.arange(len(split)) if request.questions else np.flatnonzero(is_missing)
    found = [ImagePrediction()] * len(split)
    if shown.size:
        images = open_images(captioner, split.part(shown), config)
        for start in range(0, len(shown), SAVED_EVERY):
            places = np.arange(start, min(start + SAVED_EVERY, len(shown)))
            positions = shown[places]

            def note(what: str, done: int, _: int, before: int = len(split) - len(shown) + start) -> None:
                progress(what, before + done, len(split))

            wanted = replace(request.part(positions), captions=bool(is_missing[positions].any()))
            part = generate_predictions(captioner, SourcePart(images, places), wanted, config, progress=note)
            if wanted.captions:
                store.add(split.rows[positions], [prediction.text for prediction in part])
            for position, prediction in zip(positions.tolist(), part, strict=True):
                found[position] = prediction
    else:
        progress("captions", len(split), len(split))
    captions = store.captions(split.rows)
    return [replace(prediction, caption=caption) for prediction, caption in zip(found, captions, strict=True)]


def describe_captioner(captioner: Captioner, config: TrialConfig) -> dict[str, object]:
    """All that decides an untrained captioner's captions, except the images."""
    device = next(captioner.parameters()).device
    described: dict[str, object] = {name: getattr(config, name) for name in DECIDING_FIELDS}
    described |= {
        "model": _identify(config.model),
        "encoder": FrozenEncoder(captioner, config).hash,
        "vocabulary": _hash_vocabulary(captioner),
        "precision": str(choose_precision(config, device)),
        "device": device.type,
        "versions": [torch.__version__, transformers.__version__],
    }
    if config.vision_model is not None:
        described["vision_model"] = _identify(config.vision_model)
    if captioner.family in COMPOSED_FAMILIES:
        described["language_model"] = _identify(config.language_model or "brain-gpt2")
    return described


def _identify(model: str) -> str:
    """The weights of a checkpoint; its name where they cannot be hashed, so that no two models are taken for one."""
    return hash_weights(model) or model


def _hash_vocabulary(captioner: Captioner) -> str:
    vocabulary = sorted(captioner.processor.tokenizer.get_vocab().items())
    return hashlib.sha256(repr(vocabulary).encode()).hexdigest()
