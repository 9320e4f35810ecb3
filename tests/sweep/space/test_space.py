"""Space files: read, dumped, and the ready ones in search_spaces/."""

from pathlib import Path

import optuna
import pytest

from medcap_core.config import TrialConfig
from medcap_core.errors import ConfigFault
from sweep.space import best_space, build_config, dump_space, grid_rows, load_space, num_trials, propose
from sweep.space.yaml_text import find_space
from tests.support import REPOSITORY
from tests.support.space_files import ABLATION, LORA, load, search_of

SHIPPED = sorted((REPOSITORY / "search_spaces").glob("*.yaml"))


def test_name_alone_gives_every_default(tmp_path: Path) -> None:
    space = load(tmp_path, "name: bare")
    assert dump_space(space).splitlines() == [
        "name: bare",
        "data: phantoms",
        "model: phantom-blip",
        "models: {}",
        "fixed: {}",
        "search: {}",
        "first_points: []",
        "trials: 1",  # nothing is searched
        "sampler: tpe",
        "seeds: []",
        "scheduler: asha",
        "reduction_factor: 2",
        "grace_fraction: 0.25",
        "objective: CIDEr",
        "max_hours: null",
        "seed: 0",
        "test: best",
        "baseline: zero_shot",
        "extra_scores: []",
        "bertscore_model: FacebookAI/roberta-large",
        "bertscore_idf: false",
        "score_models: {}",
        "caption_preprocessing: none",
        "keep_checkpoints: false",
        "resources: {workers_per_trial: 1, gpus_per_trial: auto, cpus_per_trial: auto, max_concurrent: auto, "
        "cluster_cpus: auto, cluster_gpus: auto}",
    ]
    assert build_config(space, {}) == TrialConfig()


def test_twelve_trials_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path, search_of("num_epochs: {int: [2, 5]}")).trials == 12


def test_values_take_the_declared_type(tmp_path: Path) -> None:
    text = """
name: types
fixed: {learning_rate: 1e-5, batch_size: "8", max_train_images: 1e3, lora_alpha: 16, schedule: cosine, augment: yes}
search: {weight_decay: {uniform: [0, 1]}, warmup_fraction: {choice: [0, 1e-1]}}
"""
    space = load(tmp_path, text)
    numbers = {"learning_rate": 1e-5, "batch_size": 8, "max_train_images": 1000, "lora_alpha": 16.0}
    assert space.fixed == numbers | {"schedule": "cosine", "augment": True}
    assert [type(value) for value in space.fixed.values()] == [float, int, int, float, str, bool]
    drawn = space.search["warmup_fraction"][0].values
    assert drawn == (0.0, 0.1)
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
    assert again.search["max_rotation_degrees"][0].values == (1e-9, 2.5)


def test_best_space_has_exactly_the_best_config(tmp_path: Path) -> None:
    space = load(tmp_path, LORA + "\nresources: {workers_per_trial: 2}\n")
    point = {"freeze": "lora", "learning_rate": 1.7e-3, "lora_rank": 8, "num_epochs": 5, "seed": 3}
    config = build_config(space, point)
    best = load(tmp_path, dump_space(best_space(space, config, "tiny-best")))
    assert (best.name, best.search, num_trials(best), best.resources.workers_per_trial) == ("tiny-best", {}, 1, 2)
    assert (best.scheduler, best.trials) == ("none", 1)
    assert build_config(best, {}) == config


def test_best_space_of_a_grid_may_be_zero_shot(tmp_path: Path) -> None:
    space = load(tmp_path, ABLATION)
    config = build_config(space, grid_rows(space)[0])
    assert build_config(best_space(space, config, "best"), {}) == config


def test_shipped_spaces_are_all_there() -> None:
    assert {path.stem for path in SHIPPED} >= {"lora", "quick", "full", "rocov2_recipe"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_space_opens_with_its_command(path: Path) -> None:
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first == f"# medcap run {path.stem}"
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


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_space_is_found_by_name_anywhere(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / path.stem).write_text("name: mine")  # it would be ./lora
    assert find_space(path.stem) == path
    assert find_space(f"./{path.stem}") == Path(path.stem)


def test_other_spaces_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("name: mine")
    assert [find_space(given) for given in ("mine", "lora.yaml", "a/lora")] == [
        Path("mine"), Path("lora.yaml"), Path("a/lora")
    ]  # fmt: skip


def test_name_that_no_ready_space_has() -> None:
    names = ", ".join(path.stem for path in SHIPPED)
    with pytest.raises(ConfigFault) as caught:
        find_space("lorra")
    assert str(caught.value) == f"lorra: no ready space has this name (there are {names}); did you mean 'lora'?"
    with pytest.raises(ConfigFault, match=r"xyz: .*; use one of them, or the path of a space file\."):
        find_space("xyz")


def test_lora_space_searches_what_it_says() -> None:
    space = load_space(next(path for path in SHIPPED if path.stem == "lora"))
    assert list(space.search) == ["freeze", "learning_rate", "lora_rank", "lora_targets", "num_epochs"]
    assert space.first_points


def test_rocov2_recipe_states_what_its_source_does() -> None:
    path = next(path for path in SHIPPED if path.stem == "rocov2_recipe")
    space = load_space(path)
    configs = [build_config(space, row) for row in grid_rows(space)]
    assert [config.num_epochs for config in configs] == [4, 6]
    stated = {
        "image_size": 224, "data_fraction": 0.1, "freeze": "lora", "lora_targets": "self_query_key", "lora_rank": 8,
        "lora_alpha": 16.0, "lora_dropout": 0.1, "lora_vision": False, "learning_rate": 5e-5, "schedule": "linear",
        "warmup_fraction": 0.0, "weight_decay": 0.01, "max_grad_norm": "none", "batch_size": 3, "num_beams": 4,
        "max_new_tokens": 127, "early_stopping": True, "evaluate": "last", "checkpoint_every_epoch": True, "seed": 42,
    }  # fmt: skip
    assert all(config.model_dump(mode="json").items() >= stated.items() for config in configs)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.split(":")[0].strip() for line in lines if "not stated" in line] == ["max_validation_images"]


def test_medblip3d_recipe_answers_greedily_as_its_source_does() -> None:
    space = load_space(next(path for path in SHIPPED if path.stem == "medblip3d_recipe"))
    stated = {"num_beams": 1, "max_new_tokens": 60, "max_caption_tokens": 60, "learning_rate": 2e-5, "num_epochs": 100}
    for row in grid_rows(space):
        assert build_config(space, row).model_dump().items() >= stated.items()
