"""BERTScore (Zhang et al. 2020) on transformers, equal to that of the bert-score package for the same model and layer.

That package is not used: its last release fails on an empty caption under transformers 5, and loads pickled weights.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from medcap_core.errors import ModelFault, first_line
from medcap_core.runtime.checkpoints import load_pretrained
from medcap_core.runtime.device import current_device
from medcap_core.scoring.registry import Score, ScoreInput, ScoreValues

_PUBLISHED_LAYERS = {
    ("bert", 12, 768, None): 9,
    ("bert", 12, 768, 31090): 8,  # SciBERT, by the size of its vocabulary
    ("bert", 24, 1024, None): 18,
    ("deberta", 48, 1024, None): 40,
    ("distilbert", 6, 768, None): 5,
    ("roberta", 6, 768, None): 5,
    ("roberta", 12, 768, None): 10,
    ("roberta", 24, 1024, None): 17,
}
"""The layer that agrees best with human judgement, as published with the bert-score package for the encoder of this
`model_type`, layers, width and vocabulary (None: any other), so that a copy under any name scores the same."""
_BATCH_TEXTS = 64
_CHUNK_PAIRS = 256  # pairs whose hidden states are in memory at once


class BertScorer:
    """F1 of BERTScore for pairs of texts, without rescaling to a baseline.

    Hidden states are of the layer published for an encoder of this size, else of the last. Special tokens have no
    weight, but a token may match one, as in the bert-score package.
    """

    def __init__(self, model: str, key: str = "bertscore_model") -> None:
        """Load the encoder that `key` names. Raises ModelFault where `model` cannot be loaded from safetensors."""
        from transformers import AutoTokenizer

        remedy = "download it first where there is a network, or leave bertscore out"
        self._tokenizer, encoder = load_with_processor(AutoTokenizer, model, f"{key} {model}: no encoder", remedy)
        encoder = getattr(encoder, "encoder", encoder) if encoder.config.is_encoder_decoder else encoder
        self._encoder = encoder.to(current_device()).eval()
        self.layer = _find_layer(encoder.config)
        num_positions = getattr(encoder.config, "max_position_embeddings", 512)
        if encoder.config.model_type in ("roberta", "xlm-roberta", "camembert"):
            num_positions -= 2  # their table of positions begins after the padding token
        # A tokenizer without a limit has a huge one.
        self._max_length = min(self._tokenizer.model_max_length, num_positions)

    def score(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], *, idf: bool = False
    ) -> list[float]:
        """Score each prediction by its F1, the best over its references; 0 where either has no token of weight.

        Tokens weigh the same, or with `idf` log((N + 1) / (n + 1)) where n of the N references have the token.
        """
        weights = self._compute_idf([text for group in references for text in group]) if idf else None
        pairs = list(zip(predictions, references, strict=True))
        order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][0]))
        scores = [0.0] * len(pairs)
        for start in range(0, len(pairs), _CHUNK_PAIRS):
            chunk = order[start : start + _CHUNK_PAIRS]
            texts = {text for index in chunk for text in (pairs[index][0], *pairs[index][1])}
            in_order = sorted(texts, key=lambda text: (len(text), text))
            states: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
            for first in range(0, len(in_order), _BATCH_TEXTS):
                states |= self._encode(in_order[first : first + _BATCH_TEXTS], weights)
            for index in chunk:
                prediction, group = pairs[index]
                scores[index] = max(_compute_f1(*states[prediction], *states[text]) for text in group)
        return scores

    def _compute_idf(self, references: list[str]) -> torch.Tensor:
        """Compute the weight of each token id, (V,)."""
        ids = self._tokenizer(references, truncation=True, max_length=self._max_length)["input_ids"]
        counts = Counter(token for text in ids for token in set(text))
        frequencies = torch.zeros(len(self._tokenizer))
        frequencies[list(counts.keys())] = torch.tensor(list(counts.values()), dtype=torch.float32)
        return torch.log((len(references) + 1) / (frequencies + 1))

    @torch.inference_mode()
    def _encode(self, texts: list[str], weights: torch.Tensor | None) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Encode each text to unit vectors (T, H) and their weights (T,), 0 at special tokens; on the CPU."""
        cut = {"padding": True, "truncation": True, "max_length": self._max_length}
        batch = self._tokenizer(texts, **cut, return_special_tokens_mask=True, return_tensors="pt")
        content = (batch.pop("special_tokens_mask") == 0).float()
        if weights is not None:
            content *= weights[batch["input_ids"]]
        output = self._encoder(**batch.to(self._encoder.device), output_hidden_states=True)
        hidden = torch.nn.functional.normalize(output.hidden_states[self.layer].float(), dim=-1).cpu()
        is_token = batch["attention_mask"].bool().cpu()
        return {
            text: (vectors[kept], weight[kept])
            for text, vectors, weight, kept in zip(texts, hidden, content, is_token, strict=True)
        }


def load_with_processor(processor: Any, name: str, missing: str, remedy: str) -> tuple[Any, Any]:
    """Load a model and its processor of this class. Raises ModelFault, which begins with `missing`."""
    from transformers import AutoModel

    try:
        return load_pretrained(processor, name), load_pretrained(AutoModel, name, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelFault(
            f"{missing} with safetensors weights can be loaded by that name ({first_line(error)}); give a folder in "
            f"Hub format, {remedy}."
        ) from None


def _find_layer(config: Any) -> int:
    size = (config.model_type, config.num_hidden_layers, config.hidden_size)
    known = _PUBLISHED_LAYERS.get((*size, config.vocab_size)) or _PUBLISHED_LAYERS.get((*size, None))
    return known or int(config.num_hidden_layers)


load_bert_scorer = lru_cache(maxsize=2)(BertScorer)
"""Load the scorer with a model, once in a process. Raises ModelFault."""


def _score(captions: ScoreInput) -> ScoreValues:
    scorer, idf = load_bert_scorer(captions.options.bertscore_model), captions.options.bertscore_idf
    return ScoreValues(np.array(scorer.score(captions.predictions, captions.references, idf=idf)))


BERTSCORE = Score("BERTScore", _score, needs="an encoder with safetensors weights (bertscore_model)")


def _compute_f1(
    predicted: torch.Tensor, predicted_weights: torch.Tensor, expected: torch.Tensor, expected_weights: torch.Tensor
) -> float:
    if not predicted_weights.any() or not expected_weights.any():
        return 0.0
    similarity = predicted @ expected.T
    precision = similarity.amax(dim=1) @ predicted_weights / predicted_weights.sum()
    recall = similarity.amax(dim=0) @ expected_weights / expected_weights.sum()
    return float(2 * precision * recall / (precision + recall))
