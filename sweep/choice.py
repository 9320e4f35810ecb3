"""After the search: which trial is the best, by validation alone, and its model in Hub format."""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd

from medcap_core.config import FreezeMode
from medcap_core.runtime.files import write_text_atomically
from medcap_core.runtime.progress import Progress
from medcap_core.scoring.captions import CaptionScorer
from medcap_core.training.export import export_captioner
from medcap_core.training.validation import build_request, compute_scores, find_scored
from sweep.execution.cluster import TrialResources
from sweep.execution.jobs import PredictionJob, load_split, predict_split
from sweep.study.record import TrialRecord
from sweep.study.results import read_table
from sweep.study.study import Study


def rescore_candidates(study: Study, resources: TrialResources, progress: Progress) -> None:
    """Score the leading trials on the whole validation split, where the search saw only part of it.

    A single candidate is the best however it scores. Losses are not computed again: the search saw them on the same
    images for all trials. Captions are kept beside those of the untrained model, for the report.
    """
    candidates, objective = study.candidates, study.space.objective
    of_part = [record for record in candidates if record.config.max_validation_images is not None]
    waiting = [record for record in of_part if record.whole_validation_score is None]
    if len(candidates) < 2 or "validation_loss" in objective.names or not waiting:
        return
    splits, jobs, predictions = {}, [], objective.predictions
    for record in waiting:
        split = load_split(record.config, "validation")
        positions = find_scored(split.records, predictions)
        splits[record.name] = split.part(positions)
        request = build_request(predictions, len(positions))
        weights = study.paths.trial(record.name).best_weights
        images = positions.tolist()
        jobs.append(PredictionJob(record.name, record.config, weights, "validation", images, request, url=study.url))
    path, leader = study.paths.validation_predictions, waiting[0]
    untrained = leader.config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT})
    if predictions == "captions" and not path.is_file():
        jobs.append(replace(jobs[0], name="zero_shot", config=untrained, weights=None))
        splits["zero_shot"] = splits[leader.name]
    found = predict_split(jobs, resources, progress, "scoring the leading trials on all of validation")
    for record in waiting:
        texts = [prediction.text for prediction in found[record.name]]
        study.rescore(record.name, objective.combine(compute_scores(splits[record.name], texts, record.config)))
    if predictions == "captions":
        tables = [read_table(path, ("row", "id", "reference", "prediction", "CIDEr"))] if path.is_file() else []
        for row, own in found.items():
            split, captions = splits[row], [prediction.text for prediction in own]
            table = pd.DataFrame({"row": row, "id": split.ids, "reference": map("\n".join, split.references)})
            scores = CaptionScorer(split.references).cider_per_image(captions)
            tables.append(table.assign(prediction=captions, CIDEr=scores))
        write_text_atomically(path, pd.concat(tables).to_csv(index=False))


def export_best(study: Study, best: TrialRecord) -> Path:
    """Write `best.yaml` and `best/`; returns the latter. An unchanged best is not written again."""
    directory, mark = study.paths.best_model, study.paths.best_model_trial
    study.write_best(best)
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() == best.name:
        return directory
    partial = directory.with_name("best.partial")
    shutil.rmtree(partial, ignore_errors=True)
    export_captioner(best.config, study.best_weights(best.name), partial)
    write_text_atomically(partial / mark.name, f"{best.name}\n")
    shutil.rmtree(directory, ignore_errors=True)
    partial.replace(directory)
    return directory
