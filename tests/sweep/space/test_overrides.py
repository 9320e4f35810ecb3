"""Flags of the command line applied to a space."""

from pathlib import Path

import optuna
import pytest

from medcap_core.errors import ConfigFault
from sweep.space import apply_overrides, build_config, build_space, grid_rows, propose
from tests.support.space_files import ABLATION, LORA, load


def override_faults(tmp_path: Path, text: str, **flags: object) -> list[str]:
    space = load(tmp_path, text)
    with pytest.raises(ConfigFault) as caught:
        apply_overrides(space, **flags)  # type: ignore[arg-type]
    return list(caught.value.faults)


def test_no_flags_leave_the_space_as_it_is(tmp_path: Path) -> None:
    space = load(tmp_path, LORA)
    assert apply_overrides(space) == space


def test_flags_and_keys(tmp_path: Path) -> None:
    changed = apply_overrides(
        load(tmp_path, LORA + "\nseed: 4\n"),
        data="roco",
        model="owner/name",
        trials=5,
        seed=9,
        max_concurrent=2,
        set_values=["resources.gpus_per_trial=0.5", "scheduler=none", "weight_decay=1e-3", "prompt=a picture of "],
    )
    assert (changed.data, changed.model, changed.trials, changed.seed) == ("roco", "owner/name", 5, 9)
    assert (changed.resources.max_concurrent, changed.resources.gpus_per_trial) == (2, 0.5)
    assert changed.scheduler == "none"
    assert changed.fixed == {"batch_size": 6, "weight_decay": 1e-3, "prompt": "a picture of "}


def test_the_objective_of_every_trial_has_one_place(tmp_path: Path) -> None:
    changed = apply_overrides(load(tmp_path, LORA), set_values=["objective=balanced_accuracy"])
    assert (changed.objective.names, "objective" in changed.fixed) == (("balanced_accuracy",), False)
    assert build_config(changed, {"freeze": "full"}).objective == changed.objective
    assert override_faults(tmp_path, LORA, set_values=["objective=bleu"]) == [
        "command line: --set objective=bleu: 'bleu' is not one of CIDEr, BLEU-4, ROUGE-L, METEOR, BERTScore, "
        "validation_loss, balanced_accuracy or an extra score that may be one, or a mapping of two or more of these to "
        "weights above 0; correct the value."
    ]
    both = apply_overrides(load(tmp_path, LORA), set_values=["objective={CIDEr: 0.5, BERTScore: 2}"])
    assert both.objective.label == "0.5 CIDEr + 2 BERTScore"
    assert build_space(both.to_mapping(), "again") == both
    assert override_faults(tmp_path, LORA, set_values=["objective={CIDEr: 0.5, BERTScore: .inf}"]) == [
        "command line: --set objective={CIDEr: 0.5, BERTScore: .inf}: the weight inf of BERTScore is not a number "
        "above 0; correct it."
    ]


def test_text_is_taken_as_written_unless_quoted(tmp_path: Path) -> None:
    space = load(tmp_path, LORA)
    for written, read in [("yes", "yes"), ("a: b", "a: b"), ("'a '", "a "), ("null", "null")]:
        assert apply_overrides(space, set_values=[f"prompt={written}"]).fixed["prompt"] == read


def test_set_knob_is_searched_no_more(tmp_path: Path) -> None:
    changed = apply_overrides(load(tmp_path, LORA), set_values=["num_epochs=3"])
    assert list(changed.search) == ["freeze", "learning_rate", "lora_rank"]
    assert changed.fixed["num_epochs"] == 3
    assert changed.first_points == (
        {"freeze": "lora", "learning_rate": 1e-3, "lora_rank": 8},
        {"freeze": "full", "learning_rate": 1e-4},
    )


def test_set_parent_settles_its_conditions(tmp_path: Path) -> None:
    full = apply_overrides(load(tmp_path, LORA), set_values=["freeze=full"])
    assert list(full.search) == ["learning_rate", "num_epochs"]
    assert [branch.values for branch in full.search["learning_rate"]] == [(1e-5, 1e-3)]
    assert full.first_points == ({"learning_rate": 1e-4, "num_epochs": 3},)
    lora = apply_overrides(load(tmp_path, LORA), set_values=["freeze=lora"])
    assert [branch.values for branch in lora.search["learning_rate"]] == [(1e-4, 1e-2)]
    assert set(propose(lora, optuna.create_study().ask())) == {"learning_rate", "lora_rank", "num_epochs"}
    zero_shot_only = apply_overrides(load(tmp_path, ABLATION), set_values=["freeze=zero_shot"])
    assert grid_rows(zero_shot_only) == [{"seed": 3}, {"seed": 5}]


def test_seed_flag_wins_over_a_fixed_seed(tmp_path: Path) -> None:
    space = load(tmp_path, "name: x\nfixed: {seed: 6}")
    assert build_config(space, {}).seed == 6
    assert build_config(apply_overrides(space, seed=8), {}).seed == 8
    assert build_config(apply_overrides(space, set_values=["seed=8"]), {}).seed == 8


def test_faults_of_flags_come_together(tmp_path: Path) -> None:
    flags = ["freeze=lorra", "num_beams", "lora_rnk=3", "search={}", "num_epochs=[", "max_concurrent=2", "seed=1"]
    flags.append("prompt='a")
    assert override_faults(tmp_path, LORA, trials=0, seed=2, set_values=flags) == [
        "command line: --trials 0: 0 is not a whole number (at least 1); correct the value.",
        "command line: --set freeze=lorra: 'lorra' is not one of full, encoder_only, decoder_only, bridge_only, "
        "patch_and_bridge, patch_and_bridge_lora, lora, zero_shot; did you mean 'lora'?",
        "command line: --set num_beams: it has no value; write it as key=value.",
        "command line: --set lora_rnk=3: unknown key 'lora_rnk'; did you mean 'lora_rank'?",
        "command line: --set search={}: 'search' cannot be given on the command line; change it in the space file.",
        "command line: --set num_epochs=[: the value is no valid YAML (line 1, column 2: while parsing a flow node "
        "expected the node content, but found '<stream end>'); put it in quotes.",
        "command line: --set max_concurrent=2: unknown key 'max_concurrent'; did you mean 'resources.max_concurrent'?",
        "command line: --set seed=1: seed is given twice; keep one.",
        "command line: --set prompt='a: the value is no valid YAML (line 1, column 3: while scanning a quoted scalar "
        "found unexpected end of stream); put it in quotes.",
    ]


def test_flags_that_do_not_go_with_the_space(tmp_path: Path) -> None:
    assert override_faults(tmp_path, LORA, set_values=["accumulation_steps=4"])[:2] == [
        "'tiny' with --set accumulation_steps=4: with freeze=lora, learning_rate=0.001, lora_rank=8, num_epochs=4: "
        "batch_size 6 must be a multiple of accumulation_steps 4.",
        "'tiny' with --set accumulation_steps=4: with freeze=full, learning_rate=0.0001, num_epochs=3: "
        "batch_size 6 must be a multiple of accumulation_steps 4.",
    ]
    assert override_faults(tmp_path, LORA, set_values=["freeze=zero_shot"]) == [
        "'tiny' with --set freeze=zero_shot: fixed.freeze: zero_shot trains nothing, so there is nothing to search; "
        "remove it (every run scores it once anyway), or use sampler: grid."
    ]


def test_number_of_trials_that_the_space_settles(tmp_path: Path) -> None:
    remedy = "remove the flag or shorten the grid's lists."
    assert override_faults(tmp_path, ABLATION, trials=3) == [
        f"command line: --trials 3: a grid runs each of its 14 rows; {remedy}"
    ]
    assert override_faults(tmp_path, ABLATION, set_values=["trials=3"]) == [
        f"command line: --set trials=3: a grid runs each of its 14 rows; {remedy}"
    ]
    assert override_faults(tmp_path, "name: x", trials=2) == [
        "command line: --trials 2: nothing is searched, so there is one trial; remove the flag or search a knob."
    ]
