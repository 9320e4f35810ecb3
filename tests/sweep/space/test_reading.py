"""Faults of space files, each with its exact sentence."""

from pathlib import Path

import pytest

from medcap_core.errors import ConfigFault
from medcap_core.objective import RANKED_SCORES
from medcap_core.scoring.options import ScoringOptions
from medcap_core.scoring.registry import list_scores
from sweep.space import build_space
from tests.support.space_files import LORA, faults_of, load, read_cases, search_of

ONE_FAULT = r"""
name: x\nserach: {}
    unknown key 'serach'; did you mean 'search'?
trials: 3
    name: the key is missing; give the sweep a name, such as 'name: lora'.
name: a/b
    name: 'a/b' is not text (letters, digits, '.', '_' and '-' only); correct the value.
name: x\ntrials: many
    trials: 'many' is not a whole number (at least 1); correct the value.
name: x\ntrials:
    trials: null is not a whole number (at least 1); correct the value.
name: x\nfixed: {lora_rank: true}
    fixed.lora_rank: true is not a whole number (at least 1, at most 512); correct the value.
name: x\nfixed: {augment: 1}
    fixed.augment: 1 is not true or false; correct the value.
name: x\nfixed: {max_grad_norm: .inf}
    fixed.max_grad_norm: inf is not 'none' or a number (above 0); correct the value.
name: x\nfixed: {image_size: 7}
    fixed.image_size: 7 is not a whole number (at least 16, at most 1024) or null; correct the value.
name: x\nsampler: tp
    sampler: 'tp' is not one of tpe, random, grid; did you mean 'tpe'?
name: x\nobjective: BLEU4
    objective: 'BLEU4' is not one of %RANKED% or an extra score that may be one, or a mapping of two or more of these to
    weights above 0; did you mean 'BLEU-4'?
name: x\nobjective: imageclef2026
    objective: 'imageclef2026' is no score that trials can be ranked by; use %RANKED%.
name: x\nobjective: {CIDEr: 1, ROUGE: 2}
    objective: 'ROUGE' is no score that trials can be ranked by; use %RANKED%.
name: x\nobjective: {CIDEr: 1, METEOR: -2}
    objective: the weight -2 of METEOR is not a number above 0; correct it.
name: x\nobjective: {CIDEr: 1}
    objective: a weighted sum has at least two scores; write one alone by its name, such as CIDEr.
name: x\nobjective: {CIDEr: 1, balanced_accuracy: 1}
    objective: it adds scores of captions and of answers; take scores of one kind.
name: x\nextra_scores: [rouge]
    extra_scores: none of the installed scores is 'rouge' (%EXTRA%); did you mean 'rouge1'?
name: x\nextra_scores: [rouge1, mine, yours]
    extra_scores: none of the installed scores is 'mine' or 'yours' (%EXTRA%); correct it, or install its package.
name: x\nextra_scores: [rouge1, rouge1]
    extra_scores: ['rouge1', 'rouge1'] holds a score twice; remove one.
name: x\nscore_models: {clip: 3}
    score_models: {clip: 3} is not a mapping of names to names; correct the value.
name: x\ncaption_preprocessing: imageclef
    caption_preprocessing: 'imageclef' is not one of none, imageclef2025; did you mean 'imageclef2025'?
name: x\nbaseline: zeroshot
    baseline: 'zeroshot' is no row of the test table; use one of zero_shot, caption_prior, shuffled_images,
    nearest_image, best.
name: x\nbaseline: trial_0002
    baseline: 'trial_0002' is no row of the test table; use test: all.
name: x\nsearch:\n  freeze: {grid: [lora, full]}\n\nsampler: grid\ntest: all\nbaseline: ful
    baseline: unknown row 'ful'; did you mean 'full'?
name: x\nsearch:\n  freeze: {choice: [lora, full]}\n\ntest: all\ntrials: 3\nbaseline: trial_0003
    baseline: unknown row 'trial_0003'; did you mean 'trial_0000'?
name: x\nfixed: [1]
    fixed: [1] is not a mapping; write one 'key: value' on each line below it.
name: x\nfixed: {lora_rnk: 4}
    fixed: unknown key 'lora_rnk'; did you mean 'lora_rank'?
name: x\nfixed: {data: roco}
    fixed.data: this key has its place at the top level; write 'data:' beside 'name:'.
name: x\nfixed: {objective: balanced_accuracy}
    fixed.objective: this key has its place at the top level; write 'objective:' beside 'name:'.
name: x\nsearch:\n  objective: {choice: [CIDEr, balanced_accuracy]}\n
    search.objective: this is the same for every trial of a run; move it to the top level with one value.
name: x\nsearch:\n  learning_rte: {uniform: [0.1, 0.2]}\n
    search: unknown knob 'learning_rte'; did you mean 'learning_rate'?
name: x\nsearch:\n  freeze: {choice: [lorra]}\n
    search.freeze.choice: 'lorra' is not one of full, encoder_only, decoder_only, bridge_only, patch_and_bridge,
    patch_and_bridge_lora, lora, zero_shot; did you mean 'lora'?
name: x\nsearch:\n  weight_decay: 0.1\n
    search.weight_decay: 0.1 is no range; write one such as {uniform: [0.1, 0.5]}, or move it to 'fixed'.
name: x\nsearch:\n  learning_rate: [0.25, 0.5]\n
    search.learning_rate[0]: 0.25 is no range; write one such as {loguniform: [1.0e-5, 1.0e-3]}, or move it to
    'fixed'.\nsearch.learning_rate[1]: 0.5 is no range; write one such as {loguniform: [1.0e-5, 1.0e-3]}, or move it to
    'fixed'.
name: x\nsearch:\n  weight_decay: {unifrm: [0, 1]}\n
    search.weight_decay: unknown key 'unifrm'; did you mean 'uniform'?
name: x\nsearch:\n  num_epochs: {int: [1, 2], choice: [3]}\n
    search.num_epochs: 2 range types (int, choice) in one range; write exactly one, such as {int: [2, 6]}.
name: x\nsearch:\n  num_epochs: {when: {freeze: lora}}\n
    search.num_epochs: no range type in one range; write exactly one, such as {int: [2, 6]}.
name: x\nsearch:\n  learning_rate: {uniform: [0, 1]}\n
    search.learning_rate.uniform: 0 is not a number (above 0, at most 1); correct the value.
name: x\nsearch:\n  lora_dropout: {int: [0, 1]}\n
    search.lora_dropout: 'int' does not fit, as lora_dropout is a number with fractions; use one of choice, uniform,
    loguniform, grid.
name: x\nsearch:\n  num_epochs: {uniform: [1, 3]}\n
    search.num_epochs: 'uniform' does not fit, as num_epochs is a whole number; use one of choice, int, grid.
name: x\nsearch:\n  augment: {int: [0, 1]}\n
    search.augment: 'int' does not fit, as augment is one of a few listed values; use one of choice, grid.
name: x\nsearch:\n  num_epochs: {int: [5, 5]}\n
    search.num_epochs.int: the range from 5 to 5 is empty; put the lower end first, or move it to 'fixed'.
name: x\nsearch:\n  weight_decay: {uniform: [0.5, 0.25]}\n
    search.weight_decay.uniform: the range from 0.5 to 0.25 is empty; put the lower end first, or move it to 'fixed'.
name: x\nsearch:\n  weight_decay: {loguniform: [0, 0.5]}\n
    search.weight_decay.loguniform: a logarithmic range cannot begin at 0.0; begin above 0, or use uniform.
name: x\nsearch:\n  num_epochs: {int: [1, 2, 3]}\n
    search.num_epochs.int: [1, 2, 3] is not a pair; write the two ends, such as {int: [2, 6]}.
name: x\nsearch:\n  image_size: {int: [null, 64]}\n
    search.image_size.int: null is no end of a range; write two numbers, or list null in a choice.
name: x\nsearch:\n  freeze: {choice: []}\n
    search.freeze.choice: the list is empty; list the values, such as [a, b].
name: x\nsearch:\n  weight_decay: {choice: [0, 0.0]}\n
    search.weight_decay.choice: 0.0 is listed twice; remove one.
name: x\nsearch:\n  num_epochs: []\n
    search.num_epochs: the list of ranges is empty; write a range such as {int: [2, 6]}.
name: x\nsearch:\n  data: {choice: [roco, rocov2]}\n
    search.data: this is the same for every trial of a run; move it to the top level with one value.
name: x\nsearch:\n  max_validation_images: {int: [10, 20]}\n
    search.max_validation_images: this is the same for every trial of a run; move it to 'fixed' with one value.
name: x\nfixed: {num_epochs: 2}\nsearch: {num_epochs: {int: [2, 3]}}
    search.num_epochs: the knob is both fixed and searched; remove it from 'fixed' or from 'search'.
name: x\nsearch:\n  num_epochs: {grid: [2, 3]}\n
    search.num_epochs: 'grid' does not go with sampler tpe; write choice, or sampler: grid.
name: x\nsampler: grid\nsearch: {num_epochs: {choice: [2, 3]}}
    search.num_epochs: a grid cannot run over 'choice'; list the values as {grid: [...]}.
name: x\nsampler: grid\nsearch: {num_epochs: {grid: [2, 3]}}\nfirst_points: [{num_epochs: 2}]
    first_points: a grid tries every row; remove the key.
name: x\nseeds: [0, 1]
    seeds: seeds repeat the rows of a grid and mean nothing to tpe; remove the key or use 'seed'.
name: x\nsampler: grid\nseeds: [4, 4]
    seeds: [4, 4] holds a seed twice; remove one.
name: x\nsampler: grid\nseeds: 4
    seeds: 4 is not a list of whole numbers; correct the value.
name: x\nsampler: grid\nseeds: [1]\nfixed: {seed: 2}
    seeds: the seed is also fixed or searched; keep one of the two.
name: x\nsearch:\n  freeze: {choice: [lora, zero_shot]}\n
    search.freeze.choice: zero_shot trains nothing and would be drawn again and again; remove it (every run scores it
    once anyway), or use sampler: grid.
name: x\nfixed: {freeze: zero_shot}\nsearch: {num_epochs: {int: [2, 3]}}
    fixed.freeze: zero_shot trains nothing, so there is nothing to search; remove it (every run scores it once anyway),
    or use sampler: grid.
name: x\nresources: {max_concurent: 2}
    resources: unknown key 'max_concurent'; did you mean 'max_concurrent'?
name: x\nresources: {3: 1}
    resources: unknown key 3; use one of workers_per_trial, gpus_per_trial, cpus_per_trial, max_concurrent,
    cluster_cpus, cluster_gpus.
name: x\nresources: {workers_per_trial: 2, gpus_per_trial: 3}
    resources.gpus_per_trial: 3.0 cannot be dealt to 2 workers, which need whole GPUs or none; give 0 or a multiple of
    2.
name: x\nfirst_points: 0
    first_points: 0 is not a list; write one '- {knob: value, ...}' on each line below it.
name: x\nfixed: {freeze: lorra}\nsearch: {lora_rank: {choice: [4, 8], when: {freeze: lora}}}
    fixed.freeze: 'lorra' is not one of full, encoder_only, decoder_only, bridge_only, patch_and_bridge,
    patch_and_bridge_lora, lora, zero_shot; did you mean 'lora'?
name: x\nresources: {cpus_per_trial: -1}
    resources.cpus_per_trial: -1 is not 'auto' or a number (above 0); correct the value.
name: x\nresources: {gpus_per_trial: 1.5}
    resources.gpus_per_trial: 1.5 is above 1 and not whole; give a share of one GPU or whole ones.
name: x\nfixed: {batch_size: 7, accumulation_steps: 2}
    space 'x': batch_size 7 must be a multiple of accumulation_steps 2.
name: x\nfixed: {batch_size: 7}\nsearch: {accumulation_steps: {int: [2, 6]}}\nseed: 1
    with accumulation_steps=3: batch_size 7 must be a multiple of accumulation_steps 3.
name: x\nsampler: grid\nsearch: {batch_size: {grid: [6, 8]}, accumulation_steps: {grid: [2, 3]}}
    with batch_size=8, accumulation_steps=3: batch_size 8 must be a multiple of accumulation_steps 3.
name: x\ntrials: 3\nseed: 1\ntrials: 5
    line 4: key 'trials' is written twice (first on line 2); keep one of them.
name: x\nsearch:\n  num_epochs: {int: [1, 2]}\n  num_epochs: {int: [3, 4]}
    line 4: key 'num_epochs' is written twice (first on line 3); keep one of them.
"""
RANKED, EXTRA = ", ".join(RANKED_SCORES), ", ".join(list(list_scores())[7:])


@pytest.mark.parametrize(("text", "expected"), read_cases(ONE_FAULT))
def test_fault_of_a_file(text: str, expected: str, tmp_path: Path) -> None:
    expected = expected.replace("%RANKED%", RANKED).replace("%EXTRA%", EXTRA)
    assert faults_of(tmp_path, text) == expected.split("\n")


POINT_FAULTS = r"""
{freeze: lora}
    first_points: {freeze: 'lora'} is not a list; write one '- {knob: value, ...}' on each line below it.
[lora]
    first_points[0]: 'lora' is no point; write it as {knob: value, ...}.
[{freze: lora}]
    first_points[0]: unknown knob 'freze'; did you mean 'freeze'?
[{num_beams: 2}]
    first_points[0].num_beams: the knob is not searched; remove it here or add it to 'search'.
[{num_epochs: two}]
    first_points[0].num_epochs: 'two' is not a whole number (at least 1, at most 1000); correct the value.
[{num_epochs: 2}, {num_epochs: 9}]
    first_points[1].num_epochs: 9 is outside int [2, 5]; choose a value inside it or widen the range.
[{freeze: full, learning_rate: 0.005}]
    first_points[0].learning_rate: 0.005 is outside loguniform [1e-05, 0.001]; choose a value inside it or widen the
    range.
[{freeze: encoder_only}]
    first_points[0].freeze: 'encoder_only' is outside choice ['full', 'decoder_only', 'lora']; choose a value inside it
    or widen the range.
[{freeze: full, lora_rank: 8}]
    first_points[0].lora_rank: the knob is not active where freeze is 'full'; remove it from this point.
[{lora_rank: 8}]
    first_points[0].lora_rank: whether the knob is active depends on freeze; give freeze in the same point.
[{num_epochs: 2}, {num_epochs: 2}]
    first_points[1]: it repeats first_points[0]; remove one of them.
"""


@pytest.mark.parametrize(("points", "expected"), read_cases(POINT_FAULTS))
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


def test_one_worker_cannot_shard_a_model(tmp_path: Path) -> None:
    problem = (
        "fsdp shards a model over the workers of a trial, and resources.workers_per_trial is 1; give that as a number "
        "from 2 on, or leave fsdp out."
    )
    assert faults_of(tmp_path, "name: x\nfixed: {parallel: fsdp}") == [f"fixed.parallel: {problem}"]
    at_will = "name: x\nfixed: {parallel: fsdp}\nresources: {workers_per_trial: auto}"
    assert faults_of(tmp_path, at_will) == [f"fixed.parallel: {problem.replace('is 1', 'is auto')}"]
    searched = search_of("parallel: {choice: [ddp, fsdp]}")
    assert faults_of(tmp_path, searched) == [f"search.parallel: {problem}"]
    assert load(tmp_path, searched + "resources: {workers_per_trial: 2}").trials == 12


def test_space_from_values_names_their_source() -> None:
    with pytest.raises(ConfigFault) as caught:
        build_space({"name": "x", "seed": -1}, "a test")
    assert (
        str(caught.value) == "a test: seed: -1 is not a whole number (at least 0, below 2147483648); correct the value."
    )


@pytest.mark.parametrize("baseline", ["best", "trial_0003", "lora", "full"])
def test_a_baseline_may_be_any_row_of_the_table(tmp_path: Path, baseline: str) -> None:
    text = search_of("freeze: {grid: [lora, full]}") + "\nsampler: grid\nseeds: [0, 1]\ntest: all\nbaseline: "
    assert load(tmp_path, text + baseline).baseline == baseline


def test_how_the_test_split_is_scored(tmp_path: Path) -> None:
    text = (
        f"name: x\nextra_scores: [bertscore, rouge1]\nbertscore_model: {tmp_path}\nbertscore_idf: true\n"
        f"caption_preprocessing: imageclef2025\nscore_models: {{clip: {tmp_path}, hub: owner/name}}"
    )
    options = load(tmp_path, text).scoring_options
    models = (("clip", str(tmp_path)), ("hub", "owner/name"))
    assert options == ScoringOptions(("bertscore", "rouge1"), str(tmp_path), "imageclef2025", True, models)
    assert load(tmp_path, "name: x").scoring_options == ScoringOptions()
