"""Clinical scores of radiology reports by RadEval (extra `radiology`; github.com/jbdel/RadEval), of raw captions.

RadEval finds the weights of each score by their Hub names, in the Hub's cache (`HF_HOME`), and takes no others. Some
are files of PyTorch, which it loads itself by `torch.load`. Its scores by large language models are left out: they run
code of their checkpoints or send captions to a server. Scores compare a prediction with one reference; of several
references of an image the best counts.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
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
    best: dict[int, tuple[float, str]] = {}
    for (place, text), score in zip(pairs, found, strict=True):
        if place not in best or (score > best[place][0]) == higher_is_better:
            best[place] = (float(score), text)
    in_order = [best[place] for place in range(len(captions.raw_predictions))]
    return np.array([score for score, _ in in_order]), [text for _, text in in_order]


@lru_cache(maxsize=8)
def _load_evaluator(metric: str, weights: str) -> Any:
    """Load a metric of RadEval with the weights that it names itself. Raises ModelFault."""
    try:
        from radeval import RadEval
    except ImportError as error:
        raise ModelFault(
            f"score {metric}: RadEval cannot be imported ({first_line(error)}); install it by pip install -e "
            "'.[radiology]', or leave the score out."
        ) from None
    with warnings.catch_warnings():  # RadEval silences all warnings of the process
        try:
            return RadEval(metrics=[metric], show_progress=False)
        except Exception as error:  # noqa: BLE001  # RadEval raises a bare Exception where a download fails
            raise ModelFault(
                f"score {metric}: RadEval cannot load it ({first_line(error)}); its weights are {weights} on the Hub: "
                "download them where there is a network, into the cache that HF_HOME names, or leave the score out."
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
) -> Score:
    """Build a score of RadEval's `metric`; `each` and `corpus` are its keys for an image and for the corpus.

    Without `corpus` it is the mean over images.
    """

    def compute(captions: ScoreInput) -> ScoreValues:
        evaluator = _load_evaluator(metric, weights)

        def score_pairs(references: list[str], predictions: list[str]) -> Sequence[float]:
            evaluator.per_sample = True
            found: Sequence[float] = evaluator(refs=references, hyps=predictions)[each]
            return found

        values, chosen = pair_best(captions, score_pairs, higher_is_better=higher_is_better)
        if not corpus:
            return ScoreValues(values)
        evaluator.per_sample = False
        return ScoreValues(values, float(evaluator(refs=chosen, hyps=list(captions.raw_predictions))[corpus]))

    needs = f"the extra radiology and {weights}"
    return Score(name, compute, needs=needs, higher_is_better=higher_is_better, modalities=modalities)


_RRG = "StanfordAIMI/RRG_scorers"
RADGRAPH = build_score("RadGraph F1", "radgraph", "radgraph_partial", f"radgraph-xl.tar.gz of {_RRG}")
CHEXBERT = build_score(
    "CheXbert F1",
    "f1chexbert",
    "f1chexbert_sample_acc_all",
    f"chexbert.pth of {_RRG} and bert-base-uncased",
    corpus="f1chexbert_all_micro_f1",
)
RATESCORE = build_score(
    "RaTEScore", "ratescore", "ratescore", "Angelakeke/RaTE-NER-Deberta and FremyCompany/BioLORD-2023-C"
)
RADCLIQ = build_score(
    "RadCliQ-v1",
    "radcliq",
    "radcliq_v1",
    f"radgraph.tar.gz and chexbert.pth of {_RRG}, bert-base-uncased and distilroberta-base",
    higher_is_better=False,
)
RADBERT_CT = build_score(
    "RadBERT-CT F1",
    "f1radbert_ct",
    "f1radbert_ct_sample_acc",
    "IAMJB/RadBERT-CT",
    corpus="f1radbert_ct_micro_f1",
    modalities="chest CT",
)
RADEVAL_BERTSCORE = build_score(
    "RadEval BERTScore", "radeval_bertscore", "radeval_bertscore", "IAMJB/RadEvalModernBERT", modalities="any"
)
