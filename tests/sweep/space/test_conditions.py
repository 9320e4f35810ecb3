"""Conditions between knobs: which cannot hold, and which hold together."""

from pathlib import Path

import pytest

from tests.support.space_files import faults_of, load, read_cases, search_of

FREEZE = "freeze: {choice: [full, lora]}\n  "
CONDITION_FAULTS = r"""
freeze: {choice: [full, lora]}\n  lora_rank: {choice: [4], when: lora}
    search.lora_rank.when: 'lora' is no condition; write a knob and its value, such as {freeze: lora}.
freeze: {choice: [full, lora]}\n  lora_rank: {choice: [4], when: {freze: lora}}
    search.lora_rank.when: unknown knob 'freze'; did you mean 'freeze'?
freeze: {choice: [full, lora]}\n  lora_rank: {choice: [4], when: {freeze: lorra}}
    search.lora_rank.when.freeze: 'lorra' is not one of full, encoder_only, decoder_only, bridge_only, patch_and_bridge,
    patch_and_bridge_lora, lora, zero_shot; did you mean 'lora'?
freeze: {choice: [full, lora]}\n  lora_rank: {choice: [4], when: {freeze: []}}
    search.lora_rank.when.freeze: the list of values is empty; list the values for which the range holds.
freeze: {choice: [full, lora]}\n  lora_rank: {choice: [4], when: {augment: true}}
    search.lora_rank.when.augment: augment is neither searched nor fixed; add it to 'search' or remove the condition.
freeze: {choice: [full, lora]}\n  lora_rank: {choice: [4], when: {freeze: [lora, decoder_only]}}
    search.lora_rank.when.freeze: freeze never takes 'decoder_only'; add the value to search.freeze or remove it here.
num_epochs: {int: [2, 4]}\n  warmup_fraction: {uniform: [0.0, 0.5], when: {num_epochs: 5}}
    search.warmup_fraction.when.num_epochs: num_epochs never takes 5; add the value to search.num_epochs or remove it
    here.
lora_dropout: {uniform: [0.0, 0.5]}\n  num_epochs: {int: [2, 4], when: {lora_dropout: 0.25}}
    search.num_epochs.when.lora_dropout: lora_dropout is a continuous range and meets no single value; make the
    condition depend on a knob with listed values.
num_epochs: {int: [2, 4], when: {num_epochs: 3}}
    search.num_epochs: its condition depends on itself (num_epochs -> num_epochs); remove one of the conditions.
augment: {choice: [true, false], when: {lora_vision: true}}
  lora_vision: {choice: [true, false], when: {augment: true}}
    search.augment: its condition depends on itself (augment -> lora_vision -> augment); remove one of the conditions.
num_epochs: {int: [2, 4], when: {augment: true}}
  augment: {choice: [true, false], when: {lora_vision: true}}
  lora_vision: {choice: [true, false], when: {num_epochs: 3}}
    search.num_epochs: its condition depends on itself (num_epochs -> augment -> lora_vision -> num_epochs); remove one
    of the conditions.
freeze: {choice: [full, lora]}
  lora_rank: {choice: [4, 8], when: {freeze: lora}}
  num_epochs: {int: [2, 4], when: {freeze: full, lora_rank: 8}}
    search.num_epochs.when: these conditions never hold together; remove one of them.
num_epochs: [{int: [2, 4]}, {choice: [5]}]
    search.num_epochs[0]: it can hold at the same time as num_epochs[1]; give them 'when' values that differ.
freeze: {choice: [full, decoder_only, lora]}
  num_epochs: [{int: [2, 4], when: {freeze: [full, lora]}}, {int: [5, 6], when: {freeze: [lora]}}]
    search.num_epochs[0]: it can hold at the same time as num_epochs[1]; give them 'when' values that differ.
freeze: {choice: [full, lora]}
  augment: {choice: [true, false]}
  num_epochs: [{int: [2, 4], when: {freeze: lora}}, {int: [5, 6], when: {augment: true}}]
    search.num_epochs[0]: it can hold at the same time as num_epochs[1]; give them 'when' values that differ.
"""


@pytest.mark.parametrize(("text", "expected"), read_cases(CONDITION_FAULTS))
def test_fault_of_a_condition(text: str, expected: str, tmp_path: Path) -> None:
    assert faults_of(tmp_path, search_of(text)) == [expected]


def test_branches_apart_through_their_parents_do_not_overlap(tmp_path: Path) -> None:
    # lora_rank is active under lora only, so the two branches of num_epochs never meet.
    text = (
        FREEZE + "lora_rank: {choice: [4, 8], when: {freeze: lora}}\n"
        "  num_epochs: [{int: [2, 4], when: {lora_rank: 8}}, {int: [5, 6], when: {freeze: full}}]"
    )
    assert len(load(tmp_path, search_of(text)).search["num_epochs"]) == 2


def test_condition_on_a_fixed_field(tmp_path: Path) -> None:
    text = "name: x\nfixed: {{freeze: {}}}\nsearch: {{lora_rank: {{choice: [4, 8], when: {{freeze: lora}}}}}}"
    assert load(tmp_path, text.format("lora")).search["lora_rank"][0].when == {}
    assert faults_of(tmp_path, text.format("full")) == [
        "search.lora_rank.when.freeze: freeze is fixed to 'full' and never takes 'lora'; "
        "remove this range or unfix the knob."
    ]
