"""Train the embedded model: a small BLIP from random weights on the general phantom domain, synthetic images only.

It is a small copy of Salesforce/blip-image-captioning-base with a lower-casing WordPiece tokenizer.

python -m medcap_core.pretraining.phantom_blip OUT_DIR

`medcap_core/assets/phantom-blip` was made by this command on 2 CPU cores, a minute and a half an epoch beside other
work; the epoch with the best validation CIDEr, 3.02 on the general domain, was kept.
"""

import re
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.phantoms.wording import list_phrases
from medcap_core.data.prepare import prepare_data
from medcap_core.models import load_captioner
from medcap_core.training.checkpoint import CheckpointFolder
from medcap_core.training.epoch_report import EpochReport
from medcap_core.training.export import TRIAL_CONFIG_FILE, export_captioner
from medcap_core.training.loop import fit

_PATCH_SIZE = 16  # pixels
_HIDDEN_SIZE = 128
_INITIALIZER_RANGE = 0.06  # BERT's 0.02 suits a width of 768; narrow layers learn far more slowly with it
_MAX_TOKENS = 256

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789" + "ßæðøþłıœđ" + "αβγδεζηθικλμνξοπρσςτυφχψω" + "µ°±×÷²³¹½¼¾ªº"
_MARKS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~" + "“”‘’„‚«»‹›–—‐‑‒―…•·′″¡¿§¶©®™†‡" + "≤≥≈≠≡∞√∑∆∂−←→↑↓↔∼⁄€£¥¢¬¨¯´¸"
_WORD = re.compile(r"[^\W_]+")


def build_vocabulary() -> dict[str, int]:
    """Build token -> id: special tokens, letters and marks alone and inside words, phantom words, asset words."""
    characters = [*_LETTERS, *_MARKS]
    tokens = [*_SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
    for phrase in list_phrases():
        tokens += _WORD.findall(phrase.lower())
    text = (files("medcap_core") / "assets" / "phantom-blip-words.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        for word in line.split() if not line.startswith("#") or line.startswith("##") else ():
            tokens += [word] if word.startswith("##") else _WORD.findall(word)
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def _build_config(vocabulary: dict[str, int], image_size: int) -> BlipConfig:
    sizes = {
        "hidden_size": _HIDDEN_SIZE, "intermediate_size": 320, "num_attention_heads": 4,
        "projection_dim": _HIDDEN_SIZE, "initializer_range": _INITIALIZER_RANGE,
    }  # fmt: skip
    text = {
        "num_hidden_layers": 3, "vocab_size": len(vocabulary), "max_position_embeddings": _MAX_TOKENS,
        "bos_token_id": vocabulary["[DEC]"], "eos_token_id": vocabulary["[SEP]"],
        "sep_token_id": vocabulary["[SEP]"], "pad_token_id": vocabulary["[PAD]"],
    }  # fmt: skip
    vision = {"num_hidden_layers": 4, "image_size": image_size, "patch_size": _PATCH_SIZE}
    return BlipConfig(
        text_config=sizes | text,
        vision_config=sizes | vision,
        projection_dim=_HIDDEN_SIZE,
        image_text_hidden_size=_HIDDEN_SIZE,
        initializer_range=_INITIALIZER_RANGE,
    )


def _build_processor(vocabulary: dict[str, int], image_size: int) -> BlipProcessor:
    special: dict[str, Any] = {"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]}
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=_MAX_TOKENS, **special)
    images = BlipImageProcessor(size={"height": image_size, "width": image_size})
    return BlipProcessor(image_processor=images, tokenizer=tokenizer)  # type: ignore[no-untyped-call]


def build_phantom_blip(directory: Path, *, seed: int, image_size: int = 96) -> None:
    """Write a small BLIP with random weights and its processor to `directory`, in Hub format with safetensors.

    `image_size` is in pixels a side, a multiple of 16. The same seed gives the same weights; the caller's random state
    is unchanged. `generate` stops after 20 new tokens unless given `max_new_tokens`, as BLIP's text decoder takes its
    limits from the call alone.
    """
    if image_size <= 0 or image_size % _PATCH_SIZE:
        raise ValueError(f"image_size must be a positive multiple of {_PATCH_SIZE}, but it is {image_size}")
    vocabulary = build_vocabulary()
    config = _build_config(vocabulary, image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlipForConditionalGeneration(config)
    model.save_pretrained(directory)
    _build_processor(vocabulary, image_size).save_pretrained(directory)


def pretrain(
    out: Annotated[Path, typer.Argument(help="Folder to write the model to, in Hub format.")],
    epochs: Annotated[int, typer.Option(min=1)] = 24,
    learning_rate: Annotated[float, typer.Option()] = 1.5e-3,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Build, train and export phantom-blip, keeping the epoch with the best validation CIDEr."""
    console = Console()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "random"
        build_phantom_blip(start, seed=seed)
        config = TrialConfig(
            data="phantoms-general",
            model=str(start),
            freeze=FreezeMode.FULL,
            learning_rate=learning_rate,
            num_epochs=epochs,
            batch_size=64,
            schedule="cosine",
            warmup_fraction=0.05,
            num_beams=1,
            max_validation_images=200,
            seed=seed,
        )
        data = prepare_data(config, load_captioner(str(start)).geometry)

        def show(report: EpochReport) -> None:
            console.print(
                f"epoch {report.epoch}/{report.num_epochs}: loss {report.training_loss:.3f}, validation loss "
                f"{report.validation_loss:.3f}, CIDEr {report.score:.3f}, {report.images_per_second:.0f} images/s, "
                f"{time.monotonic() - started:.0f} s in all"
            )

        checkpoints = Path(scratch) / "checkpoints"
        fit(config, data, checkpoints, show)
        best = CheckpointFolder(checkpoints, config).best_path
        export_captioner(config.model_copy(update={"num_beams": 3}), best, out)
        (out / TRIAL_CONFIG_FILE).unlink()  # it names the scratch folder
    console.print(f"Written to {out}")


if __name__ == "__main__":
    typer.run(pretrain)
