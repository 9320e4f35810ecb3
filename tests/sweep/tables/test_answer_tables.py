"""The tables on answers, as the terminal shows them at the end of a run."""

from typing import Any

import pytest

from sweep.study.test_results import ANSWER_ROWS
from sweep.tables.answer_tables import build_answer_tables
from tests.support.answered_runs import ROWS, build_answer_metrics
from tests.support.printed_tables import build_results, print_lines


def show(metrics: dict[str, Any], width: int = 70, *, is_terminal: bool = False) -> list[str]:
    """The lines but those under headers."""
    lines = print_lines(build_answer_tables(build_results(metrics)), width, is_terminal=is_terminal)
    return [line for line in lines if not line.startswith("─")]


def figures(accuracy: float, interval: list[float], macro_f1: float) -> dict[str, Any]:
    return {
        "balanced_accuracy": accuracy,
        "macro_f1": macro_f1,
        "recalls": dict.fromkeys(("a", "b", "c"), accuracy),
        "intervals": {"balanced_accuracy": interval} if interval else {},
        "recall_intervals": {},
        "confusion": [],
        "num_scans": 1200,
    }


def kinds(**exact: float) -> dict[str, Any]:
    scores = {
        kind: {"exact_match": value, "f1": value + 0.0625, "num_questions": 1234, "intervals": {}}
        for kind, value in exact.items()
    }
    return {"overall": scores.pop("overall"), "kinds": scores}


def compared(difference: float, interval: list[float], p_adjusted: float) -> dict[str, Any]:
    found = {"baseline": "answer_prior", "difference": difference, "interval": interval}
    found |= {"p_value": p_adjusted / 2, "p_adjusted": p_adjusted}
    return {"exact_match": found, "f1": found}


CLASSIFIED = {
    "classes": ["a", "b", "c"],
    "unseen_cohorts": ["green"],
    "rows": {
        "best": {
            source: {"unseen": figures(score, [0.5, 0.75], 0.6), "all": figures(0.7, [], 0.6)}
            for source, score in (("by_answer", 0.625), ("by_similarity", 0.5))
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
    assert show({"classification": CLASSIFIED, "question_answering": ANSWERED}, 80, is_terminal=True) == [
        "",
        "Diagnosis on the test split",
        "                                                            Macro   Balanced",
        "                                                              F1,  accuracy,",
        "                                      Balanced accuracy,   unseen   all test",
        "Model or baseline     Class by            unseen cohorts  cohorts      scans",
        "best model            answer      0.625 (0.500 to 0.750)    0.600      0.700",
        "best model            similarity  0.500 (0.500 to 0.750)    0.600      0.700",
        "most frequent answer  answer                       0.333    0.167      0.333",
        "Balanced accuracy is the mean recall over the classes and macro F1 the mean of their F1, both 0 to 1; always "
        "naming one of 3 classes gives 0.333.",
        "The class is what the generated answer names (one that names none, or several, is wrong), or whose words lie "
        "nearest to the scan.",
        "Unseen cohorts, without any scan in training: green.",
        "Ranges are 95% bootstrap intervals over subjects, 1,000 resamples.",
        "",
        "Exact match on questions by kind, all test scans",
        "                                  most",
        "       best         shuffled  frequent",
        "Kind  model     F1     scans    answer                       gain       p",
        "all   0.750  0.812     0.250     0.500  +0.250 (+0.125 to +0.375)  <0.001",
        "sex   1.000  1.062     0.500     0.500  +0.500 (+0.250 to +0.750)   0.002",
        "side  0.500  0.562     0.000     0.500  +0.000 (-0.125 to +0.125)   1.000",
        "Exact match is the share of answers that read like the truth, case, punctuation and articles aside; F1 also "
        "counts single words.",
        "The gain is over the better of the two rows that do not see the scan, found anew for each kind; p: paired "
        "sign-flip test, corrected by Holm for the number of kinds.",
        "Shuffled scans are the best model asked about other subjects' scans, most frequent answers those of the "
        "training split: what can be had without a look at the scan.",
        "Ranges are 95% bootstrap intervals over subjects, 1,000 resamples.",
    ]


def test_without_unseen_cohorts_all_scans_stand_alone() -> None:
    lines = show(build_answer_metrics(unseen=()))
    assert "Exact match on questions by kind, all test scans" in lines
    assert not any("unseen" in line or "cohorts" in line for line in lines)
    assert any(line.split()[:2] == ["all", "13"] for line in lines)


def test_settings_are_rows_of_a_comparison() -> None:
    metrics = build_answer_metrics(rows=(*ROWS, "trial_0000", "trial_0001"))
    scores = {"CIDEr": {"mean": 1.0, "std": None, "num_seeds": 1}}
    named = {"label": "lr1e-3", "trials": ["trial_0000", "trial_0001"], "scores": scores}
    other = {"label": "captions only", "trials": ["trial_0007"], "scores": scores}
    lines = show(metrics | {"groups": [other, named], "best_trial": "trial_0001"})
    start = lines.index("Diagnosis: mean and standard deviation over seeds")
    names = dict.fromkeys(line.split("  ")[0] for line in lines[:start])
    models = [name for name in names if name in ("best model", "trial_0000", "trial_0001", *ANSWER_ROWS.values())]
    assert models == ["best model", *ANSWER_ROWS.values()]
    rows = [line.split() for line in lines[start:] if line.startswith(("lr1e-3", "captions only"))]
    # Both trials answer as the best one does.
    assert rows == [
        ["lr1e-3", "2", "answer", "0.833", "±", "0.000", "0.778", "0.500"],
        ["lr1e-3", "2", "similarity", "0.333", "±", "0.000", "0.133", "0.333"],
    ]


@pytest.mark.parametrize("missing", ["comparisons", "classification"])
def test_what_is_not_known_is_left_out(missing: str) -> None:
    metrics = build_answer_metrics()
    if missing == "comparisons":
        metrics["question_answering"]["comparisons"] = {}
        assert not any("gain" in line for line in show(metrics))
    else:
        del metrics["classification"]
        assert not any("Diagnosis" in line for line in show(metrics))
    assert show({}) == []
