"""The rows of the caption scores as they are kept: in `test_metrics.json` and `tables/per_image_scores.csv`."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from medcap_core.runtime.files import write_text_atomically
from sweep.held_out.caption_scores import (
    COMPARED_METRIC,
    CaptionScore,
    Cases,
    average_trials,
    compare_rows,
    compare_with_blind,
    score_group,
    take_metric,
)
from sweep.space import label_groups
from sweep.study.results import read_image_scores
from sweep.study.study import Study
from sweep.study.test_results import BASELINE_ROWS, BLIND_ROWS, Comparisons, TestResults


class CaptionRows:
    """All rows scored so far, in `results`; each is written as soon as it is scored."""

    def __init__(self, study: Study, results: TestResults) -> None:
        self.results = results
        self._study = study
        self._per_image = _read_per_image(study.paths.image_scores)

    def lacks(self, row: str) -> bool:
        """Check whether the scores of a row, or those of its images, are not there."""
        return self.results.scores_of(row) is None or row not in self._per_image

    def forget(self, rows: Collection[str]) -> None:
        """Drop rows that are no trials."""
        self.results.forget(rows)
        for row in rows:
            self._per_image.pop(row, None)

    def keep(self, row: str, score: CaptionScore) -> None:
        """Write a row. Scores that are there already stay as they are: nothing is scored twice."""
        if row not in BASELINE_ROWS:
            self.results.trials.setdefault(row, score.scores)
        elif self.results.scores_of(row) is None:
            setattr(self.results, row, score.scores)
        self.results.intervals[row] = score.intervals
        if score.facts is not None:
            self.results.facts[row] = score.facts
        if score.concepts is not None:
            self.results.concepts[row] = score.concepts
        self.results.variety.setdefault(row, score.variety)  # what was cut is not known of captions read again
        if score.subgroups:
            self.results.subgroups[row] = score.subgroups
        self._per_image[row] = score.per_image
        self._write()

    def finish(self, best: str, cases: Cases) -> None:
        """Let the row `best` be that of this trial, compare all rows, gather repeats over seeds, and write."""
        self.results.name_best(best)
        self._per_image.pop("best", None)
        self._per_image["best"] = self._per_image[best]
        seed, wanted = self._study.space.seed, self._study.space.baseline
        groups, columns = self._group_trials(), take_metric(self._per_image)
        means = average_trials(columns, groups)
        baseline = wanted if wanted in {*columns, *groups} else "zero_shot"
        rows, of_groups = compare_rows(columns, means, cases, baseline=baseline, aliases={"best": best}, seed=seed)
        missing = None if baseline == wanted else wanted
        self.results.comparisons = Comparisons(
            baseline=baseline, metric=COMPARED_METRIC, rows=rows, missing_baseline=missing
        )
        blind = (*BLIND_ROWS, "shuffled_images")
        self.results.blind_comparisons = compare_with_blind(columns, best, blind, cases, seed)
        self.results.groups = [
            score_group(label, trials, self.results.trials, means.get(label), cases, seed)
            for label, trials in groups.items()
        ]
        for group in self.results.groups:
            group.comparison = of_groups.get(group.label)
        self._write()

    def _group_trials(self) -> dict[str, list[str]]:
        """Group the scored trials by config whatever the seed, with `test: all`."""
        groups: dict[str, list[str]] = {}
        records = self._study.records if self._study.space.test == "all" else []
        for record, label in zip(records, label_groups([record.point for record in records]), strict=True):
            if record.name in self.results.trials and record.name in self._per_image:
                groups.setdefault(label, []).append(record.name)
        return groups

    def _write(self) -> None:
        table = pd.concat([part.assign(row=row) for row, part in self._per_image.items()], ignore_index=True)
        columns = ["row", "id", *(name for name in table.columns if name not in ("row", "id"))]
        path = self._study.paths.image_scores
        path.parent.mkdir(exist_ok=True)
        write_text_atomically(path, table[columns].to_csv(index=False))
        self._study.write_test_metrics(self.results)


def _read_per_image(path: Path) -> dict[str, pd.DataFrame]:
    """Read the scores of each image by row; empty where there is no such file yet."""
    if not path.is_file():
        return {}
    table = read_image_scores(path)
    return {str(row): part.drop(columns="row").reset_index(drop=True) for row, part in table.groupby("row", sort=False)}
