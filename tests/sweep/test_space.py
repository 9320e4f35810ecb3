"""Search spaces: read, checked, dumped, overridden, sampled."""

import math
import re
from pathlib import Path

import optuna
import pytest

from medcap_core.config import TrialConfig
from medcap_core.errors import ConfigFault
from sweep.space import (
    SearchSpace,
    apply_overrides,
    best_space,
    build_config,
    build_space,
    decode_point,
    draw_points,
    dump_space,
    encode_point,
    grid_rows,
    load_space,
    num_trials,
    propose,
)

SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))

LORA = """
name: tiny
fixed: {batch_size: 6}
search:
  freeze: {choice: [full, decoder_only, lora]}
  learning_rate:
    - {loguniform: [1e-5, 1e-3], when: {freeze: [full, decoder_only]}}
    - {loguniform: [1e-4, 1e-2], when: {freeze: lora}}
  lora_rank: {choice: [4, 8], when: {freeze: lora}}
  num_epochs: {int: [2, 5]}
first_points:
  - {freeze: lora, learning_rate: 1e-3, lora_rank: 8, num_epochs: 4}
  - {freeze: full, learning_rate: 1e-4, num_epochs: 3}
trials: 7
"""

ABLATION = """
name: ablation
sampler: grid
seeds: [3, 5]
search:
  lora_rank: {grid: [4, 16], when: {freeze: lora}}
  freeze: {grid: [zero_shot, lora, full]}
  num_epochs: {grid: [2, 3], when: {freeze: [lora, full]}}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(tmp_path: Path, text: str) -> SearchSpace:
    return load_space(write(tmp_path, text))


def faults_of(tmp_path: Path, text: str) -> list[str]:
    """Faults of a file without its path, which each must begin with."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigFault) as caught:
        load_space(path)
    assert all(fault.startswith(f"{path}: ") for fault in caught.value.faults)
    return [fault.removeprefix(f"{path}: ") for fault in caught.value.faults]


def override_faults(tmp_path: Path, text: str, **flags: object) -> list[str]:
    space = load(tmp_path, text)
    with pytest.raises(ConfigFault) as caught:
        apply_overrides(space, **flags)  # type: ignore[arg-type]
    return list(caught.value.faults)


def search_of(text: str) -> str:
    return f"name: x\nsearch:\n  {text}\n"


# --- what a correct file holds -------------------------------------------------------------------------------------


def test_name_alone_gives_every_default(tmp_path: Path) -> None:
    space = load(tmp_path, "name: bare")
    assert dump_space(space).splitlines() == [
        "name: bare",
        "data: phantoms",
        "model: phantom-blip",
        "fixed: {}",
        "search: {}",
        "first_points: []",
        "trials: 1",  # nothing is searched
        "sampler: tpe",
        "seeds: []",
        "scheduler: asha",
        "reduction_factor: 2",
        "grace_fraction: 0.25",
        "metric: cider",
        "seed: 0",
        "test: best",
        "keep_checkpoints: false",
        "resources: {workers_per_trial: 1, gpus_per_trial: auto, cpus_per_trial: auto, max_concurrent: auto}",
    ]
    assert build_config(space, {}) == TrialConfig()


def test_twelve_trials_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path, search_of("num_epochs: {int: [2, 5]}")).trials == 12


def test_values_take_the_declared_type(tmp_path: Path) -> None:
    text = """
name: types
fixed: {learning_rate: 1e-5, batch_size: "8", max_train_images: 1e3, lora_alpha: 16, schedule: cosine, augment: yes}
search: {weight_decay: {uniform: [0, 1]}, warmup_fraction: {choice: [0, 1e-1]}, lora_alpha_: }
"""
    text = text.replace(", lora_alpha_: ", "")
    space = load(tmp_path, text)
    assert space.fixed == {
        "learning_rate": 1e-5,
        "batch_size": 8,
        "max_train_images": 1000,
        "lora_alpha": 16.0,
        "schedule": "cosine",
        "augment": True,
    }
    assert [type(value) for value in space.fixed.values()] == [float, int, int, float, str, bool]
    drawn = space.search["warmup_fraction"][0].range.to_list()
    assert drawn == [0.0, 0.1]
    assert all(isinstance(value, float) for value in drawn)


def test_sections_whose_lines_are_commented_out_are_empty(tmp_path: Path) -> None:
    space = load(tmp_path, "name: x\nfixed:\nsearch:\n  # freeze\nfirst_points:\nresources:\n")
    assert (space.fixed, space.search, space.first_points) == ({}, {}, ())


def test_existing_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    space = load(tmp_path, "name: x\ndata: images\nmodel: owner/name")
    assert (space.data, space.model) == (str(tmp_path / "images"), "owner/name")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_dump_reads_back_equal(path: Path, tmp_path: Path) -> None:
    space = load_space(path)
    assert load(tmp_path, dump_space(space)) == space


def test_dump_keeps_every_kind_of_value(tmp_path: Path) -> None:
    text = """
name: all-kinds
data: "null"
fixed: {prompt: "a picture of ", lora_alpha: null, learning_rate: 1e-05}
search:
  augment: {choice: [true, false]}
  max_rotation_degrees: {uniform: [1e-9, 2.5], when: {augment: true}}
  image_size: {choice: [null, 96]}
  num_epochs:
    - {int: [2, 3], when: {image_size: null, augment: [true, false]}}
    - {int: [4, 5], when: {image_size: 96}}
resources: {gpus_per_trial: 0.25, max_concurrent: 3}
keep_checkpoints: true
"""
    space = load(tmp_path, text)
    again = load(tmp_path, dump_space(space))
    assert again == space
    assert again.data == "null"
    assert again.fixed == {"prompt": "a picture of ", "lora_alpha": None, "learning_rate": 1e-5}
    assert again.search["max_rotation_degrees"][0].range.to_list() == [1e-9, 2.5]


# --- faults of a file ----------------------------------------------------------------------------------------------

ONE_FAULT = {
    "unknown top-level key": (
        "name: x\nserach: {}",
        "unknown key 'serach'; did you mean 'search'?",
    ),
    "no name": ("trials: 3", "name: the key is missing; give the sweep a name, such as 'name: lora'."),
    "name no folder could have": (
        "name: a/b",
        "name: 'a/b' is not text (letters, digits, '.', '_' and '-' only); correct the value.",
    ),
    "wrong type": ("name: x\ntrials: many", "trials: 'many' is not a whole number (at least 1); correct the value."),
    "empty value": ("name: x\ntrials:", "trials: null is not a whole number (at least 1); correct the value."),
    "true is no number": (
        "name: x\nfixed: {lora_rank: true}",
        "fixed.lora_rank: true is not a whole number (at least 1, at most 512); correct the value.",
    ),
    "1 is not true": ("name: x\nfixed: {augment: 1}", "fixed.augment: 1 is not true or false; correct the value."),
    "no number at all": (
        "name: x\nfixed: {max_grad_norm: .inf}",
        "fixed.max_grad_norm: inf is not a number (above 0); correct the value.",
    ),
    "optional field": (
        "name: x\nfixed: {image_size: 7}",
        "fixed.image_size: 7 is not a whole number (at least 16, at most 1024) or null; correct the value.",
    ),
    "sampler": ("name: x\nsampler: tp", "sampler: 'tp' is not one of tpe, random, grid; did you mean 'tpe'?"),
    "metric": ("name: x\nmetric: bleu", "metric: 'bleu' is not 'cider'; correct the value."),
    "section that is no mapping": (
        "name: x\nfixed: [1]",
        "fixed: [1] is not a mapping; write one 'key: value' on each line below it.",
    ),
    "unknown fixed key": (
        "name: x\nfixed: {lora_rnk: 4}",
        "fixed: unknown key 'lora_rnk'; did you mean 'lora_rank'?",
    ),
    "fixed data": (
        "name: x\nfixed: {data: roco}",
        "fixed.data: this key has its place at the top level; write 'data:' beside 'name:'.",
    ),
    "unknown knob": (
        search_of("learning_rte: {uniform: [0.1, 0.2]}"),
        "search: unknown knob 'learning_rte'; did you mean 'learning_rate'?",
    ),
    "misspelt choice": (
        search_of("freeze: {choice: [lorra]}"),
        "search.freeze.choice: 'lorra' is not one of full, encoder_only, decoder_only, lora, zero_shot; "
        "did you mean 'lora'?",
    ),
    "no range": (
        search_of("weight_decay: 0.1"),
        "search.weight_decay: 0.1 is no range; write one such as {uniform: [0.1, 0.5]}, or move it to 'fixed'.",
    ),
    "bare list": (
        search_of("learning_rate: [0.25, 0.5]"),
        "search.learning_rate[0]: 0.25 is no range; write one such as {loguniform: [1.0e-5, 1.0e-3]}, "
        "or move it to 'fixed'.\n"
        "search.learning_rate[1]: 0.5 is no range; write one such as {loguniform: [1.0e-5, 1.0e-3]}, "
        "or move it to 'fixed'.",
    ),
    "misspelt range": (
        search_of("weight_decay: {unifrm: [0, 1]}"),
        "search.weight_decay: unknown key 'unifrm'; did you mean 'uniform'?",
    ),
    "two ranges": (
        search_of("num_epochs: {int: [1, 2], choice: [3]}"),
        "search.num_epochs: 2 range types (int, choice) in one range; write exactly one, such as {int: [2, 6]}.",
    ),
    "condition without a range": (
        search_of("num_epochs: {when: {freeze: lora}}"),
        "search.num_epochs: no range type in one range; write exactly one, such as {int: [2, 6]}.",
    ),
    "out of bounds": (
        search_of("learning_rate: {uniform: [0, 1]}"),
        "search.learning_rate.uniform: 0 is not a number (above 0, at most 1); correct the value.",
    ),
    "int range of a float": (
        search_of("lora_dropout: {int: [0, 1]}"),
        "search.lora_dropout: 'int' does not fit, as lora_dropout is a number with fractions; "
        "use one of choice, uniform, loguniform, grid.",
    ),
    "float range of an int": (
        search_of("num_epochs: {uniform: [1, 3]}"),
        "search.num_epochs: 'uniform' does not fit, as num_epochs is a whole number; use one of choice, int, grid.",
    ),
    "range of a switch": (
        search_of("augment: {int: [0, 1]}"),
        "search.augment: 'int' does not fit, as augment is one of a few listed values; use one of choice, grid.",
    ),
    "empty range": (
        search_of("num_epochs: {int: [5, 5]}"),
        "search.num_epochs.int: the range from 5 to 5 is empty; put the lower end first, or move it to 'fixed'.",
    ),
    "reversed range": (
        search_of("weight_decay: {uniform: [0.5, 0.25]}"),
        "search.weight_decay.uniform: the range from 0.5 to 0.25 is empty; put the lower end first, "
        "or move it to 'fixed'.",
    ),
    "logarithm of zero": (
        search_of("weight_decay: {loguniform: [0, 0.5]}"),
        "search.weight_decay.loguniform: a logarithmic range cannot begin at 0.0; begin above 0, or use uniform.",
    ),
    "three ends": (
        search_of("num_epochs: {int: [1, 2, 3]}"),
        "search.num_epochs.int: [1, 2, 3] is not a pair; write the two ends, such as {int: [2, 6]}.",
    ),
    "null end": (
        search_of("image_size: {int: [null, 64]}"),
        "search.image_size.int: null is no end of a range; write two numbers, or list null in a choice.",
    ),
    "empty choice": (
        search_of("freeze: {choice: []}"),
        "search.freeze.choice: the list is empty; list the values, such as [a, b].",
    ),
    "repeated choice": (
        search_of("weight_decay: {choice: [0, 0.0]}"),
        "search.weight_decay.choice: 0.0 is listed twice; remove one.",
    ),
    "no branch": (
        search_of("num_epochs: []"),
        "search.num_epochs: the list of ranges is empty; write a range such as {int: [2, 6]}.",
    ),
    "searched data": (
        search_of("data: {choice: [roco, rocov2]}"),
        "search.data: this is the same for every trial of a run; move it to the top level with one value.",
    ),
    "searched cap on validation": (
        search_of("max_validation_images: {int: [10, 20]}"),
        "search.max_validation_images: this is the same for every trial of a run; move it to 'fixed' with one value.",
    ),
    "fixed and searched": (
        "name: x\nfixed: {num_epochs: 2}\nsearch: {num_epochs: {int: [2, 3]}}",
        "search.num_epochs: the knob is both fixed and searched; remove it from 'fixed' or from 'search'.",
    ),
    "grid with tpe": (
        search_of("num_epochs: {grid: [2, 3]}"),
        "search.num_epochs: 'grid' does not go with sampler tpe; write choice, or sampler: grid.",
    ),
    "choice in a grid": (
        "name: x\nsampler: grid\nsearch: {num_epochs: {choice: [2, 3]}}",
        "search.num_epochs: a grid cannot run over 'choice'; list the values as {grid: [...]}.",
    ),
    "first points in a grid": (
        "name: x\nsampler: grid\nsearch: {num_epochs: {grid: [2, 3]}}\nfirst_points: [{num_epochs: 2}]",
        "first_points: a grid tries every row; remove the key.",
    ),
    "seeds without a grid": (
        "name: x\nseeds: [0, 1]",
        "seeds: seeds repeat the rows of a grid and mean nothing to tpe; remove the key or use 'seed'.",
    ),
    "seed twice": ("name: x\nsampler: grid\nseeds: [4, 4]", "seeds: [4, 4] holds a seed twice; remove one."),
    "seeds that are no list": (
        "name: x\nsampler: grid\nseeds: 4",
        "seeds: 4 is not a list of whole numbers; correct the value.",
    ),
    "seeds and a fixed seed": (
        "name: x\nsampler: grid\nseeds: [1]\nfixed: {seed: 2}",
        "seeds: the seed is also fixed or searched; keep one of the two.",
    ),
    "zero-shot as a choice": (
        search_of("freeze: {choice: [lora, zero_shot]}"),
        "search.freeze.choice: zero_shot trains nothing and would be drawn again and again; "
        "remove it (every run scores it once anyway), or use sampler: grid.",
    ),
    "zero-shot searched around": (
        "name: x\nfixed: {freeze: zero_shot}\nsearch: {num_epochs: {int: [2, 3]}}",
        "fixed.freeze: zero_shot trains nothing, so there is nothing to search; "
        "remove it (every run scores it once anyway), or use sampler: grid.",
    ),
    "unknown resource": (
        "name: x\nresources: {max_concurent: 2}",
        "resources: unknown key 'max_concurent'; did you mean 'max_concurrent'?",
    ),
    "negative resource": (
        "name: x\nresources: {cpus_per_trial: -1}",
        "resources.cpus_per_trial: -1 is not 'auto' or a number (above 0); correct the value.",
    ),
    "one and a half GPUs": (
        "name: x\nresources: {gpus_per_trial: 1.5}",
        "resources.gpus_per_trial: 1.5 is above 1 and not whole; give a share of one GPU or whole ones.",
    ),
    "values that do not go together": (
        "name: x\nfixed: {batch_size: 7, accumulation_steps: 2}",
        "space 'x': batch_size 7 must be a multiple of accumulation_steps 2.",
    ),
    "no draw goes together": (
        "name: x\nfixed: {batch_size: 7}\nsearch: {accumulation_steps: {int: [2, 6]}}\nseed: 1",
        "with accumulation_steps=3: batch_size 7 must be a multiple of accumulation_steps 3.",
    ),
    "grid row that does not go together": (
        "name: x\nsampler: grid\nsearch: {batch_size: {grid: [6, 8]}, accumulation_steps: {grid: [2, 3]}}",
        "with batch_size=8, accumulation_steps=3: batch_size 8 must be a multiple of accumulation_steps 3.",
    ),
    "two keys alike": (
        "name: x\ntrials: 3\nseed: 1\ntrials: 5",
        "line 4: key 'trials' is written twice (first on line 2); keep one of them.",
    ),
    "two knobs alike": (
        "name: x\nsearch:\n  num_epochs: {int: [1, 2]}\n  num_epochs: {int: [3, 4]}",
        "line 4: key 'num_epochs' is written twice (first on line 3); keep one of them.",
    ),
}


@pytest.mark.parametrize(("text", "expected"), ONE_FAULT.values(), ids=ONE_FAULT.keys())
def test_fault_of_a_file(text: str, expected: str, tmp_path: Path) -> None:
    assert faults_of(tmp_path, text) == expected.split("\n")


FREEZE = "freeze: {choice: [full, lora]}\n  "
CONDITION_FAULTS = {
    "not a mapping": (
        FREEZE + "lora_rank: {choice: [4], when: lora}",
        "search.lora_rank.when: 'lora' is no condition; write a knob and its value, such as {freeze: lora}.",
    ),
    "no such knob": (
        FREEZE + "lora_rank: {choice: [4], when: {freze: lora}}",
        "search.lora_rank.when: unknown knob 'freze'; did you mean 'freeze'?",
    ),
    "no such value": (
        FREEZE + "lora_rank: {choice: [4], when: {freeze: lorra}}",
        "search.lora_rank.when.freeze: 'lorra' is not one of full, encoder_only, decoder_only, lora, zero_shot; "
        "did you mean 'lora'?",
    ),
    "no value": (
        FREEZE + "lora_rank: {choice: [4], when: {freeze: []}}",
        "search.lora_rank.when.freeze: the list of values is empty; list the values for which the range holds.",
    ),
    "knob not searched": (
        FREEZE + "lora_rank: {choice: [4], when: {augment: true}}",
        "search.lora_rank.when.augment: augment is neither searched nor fixed; "
        "add it to 'search' or remove the condition.",
    ),
    "value never taken": (
        FREEZE + "lora_rank: {choice: [4], when: {freeze: [lora, decoder_only]}}",
        "search.lora_rank.when.freeze: freeze never takes 'decoder_only'; "
        "add the value to search.freeze or remove it here.",
    ),
    "value outside an int range": (
        "num_epochs: {int: [2, 4]}\n  warmup_fraction: {uniform: [0.0, 0.5], when: {num_epochs: 5}}",
        "search.warmup_fraction.when.num_epochs: num_epochs never takes 5; "
        "add the value to search.num_epochs or remove it here.",
    ),
    "continuous parent": (
        "lora_dropout: {uniform: [0.0, 0.5]}\n  num_epochs: {int: [2, 4], when: {lora_dropout: 0.25}}",
        "search.num_epochs.when.lora_dropout: lora_dropout is a continuous range and meets no single value; "
        "make the condition depend on a knob with listed values.",
    ),
    "depends on itself": (
        "num_epochs: {int: [2, 4], when: {num_epochs: 3}}",
        "search.num_epochs: its condition depends on itself (num_epochs -> num_epochs); remove one of the conditions.",
    ),
    "depend on each other": (
        "augment: {choice: [true, false], when: {lora_vision: true}}\n"
        "  lora_vision: {choice: [true, false], when: {augment: true}}",
        "search.augment: its condition depends on itself (augment -> lora_vision -> augment); "
        "remove one of the conditions.",
    ),
    "never together": (
        FREEZE + "lora_rank: {choice: [4, 8], when: {freeze: lora}}\n"
        "  num_epochs: {int: [2, 4], when: {freeze: full, lora_rank: 8}}",
        "search.num_epochs.when: these conditions never hold together; remove one of them.",
    ),
    "both unconditional": (
        "num_epochs: [{int: [2, 4]}, {choice: [5]}]",
        "search.num_epochs[0]: it can hold at the same time as num_epochs[1]; give them 'when' values that differ.",
    ),
    "overlap in one value": (
        "freeze: {choice: [full, decoder_only, lora]}\n"
        "  num_epochs: [{int: [2, 4], when: {freeze: [full, lora]}}, {int: [5, 6], when: {freeze: [lora]}}]",
        "search.num_epochs[0]: it can hold at the same time as num_epochs[1]; give them 'when' values that differ.",
    ),
    "overlap through other knobs": (
        FREEZE + "augment: {choice: [true, false]}\n"
        "  num_epochs: [{int: [2, 4], when: {freeze: lora}}, {int: [5, 6], when: {augment: true}}]",
        "search.num_epochs[0]: it can hold at the same time as num_epochs[1]; give them 'when' values that differ.",
    ),
}


@pytest.mark.parametrize(("text", "expected"), CONDITION_FAULTS.values(), ids=CONDITION_FAULTS.keys())
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


POINT_FAULTS = {
    "no list": (
        "{freeze: lora}",
        "first_points: {freeze: 'lora'} is not a list; write one '- {knob: value, ...}' on each line below it.",
    ),
    "no point": ("[lora]", "first_points[0]: 'lora' is no point; write it as {knob: value, ...}."),
    "unknown knob": ("[{freze: lora}]", "first_points[0]: unknown knob 'freze'; did you mean 'freeze'?"),
    "knob not searched": (
        "[{num_beams: 2}]",
        "first_points[0].num_beams: the knob is not searched; remove it here or add it to 'search'.",
    ),
    "wrong type": (
        "[{num_epochs: two}]",
        "first_points[0].num_epochs: 'two' is not a whole number (at least 1, at most 1000); correct the value.",
    ),
    "outside a range": (
        "[{num_epochs: 2}, {num_epochs: 9}]",
        "first_points[1].num_epochs: 9 is outside int [2, 5]; choose a value inside it or widen the range.",
    ),
    "outside its branch's range": (
        "[{freeze: full, learning_rate: 0.005}]",
        "first_points[0].learning_rate: 0.005 is outside loguniform [1e-05, 0.001]; "
        "choose a value inside it or widen the range.",
    ),
    "outside a choice": (
        "[{freeze: encoder_only}]",
        "first_points[0].freeze: 'encoder_only' is outside choice ['full', 'decoder_only', 'lora']; "
        "choose a value inside it or widen the range.",
    ),
    "inactive": (
        "[{freeze: full, lora_rank: 8}]",
        "first_points[0].lora_rank: the knob is not active where freeze is 'full'; remove it from this point.",
    ),
    "parent missing": (
        "[{lora_rank: 8}]",
        "first_points[0].lora_rank: whether the knob is active depends on freeze; give freeze in the same point.",
    ),
    "repeated": (
        "[{num_epochs: 2}, {num_epochs: 2}]",
        "first_points[1]: it repeats first_points[0]; remove one of them.",
    ),
}


@pytest.mark.parametrize(("points", "expected"), POINT_FAULTS.values(), ids=POINT_FAULTS.keys())
def test_fault_of_a_first_point(points: str, expected: str, tmp_path: Path) -> None:
    text = LORA.split("first_points:", maxsplit=1)[0] + f"first_points: {points}\n"
    assert faults_of(tmp_path, text) == [expected]


def test_first_point_whose_values_do_not_go_together(tmp_path: Path) -> None:
    text = search_of("batch_size: {choice: [4, 6]}\n  accumulation_steps: {choice: [1, 4]}")
    assert faults_of(tmp_path, text + "first_points: [{batch_size: 6, accumulation_steps: 4}]") == [
        "with batch_size=6, accumulation_steps=4: batch_size 6 must be a multiple of accumulation_steps 4."
    ]
    # A sampler draws another point in the place of such a one, so the ranges alone are no fault.
    assert load(tmp_path, text + "first_points: [{batch_size: 4, accumulation_steps: 4}]").trials == 12


def test_all_faults_come_together(tmp_path: Path) -> None:
    text = """
name: x
trials: 0
sampler: random
fixed: {batch_size: none, lora_rnk: 4}
search:
  freeze: {choice: [lora, lorra]}
  lora_alpha: {uniform: [4, 2], when: {freeze: full}}
  num_epochs: {grid: [2]}
resources: {workers_per_trial: 0}
first_points: [{num_epochs: 2, nothing: 1}]
trials: 2
"""
    assert [fault.split(":")[0] for fault in faults_of(tmp_path, text)] == [
        "line 12",
        "fixed.batch_size",
        "fixed",
        "search.freeze.choice",
        "search.lora_alpha.uniform",
        "first_points[0]",
        "resources.workers_per_trial",
        "search.num_epochs",
    ]


def test_faults_of_a_knob_that_cannot_be_read_do_not_spread(tmp_path: Path) -> None:
    text = search_of("freeze: {choice: [lorra]}\n  lora_rank: {choice: [4], when: {freeze: lora}}")
    text += "first_points: [{freeze: lora, lora_rank: 4}]"
    assert [fault.split(":")[0] for fault in faults_of(tmp_path, text)] == ["search.freeze.choice"]


BROKEN_FILES = {
    "syntax": (
        b"name: x\nsearch: {freeze: [a\ntrials: 3\n",
        "line 3, column 7: while parsing a flow sequence expected ',' or ']', but got ':'; correct the YAML.",
    ),
    "tab": (
        b"name: x\nsearch:\n\tfreeze: 1\n",
        "line 3, column 1: while scanning for the next token found character '\\t' that cannot start any token; "
        "correct the YAML.",
    ),
    "two documents": (
        b"name: x\n---\nname: y\n",
        "line 2, column 1: expected a single document in the stream but found another document; correct the YAML.",
    ),
    "python object": (
        b"name: !!python/name:os.system x\n",
        "line 1, column 7: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'; "
        "correct the YAML.",
    ),
    "empty": (b"# nothing yet\n", "the file is empty; write keys and values, with 'name: ...' at least."),
    "list": (b"- name\n", "the file is no mapping; write keys and values, with 'name: ...' at least."),
    "not text": (b"\xff\xfe\x00", "cannot be read (it is not UTF-8 text); give a YAML file."),
}


@pytest.mark.parametrize(("content", "expected"), BROKEN_FILES.values(), ids=BROKEN_FILES.keys())
def test_broken_file(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigFault, match=re.escape(f"{path}: {expected}")) as caught:
        load_space(path)
    assert len(caught.value.faults) == 1


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault) as caught:
        load_space(tmp_path / "absent.yaml")
    remedy = "check the path (ready ones are in search_spaces/)."
    assert str(caught.value) == f"{tmp_path / 'absent.yaml'}: no such file; {remedy}"
    with pytest.raises(ConfigFault) as caught:
        load_space(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read (Is a directory); give a YAML file."


# --- flags ---------------------------------------------------------------------------------------------------------


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
    assert [branch.range.to_list() for branch in full.search["learning_rate"]] == [[1e-5, 1e-3]]
    assert full.first_points == ({"learning_rate": 1e-4, "num_epochs": 3},)
    lora = apply_overrides(load(tmp_path, LORA), set_values=["freeze=lora"])
    assert [branch.range.to_list() for branch in lora.search["learning_rate"]] == [[1e-4, 1e-2]]
    assert set(propose(lora, optuna.create_study().ask())) == {"learning_rate", "lora_rank", "num_epochs"}
    zero_shot_only = apply_overrides(load(tmp_path, ABLATION), set_values=["freeze=zero_shot"])
    assert grid_rows(zero_shot_only) == [{"seed": 3}, {"seed": 5}]


def test_seed_flag_wins_over_a_fixed_seed(tmp_path: Path) -> None:
    space = load(tmp_path, "name: x\nfixed: {seed: 6}")
    assert build_config(space, {}).seed == 6
    assert build_config(apply_overrides(space, seed=8), {}).seed == 8
    assert build_config(apply_overrides(space, set_values=["seed=8"]), {}).seed == 8


def test_faults_of_flags_come_together(tmp_path: Path) -> None:
    flags = [
        "freeze=lorra",
        "trials",
        "lora_rnk=3",
        "search={}",
        "num_epochs=[",
        "max_concurrent=2",
        "seed=1",
        "prompt='a",
    ]
    assert override_faults(tmp_path, LORA, trials=0, seed=2, set_values=flags) == [
        "command line: --set trials: it has no value; write it as key=value.",
        "command line: --set lora_rnk=3: unknown key 'lora_rnk'; did you mean 'lora_rank'?",
        "command line: --set search={}: 'search' cannot be given on the command line; change it in the space file.",
        "command line: --set max_concurrent=2: unknown key 'max_concurrent'; did you mean 'resources.max_concurrent'?",
        "command line: --trials 0: 0 is not a whole number (at least 1); correct the value.",
        "command line: --set freeze=lorra: 'lorra' is not one of full, encoder_only, decoder_only, lora, zero_shot; "
        "did you mean 'lora'?",
        "command line: --set num_epochs=[: the value is no valid YAML (line 1, column 2: while parsing a flow node "
        "expected the node content, but found '<stream end>'); put it in quotes.",
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


# --- points --------------------------------------------------------------------------------------------------------


def test_each_branch_is_a_parameter_of_its_own(tmp_path: Path) -> None:
    space = load(tmp_path, LORA)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=11))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        point = propose(space, trial)
        assert decode_point(trial.params) == point
        assert encode_point(space, point) == trial.params
        lora = point["freeze"] == "lora"
        low, high = (1e-4, 1e-2) if lora else (1e-5, 1e-3)
        assert low <= point["learning_rate"] <= high
        assert ("lora_rank" in point) == lora
        assert point["num_epochs"] in (2, 3, 4, 5)
        seen |= set(trial.params)
    assert seen == {
        "freeze",
        "learning_rate[freeze=full|decoder_only]",
        "learning_rate[freeze=lora]",
        "lora_rank",
        "num_epochs",
    }


def test_learning_rates_are_drawn_evenly_over_the_logarithm(tmp_path: Path) -> None:
    space = load(tmp_path, search_of("learning_rate: {loguniform: [1e-4, 1e-2]}"))
    drawn = [math.log10(point["learning_rate"]) for point in draw_points(space, 400, seed=5)]
    assert abs(sum(drawn) / 400 - -3) < 0.1  # the standard error is 0.029


def test_first_point_is_enqueued_in_its_branch(tmp_path: Path) -> None:
    space = load(tmp_path, LORA)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    for point in space.first_points:
        study.enqueue_trial(encode_point(space, point))
    assert [propose(space, study.ask()) for _ in range(2)] == list(space.first_points)


def test_parents_come_first_whatever_the_order_in_the_file(tmp_path: Path) -> None:
    text = "lora_rank: {choice: [4], when: {freeze: lora, augment: true}}\n  augment: {choice: [true]}\n  "
    space = load(tmp_path, search_of(text + "freeze: {choice: [lora]}"))
    assert list(propose(space, optuna.create_study().ask())) == ["augment", "freeze", "lora_rank"]


def test_draws_are_seeded(tmp_path: Path) -> None:
    space = load(tmp_path, LORA)
    assert draw_points(space, 6, seed=1) == draw_points(space, 6, seed=1)
    assert draw_points(space, 6, seed=1) != draw_points(space, 6, seed=2)


def test_grid_rows_by_hand(tmp_path: Path) -> None:
    space = load(tmp_path, ABLATION)
    rows = [
        {"freeze": "zero_shot"},
        {"freeze": "lora", "lora_rank": 4, "num_epochs": 2},
        {"freeze": "lora", "lora_rank": 4, "num_epochs": 3},
        {"freeze": "lora", "lora_rank": 16, "num_epochs": 2},
        {"freeze": "lora", "lora_rank": 16, "num_epochs": 3},
        {"freeze": "full", "num_epochs": 2},
        {"freeze": "full", "num_epochs": 3},
    ]
    assert grid_rows(space) == [{**row, "seed": seed} for row in rows for seed in (3, 5)]
    assert num_trials(space) == space.trials == 14
    assert {build_config(space, row).seed for row in grid_rows(space)} == {3, 5}
    assert draw_points(space, 3, seed=0) == grid_rows(space)[:3]


def test_grid_of_nothing_is_one_row(tmp_path: Path) -> None:
    assert grid_rows(load(tmp_path, "name: x\nsampler: grid")) == [{}]


def test_config_of_a_point(tmp_path: Path) -> None:
    space = load(tmp_path, LORA + "\nseed: 5\ndata: roco\n")
    point = {"freeze": "decoder_only", "learning_rate": 2e-4, "num_epochs": 3}
    assert build_config(space, point) == TrialConfig(
        data="roco", seed=5, batch_size=6, freeze="decoder_only", learning_rate=2e-4, num_epochs=3
    )
    assert build_config(space, {**point, "seed": 7}).seed == 7


def test_best_space_has_exactly_the_best_config(tmp_path: Path) -> None:
    space = load(tmp_path, LORA + "\nresources: {workers_per_trial: 2}\n")
    config = build_config(
        space, {"freeze": "lora", "learning_rate": 1.7e-3, "lora_rank": 8, "num_epochs": 5, "seed": 3}
    )
    best = load(tmp_path, dump_space(best_space(space, config, "tiny-best")))
    assert (best.name, best.search, num_trials(best), best.resources.workers_per_trial) == ("tiny-best", {}, 1, 2)
    assert build_config(best, {}) == config


def test_best_space_of_a_grid_may_be_zero_shot(tmp_path: Path) -> None:
    space = load(tmp_path, ABLATION)
    config = build_config(space, grid_rows(space)[0])
    assert build_config(best_space(space, config, "best"), {}) == config


def test_space_from_values_names_their_source() -> None:
    with pytest.raises(ConfigFault) as caught:
        build_space({"name": "x", "seed": -1}, "a test")
    assert (
        str(caught.value) == "a test: seed: -1 is not a whole number (at least 0, below 2147483648); correct the value."
    )


# --- shipped spaces ------------------------------------------------------------------------------------------------


def test_shipped_spaces_are_all_there() -> None:
    assert {path.stem for path in SHIPPED} >= {"lora", "quick", "full", "rocov2_recipe"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_space_opens_with_its_command(path: Path) -> None:
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first == f"# python -m sweep.run search_spaces/{path.name}"
    assert second.startswith("# Expect: ")
    assert load_space(path).name == path.stem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_space_samples_valid_configs(path: Path) -> None:
    space = load_space(path)
    if space.sampler == "grid":
        points = grid_rows(space)
    else:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        points = [*space.first_points, *(propose(space, study.ask()) for _ in range(50))]
    configs = [build_config(space, point) for point in points]
    assert len(set(configs)) == len(points)


def test_lora_space_searches_what_it_says() -> None:
    space = load_space(next(path for path in SHIPPED if path.stem == "lora"))
    assert list(space.search) == ["freeze", "learning_rate", "lora_rank", "num_epochs"]
    assert space.first_points


def test_rocov2_recipe_states_what_its_source_does() -> None:
    path = next(path for path in SHIPPED if path.stem == "rocov2_recipe")
    space = load_space(path)
    configs = [build_config(space, row) for row in grid_rows(space)]
    assert [config.num_epochs for config in configs] == [4, 6]
    stated = {
        "image_size": 224,
        "data_fraction": 0.1,
        "freeze": "lora",
        "lora_targets": "query_key",
        "schedule": "linear",
        "batch_size": 3,
    }
    assert all(config.model_dump(mode="json").items() >= stated.items() for config in configs)
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if re.match(r" *\w+: *\S", line)]
    uncommented = {line.split(":")[0].strip() for line in lines if "# not stated there; chosen" not in line}
    assert uncommented == {"name", "data", "model", "num_epochs", *stated}
