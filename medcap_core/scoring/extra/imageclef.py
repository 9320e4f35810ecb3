"""The scores of ImageCLEFmedical Caption 2026, by its public script (github.com/taubsity/clef-caption-evaluation-2026).

BERTScore F1 of deberta-xlarge-mnli, with idf over all references, and ROUGE-1 F1, both preprocessed as in 2025, and the
similarity of image and raw caption; relevance is their mean. BLEURT-20-D12, UMLS F1 and AlignScore, of which the latter
two make factuality, are taken from installed packages. Departures: for similarity any dual encoder can be named, whose
figures are not those of the task's MedImageInsight; of several references the best counts, where the task has one.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from medcap_core.errors import ModelFault
from medcap_core.runtime.device import current_device
from medcap_core.scoring.extra.bertscore import load_bert_scorer, load_with_processor
from medcap_core.scoring.extra.rouge import ROUGE_1
from medcap_core.scoring.options import CaptionPreprocessing, preprocess_captions
from medcap_core.scoring.registry import Score, ScoreInput, ScoreValues, list_scores, load_scores

ENCODER = "microsoft/deberta-xlarge-mnli"
ENCODER_KEY, SIMILARITY_KEY = "imageclef_bertscore", "imageclef_similarity"
_PREPROCESSING: CaptionPreprocessing = "imageclef2025"  # unchanged in 2026
_BATCH_IMAGES = 32


@lru_cache(maxsize=4)
def _preprocess(captions: ScoreInput) -> ScoreInput:
    return replace(
        captions,
        predictions=preprocess_captions(captions.raw_predictions, _PREPROCESSING),
        references=[preprocess_captions(group, _PREPROCESSING) for group in captions.raw_references],
    )


@lru_cache(maxsize=4)
def _compute_bertscore(captions: ScoreInput) -> ScoreValues:
    own = _preprocess(captions)
    scorer = load_bert_scorer(captions.options.find_model(ENCODER_KEY) or ENCODER, f"score_models.{ENCODER_KEY}")
    return ScoreValues(np.array(scorer.score(own.predictions, own.references, idf=True)))


def _compute_rouge(captions: ScoreInput) -> ScoreValues:
    return ROUGE_1.compute(_preprocess(captions))


@lru_cache(maxsize=4)
def _compute_similarity(captions: ScoreInput) -> ScoreValues:
    name = captions.options.find_model(SIMILARITY_KEY)
    if name is None:
        raise ModelFault(
            "imageclef2026: the task's image encoder, MedImageInsight, brings pickled weights and code of its own, "
            "which are never loaded; to have similarity and relevance, which are then not the task's, name a dual "
            f"encoder with safetensors as score_models: {{{SIMILARITY_KEY}: ...}}."
        )
    if not captions.images:
        raise ModelFault("imageclef2026: similarity and relevance need images, which scans are not.")
    return ScoreValues(np.array(_load_dual_encoder(name).compare(captions)))


def _take_from_package(key: str) -> Callable[[ScoreInput], ScoreValues]:
    @lru_cache(maxsize=4)
    def compute(captions: ScoreInput) -> ScoreValues:
        if key not in list_scores():
            raise ModelFault(f"imageclef2026: no installed package provides the score '{key}'.")
        return load_scores(key)[0].compute(captions)

    return compute


def _average(*parts: Callable[[ScoreInput], ScoreValues]) -> Callable[[ScoreInput], ScoreValues]:
    """Build the mean of several scores, which lacks where one of them does."""

    def compute(captions: ScoreInput) -> ScoreValues:
        found = [part(captions) for part in parts]
        is_mean = all(values.corpus is None for values in found)
        corpus = None if is_mean else float(np.mean([values.value for values in found]))
        return ScoreValues(np.mean([values.each for values in found], axis=0), corpus)

    return compute


class _DualEncoder:
    """A model of transformers that embeds images and texts in one space, such as CLIP or SigLIP."""

    def __init__(self, name: str) -> None:
        from transformers import AutoProcessor

        missing = f"score_models.{SIMILARITY_KEY} {name}: no model"
        self._processor, model = load_with_processor(AutoProcessor, name, missing, "or leave the key out")
        if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
            raise ModelFault(
                f"score_models.{SIMILARITY_KEY} {name}: a {model.config.model_type} is no dual encoder of images and "
                "texts; give one such as CLIP or SigLIP."
            )
        self._model = model.to(current_device()).eval()
        self._max_tokens = int(model.config.text_config.max_position_embeddings)

    def compare(self, captions: ScoreInput) -> list[float]:
        """Compute 2.5 max(cos, 0) of each image and its raw caption; 0 for an empty one."""
        cosines: list[float] = []
        for start in range(0, len(captions.images), _BATCH_IMAGES):
            texts = captions.raw_predictions[start : start + _BATCH_IMAGES]
            images = [captions.images[place] for place in range(start, start + len(texts))]
            cosines += self._compute_cosines(images, list(texts))
        return [2.5 * max(cos, 0) if text else 0.0 for cos, text in zip(cosines, captions.raw_predictions, strict=True)]

    @torch.inference_mode()
    def _compute_cosines(self, images: list[Any], texts: list[str]) -> list[float]:
        pixels = self._processor.image_processor(images=images, return_tensors="pt").to(self._model.device)
        tokens = self._processor.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self._model.device)
        seen, read = self._model.get_image_features(**pixels), self._model.get_text_features(**tokens)
        vectors = [found if isinstance(found, torch.Tensor) else found.pooler_output for found in (seen, read)]
        cosines: list[float] = torch.nn.functional.cosine_similarity(vectors[0].float(), vectors[1].float()).tolist()
        return cosines


_load_dual_encoder = lru_cache(maxsize=1)(_DualEncoder)
_BLEURT, _UMLS, _ALIGN = (_take_from_package(key) for key in ("bleurt", "umls_f1", "alignscore"))

IMAGECLEF_2026 = (
    Score("BERTScore (ImageCLEF)", _compute_bertscore, needs=ENCODER, models=(ENCODER_KEY,)),
    Score("ROUGE-1 (ImageCLEF)", _compute_rouge),
    Score("Similarity (ImageCLEF)", _compute_similarity, needs="a dual encoder", models=(SIMILARITY_KEY,)),
    Score(
        "Relevance (ImageCLEF)",
        _average(_compute_bertscore, _compute_rouge, _compute_similarity),
        needs="BERTScore, ROUGE-1 and similarity",
    ),
    Score("BLEURT-20-D12", _BLEURT, needs="a package with a score 'bleurt'"),
    Score("UMLS F1", _UMLS, needs="a package with a score 'umls_f1'"),
    Score("AlignScore", _ALIGN, needs="a package with a score 'alignscore'"),
    Score("Factuality (ImageCLEF)", _average(_UMLS, _ALIGN), needs="UMLS F1 and AlignScore"),
)
