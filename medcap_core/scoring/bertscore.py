"""BERTScore (Zhang et al. 2020) on transformers, with any encoder by Hub name or local folder.

The bert-score package is not used: its last release fails on an empty caption under transformers 5, and it would load
pickled weights. Its numbers are these for the same model and layer. Weights come from safetensors only.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from medcap_core.errors import ModelFault
from medcap_core.runtime.device import current_device

_WORD = re.compile(r"[a-z0-9]+")


def compute_rouge1(prediction: str, references: Sequence[str]) -> float:
    """F1 of shared words, 0 to 1, each counted as often as both have it; the best over several references.

    Words are runs of ASCII letters and digits in lower case; a text without any scores 0.
    """
    predicted = Counter(_WORD.findall(prediction.lower()))
    scores = []
    for reference in references:
        expected = Counter(_WORD.findall(reference.lower()))
        num_shared = (predicted & expected).total()
        scores.append(2 * num_shared / max(1, predicted.total() + expected.total()))
    return max(scores)


# The layer that agrees best with people's judgement, as published with the bert-score package; by the name's last part.
_PUBLISHED_LAYERS = {
    "bert-base-uncased": 9,
    "bert-large-uncased": 18,
    "deberta-xlarge-mnli": 40,
    "distilbert-base-uncased": 5,
    "distilroberta-base": 5,
    "roberta-base": 10,
    "roberta-large": 17,
    "scibert_scivocab_uncased": 8,
}
_BATCH_TEXTS = 64
_CHUNK_PAIRS = 256  # whose hidden states are held at once


class BertScorer:
    """F1 of BERTScore for pairs of texts, without idf weights and without rescaling to a baseline.

    Hidden states are taken from the layer published for the model, of other models from the last. Special tokens weigh
    nothing, but a word may be matched with one, as in the bert-score package.
    """

    def __init__(self, model: str) -> None:
        """Raises ModelFault where `model` cannot be loaded from safetensors here."""
        from transformers import AutoModel, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model)
            encoder = AutoModel.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelFault(
                f"bertscore_model {model}: no encoder with safetensors weights can be loaded by that name ({reason}); "
                "give a folder in Hub format, download it first where there is a network, or leave bertscore out."
            ) from None
        encoder = getattr(encoder, "encoder", encoder) if encoder.config.is_encoder_decoder else encoder
        self._encoder = encoder.to(current_device()).eval()
        self.layer = _PUBLISHED_LAYERS.get(model.rstrip("/").rpartition("/")[2], encoder.config.num_hidden_layers)
        # Some tokenizers state no limit, as a number beyond any.
        self._max_length = min(self._tokenizer.model_max_length, _max_positions(encoder.config))

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """F1 of each prediction, the best over its references; 0 where either has no word."""
        pairs = list(zip(predictions, references, strict=True))
        order = sorted(range(len(pairs)), key=lambda place: len(pairs[place][0]))
        scores = [0.0] * len(pairs)
        for start in range(0, len(pairs), _CHUNK_PAIRS):
            places = order[start : start + _CHUNK_PAIRS]
            states = self._encode_all({text for place in places for text in (pairs[place][0], *pairs[place][1])})
            for place in places:
                prediction, group = pairs[place]
                scores[place] = max(_compute_f1(*states[prediction], *states[text]) for text in group)
        return scores

    def _encode_all(self, texts: set[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        in_order = sorted(texts, key=lambda text: (len(text), text))
        states: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for start in range(0, len(in_order), _BATCH_TEXTS):
            states |= self._encode(in_order[start : start + _BATCH_TEXTS])
        return states

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """For each text its tokens' unit vectors (T, H) and whether each is a word (T,), on the CPU."""
        batch = self._tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self._max_length,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        is_word = batch.pop("special_tokens_mask") == 0
        output = self._encoder(**batch.to(self._encoder.device), output_hidden_states=True)
        hidden = torch.nn.functional.normalize(output.hidden_states[self.layer].float(), dim=-1).cpu()
        is_token = batch["attention_mask"].bool().cpu()
        return {
            text: (vectors[kept], words[kept])
            for text, vectors, words, kept in zip(texts, hidden, is_word, is_token, strict=True)
        }


@lru_cache(maxsize=1)
def load_bert_scorer(model: str) -> BertScorer:
    """The process's scorer by that model. Raises ModelFault."""
    return BertScorer(model)


def _compute_f1(
    predicted: torch.Tensor, predicted_words: torch.Tensor, expected: torch.Tensor, expected_words: torch.Tensor
) -> float:
    if not predicted_words.any() or not expected_words.any():
        return 0.0
    similarity = predicted @ expected.T
    precision = similarity.amax(dim=1)[predicted_words].mean()
    recall = similarity.amax(dim=0)[expected_words].mean()
    return float(2 * precision * recall / (precision + recall))


def _max_positions(config: Any) -> int:
    """How many tokens the encoder takes; RoBERTa's table of positions begins after its padding token."""
    positions = getattr(config, "max_position_embeddings", 512)
    return int(positions - 2 if config.model_type in ("roberta", "xlm-roberta", "camembert") else positions)
