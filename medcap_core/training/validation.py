"""The validation scores that an objective names: of captions over the whole split, of answers where they are known."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medcap_core.config import TrialConfig
from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.records import Record
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION, Diagnosis, ScanRecord, read_diagnosis
from medcap_core.errors import ConfigFault
from medcap_core.inference.generation import Request
from medcap_core.models import Captioner
from medcap_core.objective import RANKED_SCORES, Objective, Predictions
from medcap_core.scoring.captions import CaptionScorer
from medcap_core.scoring.classification import compute_balanced_accuracy
from medcap_core.scoring.options import ScoringOptions

ALIKE_SHARE = 0.5
"""Share of equal validation captions, and of an exact copy's CIDEr that one caption has, from which it hardly ranks."""


def check_objective(config: TrialConfig, captioner: Captioner, records: Sequence[Record]) -> None:
    """Raise ConfigFault where model or validation records lack what the objective needs."""
    faults = []
    if config.objective.predictions == "answers" and not captioner.answers_questions:
        faults.append(
            f"objective {' and '.join(config.objective.names)} needs a model that answers questions, such as "
            f"medblip3d, but {config.model} is of the family '{captioner.family}'; choose such a model, or objective: "
            "CIDEr."
        )
    faults += _find_missing_truth(config.objective, config.data, records)
    if faults:
        raise ConfigFault(faults)


def describe_alike_captions(objective: Objective, references: Sequence[Sequence[str]]) -> list[str]:
    """Write one line where validation captions are so much alike that CIDEr hardly ranks models, if they are.

    CIDEr weights words by how few images have them: with one caption for all, an exact copy has 0 too. Of several
    references of an image the first is the copy.
    """
    captions = [first for first, *_ in references]
    caption, count = Counter(map(str.casefold, captions)).most_common(1)[0]
    if "CIDEr" not in objective.names or count < ALIKE_SHARE * len(captions):
        return []
    scorer = CaptionScorer(references)
    copied, fixed = scorer.cider(captions), scorer.cider([caption] * len(captions))
    if fixed < ALIKE_SHARE * copied:
        return []
    others = [name for name, score in RANKED_SCORES.items() if score.predictions == "captions" and name != "CIDEr"]
    return [
        f"Captions       {count:,} of {len(captions):,} validation captions are alike: an exact copy has CIDEr "
        f"{copied:.3f}, this one caption for all {fixed:.3f}, so CIDEr hardly ranks models; "
        f"take objective: {' or '.join(others)}, or captions that differ"
    ]


def check_truth(objective: Objective, data: str, records: Sequence[Record]) -> None:
    """Raise ConfigFault where the objective cannot score these validation records of the data set `data`."""
    faults = _find_missing_truth(objective, data, records)
    if faults:
        raise ConfigFault(faults)


def build_request(predictions: Predictions | None, num_images: int) -> Request:
    """Ask for a caption, or for the answer to the question for the diagnosis, of each image."""
    if predictions == "answers":
        return Request(questions=((DIAGNOSIS_QUESTION,),) * num_images)
    return Request(captions=True)


def compute_scores(split: PreparedSplit, texts: Sequence[str], config: TrialConfig) -> dict[str, float]:
    """Compute the scores of captions or answers that the objective names, one text for each record of the split.

    Records without a truth are left out. Raises ValueError where none has one.
    """
    if config.objective.predictions == "answers":
        pairs = zip(map(_diagnosis_of, split.records), map(read_diagnosis, texts), strict=True)
        known = [(truth, predicted) for truth, predicted in pairs if truth is not None]
        score = compute_balanced_accuracy([truth for truth, _ in known], [predicted for _, predicted in known])
        return {"balanced_accuracy": score}
    names = [score.name for score in config.objective.scores if score.predictions]
    if not names:
        return {}
    options = ScoringOptions(bertscore_model=config.bertscore_model, bertscore_idf=config.bertscore_idf)
    return CaptionScorer(split.references, options).compute(names, texts)


def find_scored(records: Sequence[Record], predictions: Predictions | None) -> NDArray[np.int64]:
    """Find the positions of the records that such predictions are scored on: int64 (K,)."""
    if predictions == "answers":
        return np.flatnonzero([_diagnosis_of(record) is not None for record in records])
    return np.arange(len(records))


def _find_missing_truth(objective: Objective, data: str, records: Sequence[Record]) -> list[str]:
    if objective.predictions != "answers":
        return []
    known = {_diagnosis_of(record) for record in records} - {None}
    if len(known) > 1:
        return []
    has = f"have {known.pop()} alone" if known else "have none"
    return [
        f"objective {' and '.join(objective.names)} needs validation scans of at least two diagnoses, but those of "
        f"{data} {has}; give their diagnoses, raise max_validation_images, or use objective: CIDEr."
    ]


def _diagnosis_of(record: Record) -> Diagnosis | None:
    return record.diagnosis if isinstance(record, ScanRecord) else None
