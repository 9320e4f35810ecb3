"""The validation score of a model by the metric of its config, which a sweep maximises.

Captions are scored by CIDEr over the whole split at once. Answers to the question for the diagnosis are scored over the
scans with a known diagnosis.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from medcap_core.config import TrialConfig
from medcap_core.data.batches import ImageSource
from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.records import Record
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, Diagnosis, ScanRecord, read_diagnosis
from medcap_core.errors import ConfigFault
from medcap_core.inference.generation import Request, generate_predictions
from medcap_core.models import Captioner
from medcap_core.objective import OBJECTIVES, Metric, Predictions
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.runtime.workers import Workers
from medcap_core.scoring.captions import load_caption_scorer
from medcap_core.scoring.classification import compute_balanced_accuracy

ALIKE_SHARE = 0.5
"""Share of equal validation captions, and of an exact copy's CIDEr that one caption has, from which it hardly ranks."""


def check_metric(config: TrialConfig, captioner: Captioner, records: Sequence[Record]) -> None:
    """Raise ConfigFault where model or validation records lack what the metric needs."""
    faults = []
    if OBJECTIVES[config.metric].predictions == "answers" and not captioner.answers_questions:
        faults.append(
            f"metric {config.metric} needs a model that answers questions, such as medblip3d, but {config.model} is "
            f"of the family '{captioner.family}'; choose such a model, or metric: cider."
        )
    faults += _find_missing_truth(config.metric, config.data, records)
    if faults:
        raise ConfigFault(faults)


def describe_alike_captions(metric: Metric, references: Sequence[Sequence[str]]) -> list[str]:
    """Write one line where validation captions are so much alike that CIDEr hardly ranks models, if they are.

    CIDEr weights words by how few images have them: with one caption for all, an exact copy has 0 too. Of several
    references of an image the first is the copy.
    """
    captions = [first for first, *_ in references]
    caption, count = Counter(map(str.casefold, captions)).most_common(1)[0]
    if metric != "cider" or count < ALIKE_SHARE * len(captions):
        return []
    scorer = load_caption_scorer(references)
    copied, fixed = scorer.cider(captions), scorer.cider([caption] * len(captions))
    if fixed < ALIKE_SHARE * copied:
        return []
    others = [name for name, objective in OBJECTIVES.items() if objective.predictions == "captions" and name != "cider"]
    remedy = f"take metric: {' or '.join(others)}, or captions that differ" if others else "give captions that differ"
    return [
        f"Captions       {count:,} of {len(captions):,} validation captions are alike: an exact copy has CIDEr "
        f"{copied:.3f}, this one caption for all {fixed:.3f}, so CIDEr hardly ranks models; {remedy}"
    ]


def check_truth(metric: Metric, data: str, records: Sequence[Record]) -> None:
    """Raise ConfigFault where the metric cannot score these validation records of the data set `data`."""
    faults = _find_missing_truth(metric, data, records)
    if faults:
        raise ConfigFault(faults)


def predict(
    captioner: Captioner,
    images: ImageSource,
    config: TrialConfig,
    predictions: Predictions,
    workers: Workers | None = None,
    progress: Progress = ignore_progress,
    what: str | None = None,
) -> list[str]:
    """Generate one caption, or answer to the question for the diagnosis, for each image, in order, on every worker."""
    request = build_request(predictions, len(images))
    found = generate_predictions(captioner, images, request, config, workers, progress, what or predictions)
    return [prediction.text for prediction in found]


def build_request(predictions: Predictions, num_images: int) -> Request:
    """Ask for a caption, or for the answer to the question for the diagnosis, of each image."""
    if predictions == "captions":
        return Request(captions=True)
    return Request(questions=((DIAGNOSIS_QUESTION,),) * num_images)


def score_predictions(split: PreparedSplit, texts: Sequence[str], metric: Metric) -> float:
    """Score captions or answers, one for each record of the split, in its order.

    Records without a truth are left out. Raises ValueError where none has one.
    """
    return _SCORES[metric](split, texts)


def _score_cider(split: PreparedSplit, captions: Sequence[str]) -> float:
    return load_caption_scorer(split.references).cider(captions)


def _score_balanced_accuracy(split: PreparedSplit, answers: Sequence[str]) -> float:
    pairs = [
        (diagnosis, read_diagnosis(answer))
        for record, answer in zip(split.records, answers, strict=True)
        if (diagnosis := _diagnosis_of(record)) is not None
    ]
    return compute_balanced_accuracy([truth for truth, _ in pairs], [predicted for _, predicted in pairs])


_SCORES: dict[Metric, Callable[[PreparedSplit, Sequence[str]], float]] = {
    "cider": _score_cider,
    "balanced_accuracy": _score_balanced_accuracy,
}


def find_scored(records: Sequence[Record], predictions: Predictions) -> NDArray[np.int64]:
    """Find the positions of the records that such predictions are scored on: int64 (K,)."""
    if predictions == "captions":
        return np.arange(len(records))
    return np.flatnonzero([_diagnosis_of(record) is not None for record in records])


def _find_missing_truth(metric: Metric, data: str, records: Sequence[Record]) -> list[str]:
    if OBJECTIVES[metric].predictions == "captions":
        return []
    known = {_diagnosis_of(record) for record in records} - {None}
    if len(known) > 1:
        return []
    has = f"have {known.pop()} alone" if known else "have none"
    return [
        f"metric {metric} needs validation scans of at least two diagnoses, but those of {data} {has}; "
        "give their diagnoses, raise max_validation_images, or use metric: cider."
    ]


def _diagnosis_of(record: Record) -> Diagnosis | None:
    return record.diagnosis if isinstance(record, ScanRecord) else None
