"""Inputs for benchmarks: a BLIP of a given size with random weights, image folders, random pixels. All synthetic."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BlipConfig, BlipForConditionalGeneration, BlipProcessor

from medcap_core.data.phantoms import load_phantoms
from medcap_core.models import resolve_model
from medcap_core.pretraining.phantom_blip import build_phantom_blip

PHANTOM_BLIP = "phantom-blip"

BLIP_SIZES = {
    # name: hidden size, layers and heads of the vision tower and of the decoder; vocabulary
    "base": ((768, 12, 12), (768, 12, 12), 30524),
    "small": ((384, 8, 6), (384, 6, 6), 8000),
}


def make_model(name: str, directory: Path, image_size: int | None = None) -> str:
    """Find the embedded model, or save a random BLIP of that size in `directory`, by default for 224 px."""
    if name == PHANTOM_BLIP:
        return resolve_model(name)
    return str(save_random_blip(directory, name, image_size or 224))


def save_random_blip(directory: Path, size: str, image_size: int) -> Path:
    """Save a randomly initialised BLIP of a named size in Hub format.

    `base` has the shape of BLIP-base (224 M parameters), `small` 32 M. The same call gives the same weights.
    """
    (vision_hidden, vision_layers, vision_heads), (hidden, layers, heads), vocabulary = BLIP_SIZES[size]
    build_phantom_blip(directory, seed=0, image_size=image_size)  # for its processor
    processor = BlipProcessor.from_pretrained(directory)
    tokenizer = processor.tokenizer
    config = BlipConfig(
        vision_config={
            "hidden_size": vision_hidden, "intermediate_size": 4 * vision_hidden, "num_hidden_layers": vision_layers,
            "num_attention_heads": vision_heads, "image_size": image_size, "initializer_range": 0.02,
        },
        text_config={
            "hidden_size": hidden, "encoder_hidden_size": vision_hidden, "intermediate_size": 4 * hidden,
            "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocabulary,
            "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"), "sep_token_id": tokenizer.sep_token_id,
            "eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id,
        },
        image_text_hidden_size=256,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BlipForConditionalGeneration(config).save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def write_phantom_folder(directory: Path, num_train: int, num_validation: int, num_test: int = 2) -> Path:
    """Draw phantoms into PNG files: an image folder by the Hub's convention, one `metadata.csv` a split."""
    dataset = load_phantoms(sizes={"train": num_train, "validation": num_validation, "test": num_test})
    for split, records in dataset.splits.items():
        folder = directory / split
        folder.mkdir(parents=True)
        with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file_name", "text"))
            for record in records:
                record.image.open().save(folder / f"{record.id}.png")
                writer.writerow((f"{record.id}.png", record.caption))
    return directory


@dataclass(frozen=True)
class RandomSplit:
    """Random pixels with captions of `num_words` words, held in memory in the shape of a prepared split."""

    images: NDArray[np.uint8]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def pixels(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See `medcap_core.data.prepare.PreparedSplit.pixels`."""
        return self.images[positions]


def make_random_split(num_images: int, image_size: int, num_words: int = 24, seed: int = 0) -> RandomSplit:
    """Draw a split; BLIP's tokenizer makes one token of each word."""
    generator = np.random.default_rng(seed)
    words = np.array(["left", "right", "lung", "shows", "small", "large", "opacity", "upper", "lower", "normal"])
    captions = [" ".join(words[generator.integers(0, len(words), num_words)]) for _ in range(num_images)]
    images = generator.integers(0, 256, (num_images, 3, image_size, image_size), dtype=np.uint8)
    return RandomSplit(images, captions)
