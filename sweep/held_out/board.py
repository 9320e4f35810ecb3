"""The scores of the test split as they are kept: `test_metrics.json` and `tables/per_image_scores.csv`.

Each row is written as soon as it is scored, so a killed run goes on with the next one.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medcap_core.runtime.files import write_text_atomically
from sweep.held_out.caption_scores import (
    COMPARED_METRIC,
    RowDetails,
    compare_rows,
    compute_group_interval,
    describe_group,
)
from sweep.space.labels import label_groups
from sweep.study.study import Study

_DETAILS = ("intervals", "facts", "concepts")


class ScoreBoard:
    """All rows scored so far. `metrics` is the content of `test_metrics.json`."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._table_path = study.directory / "tables" / "per_image_scores.csv"
        self._per_image = _read_per_image(self._table_path)
        self.metrics = study.read_test_metrics()

    def lacks(self, row: str) -> bool:
        """Whether anything of a row is not there: it was never scored, or by a version that kept less."""
        has_scores = row in self.metrics or row in self.metrics.get("trials", {})
        return not has_scores or row not in self.metrics.get("intervals", {}) or row not in self._per_image

    def forget(self, rows: Iterable[str]) -> None:
        """Drop rows whose captions are others now."""
        for row in rows:
            self.metrics.pop(row, None)
            self._per_image.pop(row, None)
            for key in _DETAILS:
                self.metrics.get(key, {}).pop(row, None)

    def put(self, row: str, details: RowDetails, *, is_trial: bool) -> None:
        """Keep a row. Scores that are there already stay as they are: nothing is scored twice."""
        if not is_trial:
            self.metrics.setdefault(row, details.scores)
        elif row not in self._study.tested_trials():
            self._study.add_test_score(row, details.scores)
        self.metrics["trials"] = self._study.read_test_metrics().get("trials", {})
        found = {"intervals": details.intervals, "facts": details.facts, "concepts": details.concepts}
        for key, value in found.items():
            if value is not None:
                self.metrics.setdefault(key, {})[row] = value
        self._per_image[row] = details.per_image
        self._write_per_image()
        self._study.write_test_metrics(self.metrics)

    def name_best(self, trial: str) -> None:
        """Let the row `best` be this trial's."""
        self.forget(["best"])
        self.metrics["best"] = self.metrics["trials"][trial]
        for key in _DETAILS:
            if trial in self.metrics.get(key, {}):
                self.metrics[key]["best"] = self.metrics[key][trial]
        self._per_image["best"] = self._per_image[trial]
        self.metrics["best_trial"] = trial

    def finish(self, cases: Mapping[str, str | None], **figures: Any) -> None:
        """Compare all rows, gather repeats over seeds, and write both files with `figures` beside the rows.

        `cases` gives the case of each test image by id.
        """
        space = self._study.space
        groups = self._group_trials()
        known = {*self._per_image, *groups}
        baseline = space.baseline if space.baseline in known else "zero_shot"
        aliases = {"best": self.metrics["best_trial"]}
        rows, of_groups = compare_rows(
            self._per_image, groups, cases, baseline=baseline, aliases=aliases, seed=space.seed
        )
        self.metrics["comparisons"] = {"baseline": baseline, "metric": COMPARED_METRIC, "rows": rows}
        if baseline != space.baseline:
            self.metrics["comparisons"]["missing_baseline"] = space.baseline
        self.metrics["groups"] = []
        for label, trials in groups.items():
            group = describe_group(label, trials, self.metrics["trials"])
            interval = compute_group_interval(trials, self._per_image, cases, space.seed)
            group |= {} if interval is None else {"intervals": {COMPARED_METRIC: interval}}
            group |= {"comparison": of_groups[label]} if label in of_groups else {}
            self.metrics["groups"].append(group)
        self.metrics |= figures
        self._write_per_image()
        self._study.write_test_metrics(self.metrics)

    def _group_trials(self) -> dict[str, list[str]]:
        """With `test: all`, the scored trials by config whatever the seed."""
        groups: dict[str, list[str]] = {}
        records = self._study.records if self._study.space.test == "all" else []
        for record, label in zip(records, label_groups([record.point for record in records]), strict=True):
            if record.name in self.metrics["trials"] and record.name in self._per_image:
                groups.setdefault(label, []).append(record.name)
        return groups

    def _write_per_image(self) -> None:
        parts = [table.assign(row=row) for row, table in self._per_image.items()]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"row": [], "id": []})
        columns = ["row", "id", *(name for name in table.columns if name not in ("row", "id"))]
        self._table_path.parent.mkdir(exist_ok=True)
        write_text_atomically(self._table_path, table[columns].to_csv(index=False))


def _read_per_image(path: Path) -> dict[str, pd.DataFrame]:
    """The scores of each image by row; empty where there is no such file yet."""
    if not path.is_file():
        return {}
    table = pd.read_csv(path, keep_default_na=False, dtype=str)
    for column in table.columns.difference(["row", "id"]):
        table[column] = [float(cell or "nan") for cell in table[column]]  # pandas' own parser is off by an ulp
    return {str(row): part.drop(columns="row").reset_index(drop=True) for row, part in table.groupby("row", sort=False)}
