"""A sweep over several models: how it is written, checked, overridden, labelled and prepared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medcap_core.config import TrialConfig
from medcap_core.errors import ConfigFault, ModelFault
from medcap_core.models import hash_weights
from sweep.dry_run.plan import CostEstimate, describe_plan
from sweep.execution.cluster import TrialResources
from sweep.preparation import check_before_start, check_evaluation, prepare_run
from sweep.space import apply_overrides, best_space, build_config, build_space, dump_space, grid_rows, load_space
from sweep.space.labels import short_label
from sweep.space.schema import SearchSpace
from sweep.study.study import Study
from tests.support import REPOSITORY
from tests.support.real_runs import Materials, quiet_view
from tests.support.space_files import faults_of, read_cases
from tests.support.tiny_models import save_tiny_vit_gpt2
from tests.sweep.test_runner import ONE

COMPARISON: dict[str, Any] = {
    "name": "small",
    "models": {"blip": "owner/blip", "other": "owner/other"},
    "search": {
        "model": {"grid": ["blip", "other"]},
        "freeze": [
            {"grid": ["zero_shot", "full"], "when": {"model": "blip"}},
            {"grid": ["zero_shot"], "when": {"model": "other"}},
        ],
        "prompt": {"grid": ["a scan of"], "when": {"model": "other"}},
    },
    "sampler": "grid",
    "test": "all",
}


def build(**changes: Any) -> SearchSpace:
    return build_space(COMPARISON | changes, "test")


def test_rows_name_models_by_alias_and_configs_by_their_own_name(tmp_path: Path) -> None:
    space = build()
    rows = grid_rows(space)
    assert [short_label(row) for row in rows] == ["blip zero_shot", "blip full", "other zero_shot prompt=a-scan-of"]
    assert [build_config(space, row).model for row in rows] == ["owner/blip", "owner/blip", "owner/other"]
    (tmp_path / "space.yaml").write_text(dump_space(space))
    assert load_space(tmp_path / "space.yaml") == space
    resources = TrialResources(num_workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent=1)
    plan = describe_plan(space, resources, CostEstimate({"trials": 1.0}, seconds_per_trial=1.0, disk_bytes=0))
    assert "  models       blip = owner/blip, other = owner/other\n" in plan
    assert "  model        " not in plan


def test_the_best_of_several_is_a_space_of_one(tmp_path: Path) -> None:
    space = build()
    config = build_config(space, grid_rows(space)[2])
    best = best_space(space, config, "small-best")
    assert (best.model, best.models, best.search) == ("owner/other", {}, {})
    (tmp_path / "best.yaml").write_text(dump_space(best))
    assert build_config(load_space(tmp_path / "best.yaml"), {}) == config


def test_a_model_is_replaced_by_its_alias(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    changed = apply_overrides(build(), set_values=[f"models.other={tmp_path / 'folder'}", "prompt=a picture of"])
    assert changed.models == {"blip": "owner/blip", "other": str(tmp_path / "folder")}
    assert changed.fixed == {"prompt": "a picture of"}
    assert len(grid_rows(changed)) == 3
    with pytest.raises(ConfigFault) as caught:
        apply_overrides(build(), model="owner/third", set_values=["models.oter=owner/x"])
    assert set(caught.value.faults) == {
        "command line: --model owner/third: this sweep compares several models; replace one of them by "
        "--set models.blip=NAME or --set models.other=NAME.",
        "command line: --set models.oter=owner/x: unknown key 'models.oter'; did you mean 'models.other'?",
    }


def test_models_can_be_drawn_too() -> None:
    search = {"model": {"choice": ["blip", "other"]}, "learning_rate": {"loguniform": [1e-5, 1e-3]}}
    space = build(search=search, sampler="tpe", trials=4, first_points=[{"model": "other", "learning_rate": 1e-4}])
    assert build_config(space, space.first_points[0]).model == "owner/other"


MODEL_FAULTS = r"""
models: [a, b]\n
    models: ['a', 'b'] is not a mapping; write one 'alias: name or path' on each line below
models: {a b: owner/x}\n
    models: 'a b' is no alias; use letters, digits, '_' and '-' only, such as blip2.
models: {a: 3}\n
    models.a: 3 is no model; give a name, a Hub model or a path.
models: {a: x/y, b: x/z}\n
    models: no knob chooses among them; add 'model: {grid: [a, b]}' to 'search'.
models: {a: x/y}\nmodel: x/z\nsearch: {model: {choice: [a]}}\n
    model: the sweep has several models already; remove this key or the section 'models'.
search: {model: {choice: [x/y]}}\n
    search.model: there are no aliases to choose from; add a section 'models' with one 'alias: name' a line.
models: {small: x/y, large: x/z}\nsearch: {model: {choice: [small, larg]}}\n
    search.model: unknown model 'larg'; did you mean 'large'?
models: {a: x/y, b: x/z}\nsearch: {model: {choice: [a]}}\n
    models.b: no trial uses it; list it in search
models: {a: x/y}\nsearch: {augment: {choice: [true]}, model: {choice: [a], when: {augment: true}}}\n
    search.model.when: every trial has a model; remove the condition; let others depend on the model.
fixed: {model: x/y}\n
    fixed.model: this key has its place at the top level; write 'model:' beside 'name:'.
"""


@pytest.mark.parametrize(("text", "fault"), read_cases(MODEL_FAULTS))
def test_what_does_not_fit_together_is_told(tmp_path: Path, text: str, fault: str) -> None:
    assert any(told.startswith(fault) for told in faults_of(tmp_path, f"name: x\n{text}"))


@pytest.fixture(scope="module")
def two_models(materials: Materials, tmp_path_factory: pytest.TempPathFactory) -> SearchSpace:
    other = save_tiny_vit_gpt2(tmp_path_factory.mktemp("vit-gpt2"))
    return build(
        data=str(materials.images),
        models={"blip": str(materials.model), "other": str(other)},
        fixed={"max_caption_tokens": 16, "max_new_tokens": 10, "num_beams": 1, "max_validation_images": 6},
    )


def test_every_model_is_checked_prepared_and_identified(
    create: Callable[..., Study], two_models: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_before_start(two_models)
    study = create(two_models)
    view, told = quiet_view(), []
    monkeypatch.setattr(view, "message", told.append)
    data = prepare_run(study, view)
    (entry,) = json.loads((study.directory / "provenance.json").read_text())["starts"]
    assert entry["model"]["models"] == {
        alias: {"name": name, "sha256": hash_weights(name)} for alias, name in two_models.models.items()
    }
    told.clear()

    class OwnCluster:
        is_own = True

    check_evaluation(study, data, OwnCluster(), ONE, view)  # type: ignore[arg-type]
    told = [line for line in told if "Evaluation checked" in line]
    assert [line.partition("the untrained ")[2].partition(" has CIDEr")[0] for line in told] == ["blip", "other"]


def test_a_fault_of_any_model_shows_before_the_start(two_models: SearchSpace, materials: Materials) -> None:
    broken = apply_overrides(two_models, set_values=[f"models.other={materials.images}"])
    with pytest.raises(ModelFault, match="images: the folder has no config"):
        check_before_start(broken)
    too_long = apply_overrides(two_models, set_values=["max_caption_tokens=41"])
    with pytest.raises(ModelFault, match="max_caption_tokens 41 exceeds the model's 40 positions"):
        check_before_start(too_long)


def test_the_shipped_comparison_is_that_of_the_paper_and_one_more() -> None:
    space = load_space(REPOSITORY / "search_spaces" / "compare.yaml")
    configs = [build_config(space, row) for row in grid_rows(space)]
    assert [(config.model.partition("/")[2], config.freeze.value, config.num_epochs) for config in configs] == [
        ("blip-image-captioning-base", "zero_shot", TrialConfig().num_epochs),
        ("blip-image-captioning-base", "full", 1),
        ("blip-image-captioning-base", "full", 2),
        ("blip-image-captioning-base", "full", 3),
        ("blip2-opt-2.7b", "zero_shot", TrialConfig().num_epochs),
        ("instructblip-flan-t5-xl", "zero_shot", TrialConfig().num_epochs),
        ("vit-gpt2-image-captioning", "zero_shot", TrialConfig().num_epochs),
        ("Qwen3-VL-2B-Instruct", "zero_shot", TrialConfig().num_epochs),
    ]
    assert {config.learning_rate for config in configs} == {5e-5}
    assert [config.image_size for config in configs] == [384] * 4 + [None] * 4
    prompts = ["A short image description:", "Write the caption of this radiology image in one sentence."]
    assert [config.prompt for config in configs if config.prompt] == prompts
    assert (space.test, space.sampler, space.data) == ("all", "grid", "roco")
