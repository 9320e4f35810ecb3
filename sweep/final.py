"""After the search: which trial is the best, its model in Hub format, and the one honest look at the test split.

`best` is chosen on validation. The test split is scored once for each model: what `test_metrics.json` holds is never
computed again, not after a resume and not after more trials.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.prepare import PreparedSplit, prepare_data
from medcap_core.metrics import choose_caption_prior, load_caption_scorer
from medcap_core.models import load_captioner
from medcap_core.trained import export_captioner
from sweep.cluster import TrialResources
from sweep.files import write_text_atomically
from sweep.scoring import CaptionJob, caption_split
from sweep.study import Study
from sweep.trial_record import TrialRecord, TrialState

Progress = Callable[[str, int, int], None]

# What decides the base model's captions; if these agree, so do its test scores.
_EVALUATION_FIELDS = (
    "data",
    "model",
    "image_size",
    "max_test_images",
    "prompt",
    "num_beams",
    "max_new_tokens",
    "min_new_tokens",
    "length_penalty",
    "repetition_penalty",
    "precision",
)


def rescore_candidates(study: Study, resources: TrialResources, progress: Progress) -> None:
    """Score the leading trials on the whole validation split, where the search saw only part of it."""
    waiting = [
        record
        for record in study.candidates()
        if record.config.max_validation_images is not None and record.whole_validation_cider is None
    ]
    if not waiting:
        return
    splits = {record.name: _load_split(record.config, "validation") for record in waiting}
    jobs = [
        CaptionJob(record.name, record.config, best_weights(study, record), "validation", len(splits[record.name]))
        for record in waiting
    ]
    captions = caption_split(jobs, resources, progress, "scoring the leading trials on all of validation")
    for record in waiting:
        scorer = load_caption_scorer(splits[record.name].captions)
        study.rescore(record.name, scorer.cider(captions[record.name]))


def export_best(study: Study, best: TrialRecord) -> Path:
    """Write `best.yaml` and `best/`; returns the latter. An unchanged best is not written again."""
    directory = study.directory / "best"
    mark = directory / "trial.txt"
    study.write_best(best)
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() == best.name:
        return directory
    partial = study.directory / "best.partial"
    shutil.rmtree(partial, ignore_errors=True)
    export_captioner(best.config, best_weights(study, best), partial)
    write_text_atomically(partial / mark.name, f"{best.name}\n")
    shutil.rmtree(directory, ignore_errors=True)
    partial.replace(directory)
    return directory


def best_weights(study: Study, record: TrialRecord) -> Path:
    """The trained weights of a trial's best epoch."""
    return study.trial_directory(record.name) / "checkpoints" / "best" / "weights.safetensors"


def score_on_test(study: Study, best: TrialRecord, resources: TrialResources, progress: Progress) -> dict[str, Any]:
    """Fill `test_metrics.json` and `test_predictions.csv` with what they lack, and return the former."""
    metrics = study.read_test_metrics()
    evaluation = {name: best.config.model_dump(mode="json")[name] for name in _EVALUATION_FIELDS}
    is_new_base = metrics.get("evaluation") != evaluation
    wanted = [best] if study.space.test == "best" else _scored_trials(study)
    wanted = [record for record in wanted if record.name not in study.tested_trials()]
    if not wanted and not is_new_base and metrics.get("best_trial") == best.name:
        return metrics
    captions = _caption_test(study, wanted, best if is_new_base else None, resources, progress)
    for record in wanted:
        split = _load_split(record.config, "test")
        study.add_test_score(record.name, load_caption_scorer(split.captions).all_scores(captions[record.name]))

    split = _load_split(best.config, "test")
    scorer = load_caption_scorer(split.captions)
    predictions_path = study.directory / "test_predictions.csv"
    metrics = study.read_test_metrics()
    if is_new_base:
        zero_shot = captions["zero_shot"]
        train = _load_split(best.config, "train")
        prior = choose_caption_prior(train.captions, seed=study.space.seed)
        metrics["zero_shot"] = scorer.all_scores(zero_shot)
        metrics["caption_prior"] = scorer.all_scores([prior] * len(split))
        metrics["caption_prior_text"] = prior
    else:
        zero_shot = pd.read_csv(predictions_path, keep_default_na=False, dtype=str)["zero_shot"].tolist()
    if best.name in captions:
        predictions = captions[best.name]
        metrics["shuffled_images"] = scorer.all_scores(_give_wrong_images(predictions, study.space.seed))
        table = {"id": split.ids, "reference": split.captions, "prediction": predictions, "zero_shot": zero_shot}
        write_text_atomically(predictions_path, pd.DataFrame(table).to_csv(index=False))
    metrics["best"] = metrics["trials"][best.name]
    metrics |= {"best_trial": best.name, "num_images": len(split), "evaluation": evaluation}
    study.write_test_metrics(metrics)
    scorer.close()
    return metrics


def _scored_trials(study: Study) -> list[TrialRecord]:
    return [record for record in study.records if record.state is TrialState.SUCCEEDED]


def _caption_test(
    study: Study, records: list[TrialRecord], base: TrialRecord | None, resources: TrialResources, progress: Progress
) -> dict[str, list[str]]:
    """Test captions of these trials by name, and of the base model of `base` under `zero_shot`."""
    jobs = [
        CaptionJob(
            record.name, record.config, best_weights(study, record), "test", len(_load_split(record.config, "test"))
        )
        for record in records
    ]
    if base is not None:
        config = base.config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT})
        jobs.append(CaptionJob("zero_shot", config, None, "test", len(_load_split(config, "test"))))
    return caption_split(jobs, resources, progress, "captioning the test split")


def _load_split(config: TrialConfig, name: str) -> PreparedSplit:
    geometry = load_captioner(config.model, config.image_size).geometry
    return prepare_data(config, geometry, splits=(name,), whole_validation=True).splits[name]


def _give_wrong_images(predictions: list[str], seed: int) -> list[str]:
    """Captions as if each image had been swapped for another: a seeded cycle, so that none keeps its own."""
    order = np.random.default_rng(seed).permutation(len(predictions))
    swapped = [""] * len(predictions)
    for here, there in zip(order, np.roll(order, 1), strict=True):
        swapped[here] = predictions[there]
    return swapped
