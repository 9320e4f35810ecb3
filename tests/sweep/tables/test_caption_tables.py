"""The tables on captions, as the terminal shows them at the end of a run."""

import dataclasses
import re
from typing import Any

import pytest

from medcap_core.config import TrialConfig
from medcap_core.data.sources.hub import HUB_ALIASES
from medcap_core.scoring.published import ROCOV2, find_published
from sweep.study.record import TrialRecord
from sweep.tables.caption_tables import (
    build_caption_tables,
    build_group_table,
    build_subgroup_table,
    build_test_table,
    describe_blindness,
)
from tests.support.printed_tables import build_results, print_lines, print_styled

SCORES = {"BLEU-1": 0.5, "BLEU-2": 0.4, "BLEU-3": 0.3, "BLEU-4": 0.25, "METEOR": 0.2, "ROUGE-L": 0.45, "CIDEr": 3.125}
WHOLE: dict[str, Any] = {
    "best": SCORES,
    "zero_shot": SCORES | {"CIDEr": 0.25},
    "best_trial": "trial_0001",
    "num_images": 300,
    "intervals": {"best": {"CIDEr": [2.9, 3.35]}, "zero_shot": {"CIDEr": [0.2, 0.3]}},
    "comparisons": {
        "baseline": "zero_shot",
        "metric": "CIDEr",
        "rows": {"best": {"difference": 2.875, "interval": [2.5, 3.0], "p_value": 0.0002, "p_adjusted": 0.0004}},
    },
    "resampling": {"unit": "case", "num_units": 267, "num_resamples": 1000},
}


def show(metrics: dict[str, Any], width: int = 80, data: str = "phantoms", *, is_terminal: bool = True) -> list[str]:
    return print_lines(build_caption_tables(build_results(metrics, data)), width, is_terminal=is_terminal)


def group(label: str, mean: float, std: float, interval: list[float], p_adjusted: float) -> dict[str, Any]:
    values = {name: {"mean": score, "std": std, "num_seeds": 3} for name, score in SCORES.items()}
    values["CIDEr"] = {"mean": mean, "std": std, "num_seeds": 3}
    difference = mean - 0.25
    compared = {"difference": difference, "interval": interval, "p_value": p_adjusted / 2, "p_adjusted": p_adjusted}
    return {"label": label, "trials": [], "scores": values, "intervals": {"CIDEr": interval}, "comparison": compared}


@pytest.mark.parametrize(("models", "said"), [(("small", "large"), True), (("small", "small"), False)])
def test_of_several_models_the_untrained_one_is_named(models: tuple[str, str], said: bool) -> None:
    records = []
    for number, model in enumerate(models):
        config = TrialConfig(data="phantoms", model=f"{model}/checkpoint")
        records.append(TrialRecord(name=f"trial_{number:04d}", number=number, point={"model": model}, config=config))
    table = build_test_table(dataclasses.replace(build_results(WHOLE), records=records))
    assert (f"Zero-shot is the untrained {models[1]}, the model of the best trial." in table.notes) is said


@pytest.mark.parametrize("is_terminal", [True, False])
def test_scores_of_the_best_model_and_the_baselines(is_terminal: bool) -> None:
    half = {name: score / 2 for name, score in SCORES.items()}
    metrics = {
        "shuffled_images": half, "num_images": 1200, "caption_prior": {"CIDEr": 0.5}, "zero_shot": half, "best": SCORES,
    }  # fmt: skip
    tables = build_caption_tables(build_results(metrics))
    text = print_styled(tables, is_terminal=is_terminal)
    assert bool(re.search(r"\x1b\[1m *0\.500", text)) == is_terminal
    assert print_lines(tables, is_terminal=is_terminal) == [
        "",
        "Scores on 1,200 test images",
        "Model or baseline  BLEU-1  BLEU-2  BLEU-3  BLEU-4  METEOR  ROUGE-L  CIDEr",
        "─" * 73,
        "best model          0.500   0.400   0.300   0.250   0.200    0.450  3.125",
        "zero-shot           0.250   0.200   0.150   0.125   0.100    0.225  1.562",
        "caption prior           -       -       -       -       -        -  0.500",
        "shuffled images     0.250   0.200   0.150   0.125   0.100    0.225  1.562",
    ]


def test_confidence_stands_beside_cider_and_fits_80_columns() -> None:
    assert show(WHOLE) == [
        "",
        "Scores on 300 test images",
        "Model or baseline  BLEU-4  METEOR  ROUGE-L                   CIDEr       p",
        "─" * 74,
        "best model          0.250   0.200    0.450  3.125 (2.900 to 3.350)  <0.001",
        "zero-shot           0.250   0.200    0.450  0.250 (0.200 to 0.300)",
        "Ranges are 95% bootstrap intervals over 267 cases, 1,000 resamples.",
        "p: paired sign-flip test by cases of the difference in CIDEr to zero-shot, corrected by Holm.",
    ]
    comparisons = WHOLE["comparisons"] | {"missing_baseline": "trial_0003"}
    assert show(WHOLE | {"comparisons": comparisons}, width=120)[-1] == (
        "p: paired sign-flip test by cases of the difference in CIDEr to zero-shot (as trial_0003 was not scored), "
        "corrected by Holm."
    )
    assert "BLEU-2  BLEU-3" in show(WHOLE, width=120)[2]
    narrow = show(WHOLE, width=50)
    assert max(map(len, narrow[:6])) <= 50
    assert narrow[2].split()[-2:] == ["CIDEr", "p"]
    assert "(2.900 to 3.350)" in narrow[4]
    narrowest = show(WHOLE, width=34)
    assert max(map(len, narrowest[:6])) <= 34
    assert narrowest[4].split() == ["best", "model", "3.125", "<0.001"]


def comparison(difference: float, low: float, high: float) -> dict[str, Any]:
    return {"difference": difference, "interval": [low, high], "p_value": 0.25, "p_adjusted": 0.5}


def test_a_model_that_beats_no_blind_row_is_said_to_be_blind() -> None:
    blind = {"caption_prior": comparison(0.25, 0.125, 0.5), "shuffled_images": comparison(0.0, -0.125, 0.125)}
    variety = {"best": {"num_distinct": 2, "top_share": 0.97, "empty_share": 0.0}}
    said = describe_blindness(build_results(WHOLE | {"blind_comparisons": blind, "variety": variety}))
    assert said == (
        "This model has not learnt to see: on the test split its CIDEr is not clearly above that of these rows: "
        "shuffled images (+0.000, 95% interval -0.125 to +0.125). It gives 97% of the images one caption (2 distinct "
        "in all)."
    )
    nearest = {"nearest_image": comparison(-0.5, -0.625, -0.25)}
    assert "has not been shown to see" in describe_blindness(build_results(WHOLE | {"blind_comparisons": nearest}))


def test_a_model_that_sees_is_not_said_to_be_blind() -> None:
    blind = {"caption_prior": comparison(0.25, 0.125, 0.5), "shuffled_images": comparison(0.25, 0.125, 0.5)}
    variety = {"best": {"num_distinct": 200, "top_share": 0.1, "empty_share": 0.0}}
    assert describe_blindness(build_results(WHOLE | {"blind_comparisons": blind, "variety": variety})) == ""
    assert describe_blindness(build_results(WHOLE)) == ""


def test_the_variety_of_captions_has_a_table() -> None:
    variety = {
        "zero_shot": {"num_distinct": 1, "top_share": 1.0, "empty_share": 1.0},
        "best": {"num_distinct": 123, "top_share": 0.125, "empty_share": 0.0, "cut_share": 0.75},
    }
    lines = show(WHOLE | {"variety": variety})
    start = lines.index("How varied the captions are")
    assert lines[start + 1 :] == [
        "Model or baseline  Distinct  Commonest  Empty  Cut",
        "─" * 50,
        "best model              123        12%     0%  75%",
        "zero-shot                 1       100%   100%    -",
    ]


def test_settings_are_grouped_over_seeds_best_first() -> None:
    groups = [group("lora r8", 1.5, 0.125, [1.25, 1.75], 0.012), group("full", 3.0, 0.0625, [2.75, 3.25], 0.0002)]
    groups.append(group("zero_shot", 0.25, 0.0, [0.2, 0.3], 1.0))
    metrics = WHOLE | {"groups": groups}
    lines = show(metrics, width=110)
    start = lines.index("Mean and standard deviation over seeds")
    rows = [" ".join(line.split()) for line in lines[start:]]
    assert rows[1].startswith("Setting Seeds BLEU-1")
    assert rows[3] == "full 3 0.500 0.400 0.300 0.250 0.200 0.450 3.000 ± 0.062 2.750 3.250 <0.001"
    assert rows[4] == "lora r8 3 0.500 0.400 0.300 0.250 0.200 0.450 1.500 ± 0.125 1.250 1.750 0.012"
    assert rows[5].endswith("0.250 ± 0.000 0.200 0.300")  # the baseline itself
    assert "±: standard deviation over seeds." in rows
    assert max(map(len, show(metrics)[start : start + 6])) <= 80


def test_trials_of_a_comparison_give_their_place_to_their_settings() -> None:
    trials = {"trial_0000": SCORES, "trial_0001": SCORES, "trial_0002": SCORES}
    table = build_test_table(build_results(WHOLE | {"trials": trials}))
    assert [row["row"] for row in table.rows] == [*trials, "zero_shot"]
    assert [line.split("  ")[0] for line in print_lines([table])[4:6]] == ["best model", "zero-shot"]


def test_nothing_is_left_out_where_there_is_no_terminal() -> None:
    label = "a long label " * 9
    table = build_group_table(build_results(WHOLE | {"groups": [group(label, 1.5, 0.125, [1.25, 1.75], 0.012)]}))
    assert table is not None
    _, _, head, _, first, *_ = print_lines([table], width=40, is_terminal=False)
    assert head.split() == [
        "Setting", "Seeds", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "from", "to", "p",
    ]  # fmt: skip
    assert first.startswith(label)
    assert first.endswith("1.500 ± 0.125  1.250  1.750  0.012")


def test_extra_scores_and_preprocessing_are_shown() -> None:
    lines = show({"best": SCORES | {"ROUGE-1": 0.625}, "caption_preprocessing": "imageclef2025"}, width=120)
    assert lines[2].split()[-2:] == ["CIDEr", "ROUGE-1"]
    assert lines[4].endswith("3.125    0.625")
    assert lines[-1] == "Captions and references were preprocessed as imageclef2025."


def test_facts_and_concepts_have_tables_of_their_own() -> None:
    fact = {"accuracy": 0.875, "interval": [0.8, 0.93], "num_images": 40}
    facts = {"zero_shot": {"finding": fact}, "best": {"finding": fact, "side": fact}, "trial_0001": {"finding": fact}}
    lines = show(WHOLE | {"facts": facts})
    assert lines[-5:] == [
        "Facts named in the captions",
        "Model or baseline       Finding, accuracy          Side, accuracy",
        "─" * 65,
        "best model         0.875 (0.800 to 0.930)  0.875 (0.800 to 0.930)",
        "zero-shot          0.875 (0.800 to 0.930)                       -",
    ]
    concepts = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "interval": [0.3, 0.4], "num_images": 9}
    lines = show(WHOLE | {"concepts": {"best": concepts}})
    assert lines[-1].split() == ["best", "model", "0.333", "(0.300", "to", "0.400)", "0.500", "0.250"]


def test_published_figures_stand_below_ours_and_say_what_they_are() -> None:
    lines = show(WHOLE, data="/data/rocov2", width=160)
    lines = lines[lines.index("Beside published figures") :]
    rows = [re.split(r"  +", line.strip()) for line in lines]
    here = "this run's test split, 300 images"
    assert rows[3] == ["best model", "0.5", "0.4", "0.3", "0.25", "0.2", "0.45", "3.125", here]
    assert rows[5][1:] == ["0.0433", "0.0151", "-", "-", "0.0171", "0.0812", "0.0056", "ROCOv2 test, number not stated"]
    assert rows[8][0] == "one sentence for all images"
    assert lines[-3].startswith("As published by others, none of these models was run here")
    assert lines[-2].startswith("BLIP with LoRA is not on our scale: its images were divided by 255 twice")
    assert lines[-1].startswith("Below a CIDEr of about 0.08 a figure says nothing about seeing")
    assert "Beside published figures" not in show(WHOLE)


def test_published_figures_are_of_the_whole_data_set() -> None:
    assert find_published("phantoms", "synthetic images") == ()
    assert find_published("/data/x", "ROCOv2, Zenodo folder") == find_published("rocov2", "Hub data set") != ()
    title, name = HUB_ALIASES["rocov2-mini"]
    for data in ("rocov2-mini", name):
        assert find_published(data, f"{title}, Hub data set {name}") == ()


def test_the_published_table_of_the_recipe_is_whole() -> None:
    untuned, four, six = (figure.scores for figure in ROCOV2[:3])
    assert untuned == {"BLEU-1": 0.0433, "BLEU-2": 0.0151, "METEOR": 0.0171, "ROUGE-L": 0.0812, "CIDEr": 0.0056}
    assert four == {"BLEU-1": 0.0470, "BLEU-2": 0.0222, "METEOR": 0.0270, "ROUGE-L": 0.0882, "CIDEr": 0.0387}
    assert six == {"BLEU-1": 0.0545, "BLEU-2": 0.0255, "METEOR": 0.0278, "ROUGE-L": 0.0892, "CIDEr": 0.0401}
    assert all(figure.source and figure.tokens and figure.test_images for figure in ROCOV2)


def test_a_run_without_scores_has_no_table() -> None:
    assert show({}) == []


def test_subgroups_stand_lowest_first_beside_the_untrained_model() -> None:
    def score(cider: float) -> dict[str, Any]:
        return {"num_images": 20, "scores": SCORES | {"CIDEr": cider}, "intervals": {"CIDEr": [cider - 1, cider + 1]}}

    own = {"modality": {"CT": score(3.0), "MR": score(2.0)}}
    subgroups = {"best": own, "zero_shot": {"modality": {"CT": score(1.5)}}}
    table = build_subgroup_table(build_results(WHOLE | {"subgroups": subgroups}))
    assert table is not None
    lines = [" ".join(line.split()) for line in print_lines([table], 200)]
    assert lines[2].startswith("Kind Subgroup Images CIDEr CIDEr, zero-shot BLEU-1 BLEU-2")
    assert lines[4].startswith("modality MR 20 2.000 (1.000 to")
    assert lines[5].startswith("modality CT 20 3.000 (2.000 to 4.000) 1.500 (0.500 to 2.500)")
    assert build_subgroup_table(build_results(WHOLE)) is None
