"""After the search: which trial is the best, its model in Hub format, and the one honest look at the test split.

`best` is chosen on validation. The test split is scored once for each model: what `test_metrics.json` holds is never
computed again, not after a resume and not after more trials.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.prepare import PreparedSplit, prepare_data
from medcap_core.data.records import SplitName
from medcap_core.files import write_text_atomically
from medcap_core.metrics import CaptionScorer, choose_caption_prior, load_caption_scorer
from medcap_core.models import load_geometry
from medcap_core.trained import export_captioner
from sweep.cluster import TrialResources
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
    """Score the leading trials on the whole validation split, where the search saw only part of it.

    A single candidate is the best however it scores.
    """
    candidates = study.candidates()
    if len(candidates) < 2:
        return
    waiting = [
        record
        for record in candidates
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
    table_path = study.directory / "test_predictions.csv"
    evaluation = {name: best.config.model_dump(mode="json")[name] for name in _EVALUATION_FIELDS}
    is_new_base = metrics.get("evaluation") != evaluation or not table_path.is_file()
    wanted = {record.name: record for record in [*_also_scored(study), best]}
    untested = [record for name, record in wanted.items() if name not in study.tested_trials()]
    if not untested and not is_new_base and metrics.get("best_trial") == best.name:
        return metrics
    split = _load_split(best.config, "test")
    scorer = load_caption_scorer(split.captions)
    with ThreadPoolExecutor(1) as beside:
        # The prior needs no model: scoring it meanwhile also starts METEOR, which takes seconds.
        prior = beside.submit(_score_caption_prior, study, best, scorer) if is_new_base else None
        zero_shot = _caption_test(study, [*untested, best], best if is_new_base else None, resources, progress)
        if prior is not None:
            progress("scoring the caption prior", 0, 1)
            metrics = study.read_test_metrics() | prior.result()
            progress("scoring the caption prior", 1, 1)
    for index, record in enumerate(untested):
        progress("scoring the test split", index, len(untested) + 1)
        references = _load_split(record.config, "test").captions
        study.add_test_score(record.name, load_caption_scorer(references).all_scores(_read_predictions(study, record)))

    if zero_shot is None:
        zero_shot = pd.read_csv(table_path, keep_default_na=False, dtype=str)["zero_shot"].tolist()
    else:
        metrics["zero_shot"] = scorer.all_scores(zero_shot)
    predictions = _read_predictions(study, best)
    metrics["shuffled_images"] = scorer.all_scores(_give_wrong_images(predictions, study.space.seed))
    metrics["trials"] = study.read_test_metrics()["trials"]
    metrics["best"] = metrics["trials"][best.name]
    metrics |= {"best_trial": best.name, "num_images": len(split), "evaluation": evaluation}
    table = {"id": split.ids, "reference": split.captions, "prediction": predictions, "zero_shot": zero_shot}
    write_text_atomically(table_path, pd.DataFrame(table).to_csv(index=False))
    study.write_test_metrics(metrics)
    progress("scoring the test split", len(untested) + 1, len(untested) + 1)
    scorer.close()
    return metrics


def _also_scored(study: Study) -> list[TrialRecord]:
    """With `test: all`, every trial that ran to its end."""
    if study.space.test == "best":
        return []
    return [record for record in study.records if record.state is TrialState.SUCCEEDED]


def _score_caption_prior(study: Study, best: TrialRecord, scorer: CaptionScorer) -> dict[str, Any]:
    prior = choose_caption_prior(_load_split(best.config, "train").captions, seed=study.space.seed)
    return {"caption_prior": scorer.all_scores([prior] * scorer.num_images), "caption_prior_text": prior}


def _caption_test(
    study: Study, records: list[TrialRecord], base: TrialRecord | None, resources: TrialResources, progress: Progress
) -> list[str] | None:
    """Leave each trial's test captions in its folder, where they are not there yet; return those of the base model.

    The base model is `base` untrained; None leaves it out.
    """
    waiting = {record.name: record for record in records if not _predictions_path(study, record).is_file()}
    splits = {name: _load_split(record.config, "test") for name, record in waiting.items()}
    jobs = [
        CaptionJob(name, record.config, best_weights(study, record), "test", len(splits[name]))
        for name, record in waiting.items()
    ]
    if base is not None:
        config = base.config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT})
        jobs.append(CaptionJob("zero_shot", config, None, "test", len(_load_split(config, "test"))))
    captions = caption_split(jobs, resources, progress, "captioning the test split")
    for name, record in waiting.items():
        table = pd.DataFrame({"id": splits[name].ids, "prediction": captions[name]})
        write_text_atomically(_predictions_path(study, record), table.to_csv(index=False))
    return captions.get("zero_shot")


def _predictions_path(study: Study, record: TrialRecord) -> Path:
    return study.trial_directory(record.name) / "test_predictions.csv"


def _read_predictions(study: Study, record: TrialRecord) -> list[str]:
    table = pd.read_csv(_predictions_path(study, record), keep_default_na=False, dtype=str)
    return table["prediction"].tolist()


def _load_split(config: TrialConfig, name: SplitName) -> PreparedSplit:
    return prepare_data(config, load_geometry(config), splits=(name,), whole_validation=True).splits[name]


def _give_wrong_images(predictions: list[str], seed: int) -> list[str]:
    """Captions as if each image had been swapped for another: a seeded cycle, so that none keeps its own."""
    order = np.random.default_rng(seed).permutation(len(predictions))
    swapped = [""] * len(predictions)
    for here, there in zip(order, np.roll(order, 1), strict=True):
        swapped[here] = predictions[there]
    return swapped
