"""A BLIP small enough for tests, in Hub format, and splits of drawn images held in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from medcap_core.config import TrialConfig
from medcap_core.data.batches import ImageSource
from medcap_core.data.prepare import PreparedData
from medcap_core.data.records import ImageFile, Record
from medcap_core.inference.generation import Request, generate_predictions
from medcap_core.models import Captioner

IMAGE_SIZE = 48  # pixels: 3 x 3 patches
PATCH_SIZE = 16
VISION_WIDTH, VISION_MLP, VISION_LAYERS = 24, 40, 3
TEXT_WIDTH, TEXT_MLP, TEXT_LAYERS = 32, 56, 2
MAX_POSITIONS = 40
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
WORDS = ("a picture of", "the left right lung shows", "small large nodule opacity", "in .")
VOCABULARY = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *" ".join(WORDS).split()])}
PAD, UNKNOWN, SEP, DEC = (VOCABULARY[token] for token in ("[PAD]", "[UNK]", "[SEP]", "[DEC]"))


def save_tiny_blip(directory: Path, seed: int = 0, initializer_range: float = 0.02) -> Path:
    """Write a BLIP with random weights; with a wide `initializer_range` it says something else about every image.

    From then on this process computes on one thread: so small a model only loses by sharing its work out.
    """
    torch.set_num_threads(1)
    sizes = {"num_attention_heads": 4, "initializer_range": initializer_range}
    config = BlipConfig(
        vision_config=sizes
        | {
            "hidden_size": VISION_WIDTH,
            "intermediate_size": VISION_MLP,
            "num_hidden_layers": VISION_LAYERS,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
        },
        text_config=sizes
        | {
            "vocab_size": len(VOCABULARY),
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": TEXT_MLP,
            "num_hidden_layers": TEXT_LAYERS,
            "max_position_embeddings": MAX_POSITIONS,
            "bos_token_id": DEC,
            "eos_token_id": SEP,
            "sep_token_id": SEP,
            "pad_token_id": PAD,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BlipForConditionalGeneration(config)
        for layer in network.modules():  # biases and norms start as constants; other values show mistakes in them
            if getattr(layer, "bias", None) is not None:
                torch.nn.init.normal_(layer.bias, std=initializer_range)
    network.save_pretrained(directory)
    images = BlipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    BlipProcessor(images, BertTokenizerFast(vocab=VOCABULARY)).save_pretrained(directory)
    return directory


class TinySplit:
    """Images of a lung with a bright square: its side and size are what the caption says."""

    def __init__(self, num_images: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        left, large = generator.integers(0, 2, (2, num_images)).astype(bool)
        self.ids = [f"image-{seed}-{index}" for index in range(num_images)]
        self.captions = [_word(*facts) for facts in zip(left, large, strict=True)]
        self.images = generator.integers(0, 60, (num_images, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
        for image, is_left, is_large in zip(self.images, left, large, strict=True):
            start, side = (4 if is_left else 28), (16 if is_large else 8)
            image[:, 16 : 16 + side, start : start + side] = 220

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def references(self) -> list[tuple[str, ...]]:
        return [record.references for record in self.records]

    @property
    def records(self) -> list[Record]:
        return [
            Record(name, ImageFile(Path(name)), caption) for name, caption in zip(self.ids, self.captions, strict=True)
        ]

    def pixels(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.images[positions]


def _word(is_left: bool, is_large: bool) -> str:
    size = "a large nodule" if is_large else "small opacity"
    return f"the {'left' if is_left else 'right'} lung shows {size}"


def tiny_data(num_train: int = 14, num_validation: int = 7, seed: int = 0) -> PreparedData:
    """A data set in memory; `fit` asks no more of it than its splits."""
    splits = {"train": TinySplit(num_train, 2 * seed), "validation": TinySplit(num_validation, 2 * seed + 1)}
    return PreparedData("tiny", "in memory", [], splits)  # type: ignore[arg-type]


def tiny_config(model: Path, **changes: object) -> TrialConfig:
    """A trial short enough for tests."""
    values: dict[str, object] = {
        "model": str(model),
        "freeze": "full",
        "learning_rate": 1e-2,
        "num_epochs": 2,
        "batch_size": 4,
        "eval_batch_size": 4,
        "max_caption_tokens": 16,
        "max_new_tokens": 10,
        "num_beams": 2,
        "cache_features": False,  # images in memory have no place on the disk to keep them beside
    }
    return TrialConfig.model_validate(values | changes)


def generate_captions(captioner: Captioner, images: ImageSource, config: TrialConfig, *others: Any) -> list[str]:
    """The caption of each image; `others` is passed on to `generate_predictions`."""
    found = generate_predictions(captioner, images, Request(captions=True), config, *others)
    return [prediction.text for prediction in found]
