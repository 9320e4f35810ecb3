"""Captions of the test split: of models, and of three blind checks.

The blind checks are one fixed caption, the caption of the nearest training image, and the chosen model shown the wrong
images.
"""

from dataclasses import asdict, replace
from functools import cached_property

import pandas as pd

from medcap_core.data.grouping import list_subgroups
from medcap_core.data.prepare import PreparedSplit, load_dataset
from medcap_core.errors import RunFault
from medcap_core.inference.generation import ImagePrediction, Request, compute_variety
from medcap_core.runtime.files import write_text_atomically
from medcap_core.runtime.progress import Progress
from medcap_core.scoring.baselines import choose_caption_prior, draw_wrong_images, find_nearest_captions
from medcap_core.scoring.captions import CaptionScorer
from medcap_core.scoring.facts import collect_concept_names
from medcap_core.scoring.java import ScoringFailure
from sweep.execution.jobs import load_split
from sweep.held_out.caption_rows import CaptionRows
from sweep.held_out.caption_scores import CaptionScore, score_captions, score_subgroups
from sweep.held_out.task import Task, describe_resampling
from sweep.study.record import TrialRecord
from sweep.study.results import read_table
from sweep.study.study import Study
from sweep.study.test_results import BASE_ROWS, BLIND_ROWS, CaptionVariety, Settings, TestResults

# What decides the training images that the blind rows choose from, beside the data.
_TRAINING_FIELDS = ("data_fraction", "max_train_images", "drop_duplicate_train_images")


class CaptionTask(Task[CaptionScore]):
    """One caption an image; equal captions of equal images are scored once."""

    activity = "captioning"
    blind_rows = BLIND_ROWS

    def __init__(self, study: Study, best: TrialRecord, results: TestResults) -> None:
        super().__init__(study, best, results)
        self._rows = CaptionRows(study, results)
        training: Settings = {name: getattr(best.config, name) for name in _TRAINING_FIELDS}
        self._has_new_base = results.evaluation != self.evaluation or not study.paths.predictions.is_file()
        if self._has_new_base:
            self._rows.forget(BASE_ROWS)
        if results.training != training:
            self._rows.forget(BLIND_ROWS)
        if results.best_trial != best.name:
            self._rows.forget(["shuffled_images", "best"])
        results.evaluation, results.training = self.evaluation, training
        rows = (*BLIND_ROWS, *self.trials, "zero_shot", "shuffled_images")
        self.missing = [row for row in rows if self._rows.lacks(row)]
        self.needed = [row for row in (*self.trials, "zero_shot") if row in {*self.missing, best.name, "zero_shot"}]
        self.is_complete = not self.missing and not self._rows.lacks("best")
        self._scores: dict[tuple[str, ...], CaptionScore] = {}
        self._is_abandoned = False

    def build_request(self, row: str) -> Request:
        """See `Task`."""
        return Request(captions=True)

    def load_predictions(self, row: str) -> list[ImagePrediction] | None:
        """See `Task`: the base model's captions stand in the table of all predictions; a damaged one is none."""
        is_base = row == "zero_shot"
        path = self.study.paths.predictions if is_base else self.study.paths.trial(row).predictions
        if not path.is_file() or (is_base and self._has_new_base):
            return None
        column = "zero_shot" if is_base else "prediction"
        try:
            table = read_table(path, ("id", column))
        except RunFault:
            return None
        if table["id"].tolist() != self.split_of(row).ids:
            return None
        known, cuts = {"True": True, "False": False}, table.get("is_cut", [""] * len(table))
        return [ImagePrediction(text, is_cut=known.get(cut)) for text, cut in zip(table[column], cuts, strict=True)]

    def save_predictions(self, row: str) -> None:
        """See `Task`."""
        if row != "zero_shot":
            table = pd.DataFrame({"id": self.split_of(row).ids, "prediction": self._captions(row)})
            table["is_cut"] = [prediction.is_cut for prediction in self.predictions[self.model_of(row)]]
            write_text_atomically(self.study.paths.trial(row).predictions, table.to_csv(index=False))

    def write_predictions(self) -> None:
        """Write `test_predictions.csv`."""
        references = ["\n".join(captions) for captions in self.split.references]
        columns = {"id": self.split.ids, "reference": references}
        columns |= {"prediction": self._captions(self.best.name), "zero_shot": self._captions("zero_shot")}
        write_text_atomically(self.study.paths.predictions, pd.DataFrame(columns).to_csv(index=False))

    def score(self, row: str, progress: Progress) -> CaptionScore:
        """See `Task`."""
        if row in self.trials:
            return self._score_model(self.split_of(row), row)
        if row == "zero_shot":
            return self._score_model(self.split, row)
        if row == "shuffled_images":
            wrong = draw_wrong_images([record.case for record in self.split.records], self.seed)
            own = self._captions(self.best.name)
            captions = [own[other] for other in wrong]
        elif row == "nearest_image":
            captions = find_nearest_captions(self.split, load_split(self.best.config, "train"), progress)
        else:
            captions = [self._prior] * len(self.split)
        return self._score(self.split, captions)

    def keep(self, row: str, score: CaptionScore) -> None:
        """See `Task`."""
        if row == "caption_prior":
            self.results.caption_prior_text = self._prior
        self._rows.keep(row, score)

    def finish(self) -> None:
        """See `Task`."""
        self.results.num_images = len(self.split)
        self.results.noun = self.split.records[0].noun
        self.results.resampling = describe_resampling(self.split.records, "case", "image")
        self.results.caption_preprocessing = self.study.space.caption_preprocessing
        groups = list_subgroups(self.split.records)
        if groups:
            columns = {kind: ["\n".join(own) for own in values] for kind, values in groups.items()}
            self.study.paths.tables.mkdir(exist_ok=True)
            table = pd.DataFrame({"id": self.split.ids, **columns})
            write_text_atomically(self.study.paths.image_groups, table.to_csv(index=False))
        if groups and self.best.name not in self.results.subgroups:  # it was scored when another trial was best
            score = self._score_model(self.split, self.best.name)
            self.results.subgroups[self.best.name] = score.subgroups or {}
        cases = {record.id: record.case for record in load_dataset(self.best.config).splits["test"]}
        self._rows.finish(self.best.name, cases)
        self._scorer(self.split).close()

    def abandon(self) -> None:
        """See `Task`: METEOR's program is interrupted."""
        self._is_abandoned = True
        self._scorer(self.split).interrupt()

    @cached_property
    def _prior(self) -> str:
        return choose_caption_prior(load_split(self.best.config, "train").captions, seed=self.seed)

    @cached_property
    def _concept_names(self) -> dict[str, str]:
        dataset = load_dataset(self.best.config)
        return collect_concept_names(record for part in dataset.splits.values() for record in part)

    def _captions(self, row: str) -> list[str]:
        return [prediction.text for prediction in self.predictions[self.model_of(row)]]

    def _scorer(self, split: PreparedSplit) -> CaptionScorer:
        return CaptionScorer(split.references, self.study.space.scoring_options)

    def _score_model(self, split: PreparedSplit, row: str) -> CaptionScore:
        """Score a model's own captions, and count those that were cut where that is known."""
        score = self._score(split, self._captions(row))
        if row in (self.best.name, "zero_shot"):
            score = replace(score, subgroups=score_subgroups(split, score.statistics, self.seed))
        is_cut = [prediction.is_cut for prediction in self.predictions[self.model_of(row)]]
        return replace(score, variety=CaptionVariety(**asdict(compute_variety(self._captions(row), is_cut))))

    def _score(self, split: PreparedSplit, captions: list[str]) -> CaptionScore:
        if self._is_abandoned:
            raise ScoringFailure("the run is ending")
        key = (*split.ids, *captions)
        if key not in self._scores:
            self._scores[key] = score_captions(split, captions, self._scorer(split), self._concept_names, self.seed)
        return self._scores[key]
