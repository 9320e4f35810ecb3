"""Run directories for tests of the report, with made-up trials and scores and all files of a finished run; its page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd

from medcap_core.scoring.registry import STANDARD
from sweep.report.writing import write_report
from sweep.study.provenance import DataOrigin, ModelOrigin, begin_provenance, end_provenance
from sweep.study.record import TrialState
from sweep.study.study import Study
from sweep.study.test_results import TestResults
from tests.support.small_runs import Create, report_of, score, space

HOSTILE = "<script>alert('caption')</script> & <b>mass</b> | `x` _y_"


def scores(cider: float) -> dict[str, float]:
    return {name: round(cider / 10 + index / 100, 4) for index, name in enumerate(STANDARD[:-1])} | {"CIDEr": cider}


def fill(study: Study, num_trials: int | None = None) -> None:
    """Run the study's trials with made-up figures; the second fails, the third has a loss that is not finite."""
    while num_trials is None or len(study.records) < num_trials:
        record = study.propose()
        if record is None:
            return
        study.start(record.name)
        if record.number == 1:
            study.finish(record.name, TrialState.FAILED, f"The loss was not finite. {HOSTILE}")
            continue
        state = TrialState.SUCCEEDED
        for epoch in range(1, record.config.num_epochs + 1):
            figures = {
                "validation_loss": float("nan") if record.number == 2 else 2.0 / epoch,
                "training_seconds": 7.0 + record.number,
                "trainable_parameters": 1000 * (record.number + 1),
            }
            if not study.report(record.name, report_of(record, epoch, score(record, epoch), **figures)):
                state = TrialState.PRUNED
                break
        study.finish(record.name, state)


def make_finished(create: Create, trials: int = 1, **changes: Any) -> Path:
    """A finished run of random trials."""
    study = create(space(trials=trials, sampler="random", **changes))
    fill(study)
    return finish(study)


def finish(study: Study, **metrics: Any) -> Path:
    """Add what comes after the search: the test split's scores and captions, the best config, the provenance."""
    directory, best = study.directory, study.best()[0]
    study.write_best(best)
    made_up = {
        "best": scores(2.5),
        "zero_shot": scores(0.25),
        "caption_prior": scores(0.75),
        "shuffled_images": scores(0.5),
        "caption_prior_text": HOSTILE,
        "trials": {best.name: scores(2.5)},
        "best_trial": best.name,
        "num_images": 3,
    }
    TestResults.model_validate(made_up | metrics).save(study.paths.test_metrics)
    long_caption = " ".join(["opacity"] * 700)
    captions = {
        "id": ["a", "b", "c"],
        "reference": ["a lung", HOSTILE, long_caption],
        "prediction": ["a lung", "a heart", long_caption],
        "zero_shot": ["", "NA", HOSTILE],
    }
    pd.DataFrame(captions).to_csv(directory / "test_predictions.csv", index=False)
    begin_provenance(
        directory,
        command=["python", "-m", "sweep.run", "my space.yaml"],
        gpus=[],
        data=DataOrigin(name="images", kind=HOSTILE, notes=["cut from train"], sizes={"train": 11}),
        model=ModelOrigin(name="phantom-blip", sha256="0" * 64),
    )
    end_provenance(directory)
    return directory


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


class Page(HTMLParser):
    """Elements of a page with their attributes, and its visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def plots(self) -> list[str]:
        return [str(found["id"]) for tag, found in self.elements if found.get("class") == "plot"]


def report_on(directory: Path) -> Page:
    return Page(write_report(directory, with_images=False))


def figure_of(directory: Path, name: str) -> dict[str, Any]:
    text = (directory / "report.html").read_text(encoding="utf-8")
    found = re.search(rf'id="figure-{name}">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    figure: dict[str, Any] = json.loads(found[1])
    return figure
