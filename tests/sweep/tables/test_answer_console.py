"""The tables on answers at the end of a run."""

import io
from typing import Any

import pytest
from rich.console import Console

from sweep.tables.answer_console import print_answer_tables
from tests.support.answered_runs import ROWS, build_answer_metrics


def show(metrics: dict[str, Any]) -> list[str]:
    console = Console(file=io.StringIO(), width=70, color_system=None)
    print_answer_tables(console, metrics)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    return [line for line in lines if not line.startswith("─")]


def figures(accuracy: float, interval: list[float], macro_f1: float) -> dict[str, Any]:
    recalls = dict.fromkeys(("a", "b", "c"), accuracy)
    intervals = {"balanced_accuracy": interval} if interval else {}
    return {
        "balanced_accuracy": accuracy, "macro_f1": macro_f1, "recalls": recalls, "intervals": intervals,
        "num_scans": 1200,
    }  # fmt: skip


def kinds(**exact: float) -> dict[str, Any]:
    told = {kind: {"exact_match": value, "f1": value + 0.0625, "num_questions": 1234} for kind, value in exact.items()}
    return {"overall": told.pop("overall"), "kinds": told}


def compared(difference: float, interval: list[float], p_adjusted: float) -> dict[str, Any]:
    told = {"baseline": "answer_prior", "difference": difference, "interval": interval, "p_adjusted": p_adjusted}
    return {"exact_match": told, "f1": told}


CLASSIFIED = {
    "classes": ["a", "b", "c"],
    "unseen_cohorts": ["green"],
    "rows": {
        "best": {
            way: {"unseen": figures(score, [0.5, 0.75], 0.6), "all": figures(0.7, [], 0.6)}
            for way, score in (("by_answer", 0.625), ("by_similarity", 0.5))
        },
        "answer_prior": {"by_answer": {"unseen": figures(1 / 3, [], 1 / 6), "all": figures(1 / 3, [], 1 / 6)}},
    },
}
ANSWERED = {
    "resampling": {"unit": "subject", "num_units": 90, "num_resamples": 1000},
    "rows": {
        "best": {"all": kinds(overall=0.75, sex=1.0, side=0.5)},
        "shuffled_images": {"all": kinds(overall=0.25, sex=0.5, side=0.0)},
        "answer_prior": {"all": kinds(overall=0.5, sex=0.5, side=0.5)},
    },
    "comparisons": {
        "all": {
            "overall": compared(0.25, [0.125, 0.375], 0.0001),
            "kinds": {"sex": compared(0.5, [0.25, 0.75], 0.002), "side": compared(-0.0, [-0.125, 0.125], 1.0)},
        }
    },
}


def test_classification_and_questions() -> None:
    assert show({"classification": CLASSIFIED, "question_answering": ANSWERED}) == [
        "",
        "diagnosis of 1,200 scans of unseen cohorts  balanced accuracy    95% interval  macro F1  by similarity  "
        "all test scans",
        "best model                                              0.625  [0.500, 0.750]     0.600          0.500  "
        "         0.700",
        "most frequent answer                                    0.333                     0.167                 "
        "         0.333",
        "balanced accuracy: mean recall over the classes, 0.333 for one class named always",
        "by similarity: balanced accuracy of the class whose words lie nearest to the scan, nothing written",
        "",
        "exact match, 1,234 test questions  best model  shuffled scans  most frequent answer    gain     95% interval"
        "       p     F1",
        "all questions                           0.750           0.250                 0.500  +0.250   [0.125, 0.375]"
        "  <0.001  0.812",
        "sex                                     1.000           0.500                 0.500  +0.500   [0.250, 0.750]"
        "   0.002  1.062",
        "side                                    0.500           0.000                 0.500  +0.000  [-0.125, 0.125]"
        "   1.000  0.562",
        "gain: best model less the better of the two that do not see the scan; p: sign-flip test by subjects, kinds "
        "corrected by Holm",
        "95% intervals: bootstrap over subjects, 1,000 resamples",
    ]


def test_without_unseen_cohorts_all_scans_stand_alone() -> None:
    lines = show(build_answer_metrics(unseen=()))
    assert lines[1].split("  ")[0] == "diagnosis of 6 test scans"
    assert "all test scans" not in lines[1]
    assert any(line.startswith("exact match, 13 test questions") for line in lines)


def test_settings_are_rows_of_a_comparison() -> None:
    metrics = build_answer_metrics(rows=(*ROWS, "trial_0000", "trial_0001"))
    named = {"label": "lr1e-3", "trials": ["trial_0000", "trial_0001"]}
    lines = show(metrics | {"groups": [named, {"label": "captions only", "trials": ["trial_0007"]}]})
    assert [line.split("  ")[0] for line in lines[2:7]] == [
        "lr1e-3",
        "best model",
        "zero-shot",
        "shuffled scans",
        "most frequent answer",
    ]
    assert lines[2].split()[1] == lines[3].split()[2]  # both trials answer as the best one does


@pytest.mark.parametrize("missing", ["comparisons", "classification"])
def test_what_is_not_known_is_left_out(missing: str) -> None:
    metrics = build_answer_metrics()
    if missing == "comparisons":
        metrics["question_answering"]["comparisons"] = {}
        assert not any("gain" in line for line in show(metrics))
    else:
        del metrics["classification"]
        assert not any("diagnosis of" in line for line in show(metrics))
    assert show({}) == []
