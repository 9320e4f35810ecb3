"""Clinical scores of radiology reports by RadEval (extra `radiology`; github.com/jbdel/RadEval), of raw captions.

It finds the weights of each score by their Hub names and takes no others; some it loads itself by `torch.load`. Its
scores by large language models are left out: they run code of their checkpoints or send captions to a server.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcap_core.errors import ModelFault, first_line
from medcap_core.scoring.registry import Score, ScoreInput, ScoreValues


def pair_best(
    captions: ScoreInput,
    score_pairs: Callable[[list[str], list[str]], Sequence[float]],
    *,
    higher_is_better: bool = True,
) -> tuple[NDArray[np.float64], list[str]]:
    """Score each prediction against each of its references by `score_pairs(references, predictions)`.

    Returns the best score of each image, (N,), and the reference that it is of.
    """
    pairs = [(place, text) for place, group in enumerate(captions.raw_references) for text in group]
    found = score_pairs([text for _, text in pairs], [captions.raw_predictions[place] for place, _ in pairs])
    scored: list[list[tuple[float, str]]] = [[] for _ in captions.raw_predictions]
    for (place, text), score in zip(pairs, found, strict=True):
        scored[place].append((float(score), text))
    choose = max if higher_is_better else min
    best = [choose(own, key=lambda pair: pair[0]) for own in scored]
    return np.array([score for score, _ in best]), [text for _, text in best]


@lru_cache(maxsize=8)
def _load_evaluator(metric: str, weights: str) -> Any:
    """Load a metric of RadEval with the weights that it names itself. Raises ModelFault."""
    try:
        import radeval
    except ImportError as error:
        raise ModelFault(
            f"score {metric}: RadEval cannot be imported ({first_line(error)}); install it by pip install -e "
            "'.[radiology]', or leave the score out."
        ) from None
    sys.modules.setdefault("RadEval", radeval)  # RadEval 2.2.1 imports its RadGraph by this name
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):  # RadEval silences all warnings of the process
        try:
            if metric == "f1chexbert":
                from radeval.metrics.f1chexbert import F1CheXbert

                return F1CheXbert(device="cuda" if torch.cuda.is_available() else "cpu")
            return radeval.RadEval(metrics=[metric], per_sample=True, show_progress=False)
        except Exception as error:  # noqa: BLE001  # RadEval raises a bare Exception where a download fails
            remedy = f"it needs {weights}: compute the score once where there is a network and copy these"
            if "binary incompatibility" in str(error):  # the spaCy that medspaCy asks for, on Python 3.11
                remedy = "install a spaCy made for NumPy 2 by pip install 'spacy>=3.8'"
            raise ModelFault(
                f"score {metric}: RadEval cannot load it ({first_line(error)}); {remedy}, or leave the score out."
            ) from None


def build_score(
    name: str,
    metric: str,
    each: str,
    weights: str,
    *,
    corpus: str = "",
    higher_is_better: bool = True,
    modalities: str = "chest X-rays",
    prepare: Callable[[str], str] = str,
) -> Score:
    """Build a score of RadEval's `metric`; `each` and `corpus` are its keys for an image and for the corpus.

    Without `corpus` it is the mean over images. `prepare` is applied to each caption.
    """

    def compute(captions: ScoreInput) -> ScoreValues:
        evaluator = _load_evaluator(metric, weights)

        def evaluate(references: list[str], predictions: list[str], *, per_sample: bool = True) -> Any:
            evaluator.per_sample = per_sample
            evaluator.last = [prepare(text) for text in references]  # RadCliQ keeps IDF by `id()` of its references
            with warnings.catch_warnings(action="ignore"):  # RadGraph warns of each caption of one token
                found = evaluator(refs=evaluator.last, hyps=[prepare(text) for text in predictions])
            return found[each if per_sample else corpus]

        values, chosen = pair_best(captions, evaluate, higher_is_better=higher_is_better)
        if not corpus:
            return ScoreValues(values)
        return ScoreValues(values, evaluate(chosen, list(captions.raw_predictions), per_sample=False))

    needs = f"the extra radiology and {weights}"
    return Score(name, compute, needs=needs, higher_is_better=higher_is_better, modalities=modalities)


def compute_chexbert(captions: ScoreInput) -> ScoreValues:
    """Score captions by CheXbert's 14 labels; of several references the one counts whose labels agree most.

    By RadEval's labels alone: its scores of them need an older scikit-learn (RadEval 2.2.1 and scikit-learn 1.9).
    """
    labeler = _load_evaluator("f1chexbert", _CHEXBERT)

    def find_labels(texts: Sequence[str]) -> NDArray[np.bool_]:
        return np.array(labeler.get_labels(list(texts)), dtype=bool)

    def compare(references: list[str], predictions: list[str]) -> Sequence[float]:
        each: list[float] = score_labels(find_labels(references), find_labels(predictions)).each.tolist()
        return each

    _, chosen = pair_best(captions, compare)
    return score_labels(find_labels(chosen), find_labels(captions.raw_predictions))


def score_labels(expected: NDArray[np.bool_], found: NDArray[np.bool_]) -> ScoreValues:
    """Compute the share of labels (N, L) that agree in each image, and the micro F1 of those that are set."""
    counts = np.stack([2 * (expected & found).sum(axis=1), (expected != found).sum(axis=1)], axis=1).astype(float)

    def pool(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        total = sums.sum(axis=-1)
        scores: NDArray[np.float64] = np.divide(sums[..., 0], total, out=np.zeros_like(total), where=total > 0)
        return scores

    return ScoreValues((expected == found).mean(axis=1), float(pool(counts.sum(axis=0))), counts, pool)


def keep_sentence(text: str) -> str:
    """Lengthen what RaTEScore would drop: without a sentence of 3 characters a caption shifts all that follow it."""
    return text if len(text.strip()) > 2 else f"{text}..."


_RADGRAPH = "StanfordAIMI/RRG_scorers in ~/.cache/radgraph, and the encoder that it names in HF_HOME"
_CHEXBERT = "chexbert.pth of StanfordAIMI/RRG_scorers in ~/.cache/chexbert, and bert-base-uncased in HF_HOME"
RADGRAPH = build_score("RadGraph F1", "radgraph", "radgraph_partial", f"radgraph-xl.tar.gz of {_RADGRAPH}")
CHEXBERT = Score(
    "CheXbert F1", compute_chexbert, needs=f"the extra radiology and {_CHEXBERT}", modalities="chest X-rays"
)
_RATESCORE = "Angelakeke/RaTE-NER-Deberta and FremyCompany/BioLORD-2023-C in HF_HOME"
RATESCORE = build_score("RaTEScore", "ratescore", "ratescore", _RATESCORE, prepare=keep_sentence)
_RADCLIQ = f"radgraph.tar.gz of {_RADGRAPH}, {_CHEXBERT} with distilroberta-base"
RADCLIQ = build_score("RadCliQ-v1", "radcliq", "radcliq_v1", _RADCLIQ, higher_is_better=False)
RADBERT_CT = build_score(
    "RadBERT-CT F1", "f1radbert_ct", "f1radbert_ct_sample_acc", "IAMJB/RadBERT-CT in HF_HOME",
    corpus="f1radbert_ct_micro_f1", modalities="chest CT",
)  # fmt: skip
_BERTSCORE = "radeval_bertscore"
RADEVAL_BERTSCORE = build_score(
    "RadEval BERTScore", _BERTSCORE, _BERTSCORE, "IAMJB/RadEvalModernBERT in HF_HOME", modalities="any"
)
