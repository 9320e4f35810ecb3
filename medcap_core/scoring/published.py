"""Scores published by others on ROCOv2, for comparison; none of their models was run here.

Each figure names its source, its split, its number of images and how its captions were split into tokens. CIDEr is on
pycocoevalcap's scale. A score not computed by pycocoevalcap, such as NLTK's METEOR, is left out. Two rows were
published by nobody, but computed of published texts: `python -m benchmarks.published_predictions final_results.json`,
which has ROCOv2's test references too, and the same with `--caption` and the sentence.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFigure:
    """One row of a published table; `test_images` are the split and its number of images, `tokens` how it is split."""

    system: str
    scores: Mapping[str, float]
    test_images: str
    tokens: str
    source: str


_LORA_SOURCE = "github.com/Apa2002/MedImageCaption_BLIP_LoRA_ROCOv2, results/metrics.md"
_LORA_TOKENS = "white space, references through BERT's tokenizer"
_VLM_SOURCE = "github.com/Munteanu-Matei/rocov2-medical-vlm, README.md and *_metrics.json"
_VLM_TOKENS = "white space, lower case"
_CAPTIONS_SOURCE = "github.com/erikhafnor/MedicalCaptionGroup at 6dd9056, final_results.json, scored by this project"
_TEST = "ROCOv2 test, 9,927 images"
_TEST_UNCOUNTED = "ROCOv2 test, number not stated"


def _build_lora_figure(system: str, *scores: float) -> PublishedFigure:
    names = ("BLEU-1", "BLEU-2", "METEOR", "ROUGE-L", "CIDEr")
    return PublishedFigure(system, dict(zip(names, scores, strict=True)), _TEST_UNCOUNTED, _LORA_TOKENS, _LORA_SOURCE)


def _build_vlm_figure(system: str, *scores: float) -> PublishedFigure:
    names = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")
    return PublishedFigure(system, dict(zip(names, scores, strict=True)), _TEST, _VLM_TOKENS, _VLM_SOURCE)


ROCOV2: tuple[PublishedFigure, ...] = (
    _build_lora_figure("BLIP, not fine-tuned", 0.0433, 0.0151, 0.0171, 0.0812, 0.0056),
    _build_lora_figure("BLIP with LoRA, 4 epochs on 10% of train", 0.0470, 0.0222, 0.0270, 0.0882, 0.0387),
    _build_lora_figure("BLIP with LoRA, 6 epochs on 10% of train", 0.0545, 0.0255, 0.0278, 0.0892, 0.0401),
    PublishedFigure(
        "one sentence for all images",
        {"CIDEr": 0.0737},
        _TEST,
        "PTB",
        f"'axial ct scan of the abdomen showing a large mass in the right arrow'; references of {_CAPTIONS_SOURCE}",
    ),
    PublishedFigure(
        "BLIP, fine-tuned, by its published captions",
        {"CIDEr": 0.0374},
        _TEST,
        "PTB",
        _CAPTIONS_SOURCE,
    ),
    _build_vlm_figure("BLIP-2 (OPT-2.7B), trained on 12,000 images", 0.0815, 0.0481, 0.0242, 0.0120, 0.1543, 0.0931),
    _build_vlm_figure(
        "BioMedCLIP and Qwen2.5-1.5B with LoRA, all of train", 0.1754, 0.0997, 0.0549, 0.0316, 0.1886, 0.1885
    ),
    _build_vlm_figure(
        "Qwen3-VL-4B with LoRA and concept heads, on 12,000 images",
        0.1582,
        0.0889,
        0.0495,
        0.0293,
        0.1927,
        0.1973,
    ),
    PublishedFigure(
        "PCLmed (EVA-CLIP ViT-g, Q-Former, ChatGLM-6B)",
        {"BLEU-1": 0.2131, "BLEU-2": 0.1192, "BLEU-3": 0.0660, "BLEU-4": 0.0380, "METEOR": 0.1017, "CIDEr": 0.2574},
        "ImageCLEF 2023 validation, 10,437 images",
        "PTB",
        "github.com/yangbang18/MLLM-MRG, PCLmed_val_scores.json; images counted in wordcloud.ipynb (arXiv 2306.05642)",
    ),
)

NOTES = (
    "As published by others, none of these models was run here; compare within one split and one kind of tokens alone.",
    "BLIP with LoRA is not on our scale: its images were divided by 255 twice, so they are nearly black, padding is in "
    "its loss, and its references went through BERT's tokenizer and no PTB tokenizer.",
    "Below a CIDEr of about 0.08 a figure says nothing about seeing: one sentence for all images has 0.0737.",
)


def find_published(name: str, kind: str) -> tuple[PublishedFigure, ...]:
    """Find the published scores on a data set by its name or path and its recognised kind; often none.

    A small part of ROCOv2, `rocov2-mini`, has other test images, and so none.
    """
    described = f"{name} {kind}".lower()
    is_part = "mini" in f"{name.rstrip('/').rpartition('/')[2]} {kind}".lower()
    return ROCOV2 if "rocov2" in described and not is_part else ()
