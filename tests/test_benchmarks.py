"""The benchmarks: that the peer trains the same thing, and that each measures what it says."""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from PIL import Image
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from benchmarks import caption_faults, growth, peer, published_predictions, sweep_run
from benchmarks.chaos import SPACE as CHAOS_SPACE
from benchmarks.chaos import find_lost
from benchmarks.lists import LISTS, build_list
from benchmarks.micro_model import NUM_TOKENS, FeatureSource, ModelBench, count_flop, count_least_flop, measure_mode
from benchmarks.peer_trainer import build_trainer, provide_java
from benchmarks.replay import __main__ as replay
from benchmarks.replay.searchers import SEARCHERS, GridSource
from benchmarks.replay.table import RecordedTrial, find_nearest, load_table
from benchmarks.sharded_memory import measure
from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.batches import PixelSource
from medcap_core.data.images import ImageGeometry
from medcap_core.data.prepare import PreparedData, PreparedSplit
from medcap_core.data.sources.tables import read_image_folder
from medcap_core.data.stores.images import ImageStore
from medcap_core.inference.generation import compute_validation_loss
from medcap_core.models import Captioner, load_captioner
from medcap_core.runtime.workers import Workers
from medcap_core.scoring.facts import check_facts
from medcap_core.training.loop import train_epoch
from medcap_core.training.trial import Trial
from medcap_core.training.validation import compute_scores
from sweep.space import build_space
from sweep.space.points import draw_configs
from tests.support.tiny_blip import IMAGE_SIZE, TinySplit, generate_captions, tiny_config


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of the test's own, and Java for pycocoevalcap, which looks for it on PATH."""
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", os.environ["PATH"])
    provide_java()


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven training and three validation images as PNG files."""
    folder = tmp_path_factory.mktemp("images")
    for seed, (split, num_images) in enumerate({"train": 7, "validation": 3}.items()):
        tiny = TinySplit(num_images, seed)
        lines = ["file_name,text"]
        (folder / split).mkdir()
        for name, caption, image in zip(tiny.ids, tiny.captions, tiny.images, strict=True):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / split / f"{name}.png")
            lines.append(f"{name}.png,{caption}")
        (folder / split / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def read_images(folder: Path) -> PreparedData:
    splits = {}
    for split, records in read_image_folder(folder).splits.items():
        store = ImageStore(records, ImageGeometry(IMAGE_SIZE))
        rows = np.arange(len(records))
        store.ensure(rows)
        splits[split] = PreparedSplit(split, records, store, rows)
    return PreparedData("tiny", "image folder", [], splits)


@pytest.mark.parametrize(
    ("freeze", "max_grad_norm"), [("full", "none"), ("encoder_only", 1.0), ("decoder_only", 0.5), ("lora", 1.0)]
)
def test_peer_trains_the_same_thing(
    freeze: str, max_grad_norm: float | str, tiny_blip: Path, image_folder: Path, tmp_path: Path
) -> None:
    """With every image in one batch the order does not matter, so that both sides end with the same weights."""
    settings = {"batch_size": 7, "num_epochs": 3, "learning_rate": 1e-2, "lora_rank": 3}
    config = tiny_config(tiny_blip, freeze=freeze, max_grad_norm=max_grad_norm, **settings)
    ours = Trial(config, read_images(image_folder), Workers(), torch.device("cpu"))
    theirs = build_trainer(config.model_dump(mode="json"), image_folder, 0, tmp_path / "trainer")
    theirs.args.eval_strategy = "no"
    start = trained_weights(theirs.model)
    if freeze == "lora":  # its factors are drawn at random: start both from the same
        ours.captioner.network.load_state_dict(start, strict=False)
    assert trained_weights(ours.captioner.network).keys() == start.keys()

    theirs.train()
    for epoch in (1, 2, 3):
        train_epoch(ours, epoch, lambda *_: None)

    own = trained_weights(ours.captioner.network)
    for name, value in trained_weights(theirs.model).items():
        torch.testing.assert_close(own[name], value, rtol=0, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
    assert max(float((own[name] - value).abs().max()) for name, value in start.items()) > 1e-2


def test_peer_scores_as_we_do(tiny_blip: Path, image_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_blip, num_beams=3, label_smoothing=0.0)  # which our validation loss has never
    ours = Trial(config, read_images(image_folder), Workers(), torch.device("cpu"))
    scores = build_trainer(config.model_dump(mode="json"), image_folder, 0, tmp_path / "trainer").evaluate()
    captions = generate_captions(ours.captioner, ours.validation.images, config)
    expected = compute_scores(ours.validation_split, captions, config)["CIDEr"]
    assert scores["eval_cider"] == pytest.approx(expected, abs=1e-9)
    assert scores["eval_loss"] == pytest.approx(
        compute_validation_loss(ours.captioner, ours.validation, config), rel=1e-4
    )


def trained_weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of what is trained, but for the keys' biases: softmax ignores them, so Adam moves them by rounding."""
    weights = {}
    for name, parameter in network.named_parameters():
        value = parameter.detach().clone()
        if name.endswith("qkv.bias"):
            query, _, mixed = value.chunk(3)
            value = torch.stack([query, mixed])
        if parameter.requires_grad and not name.endswith("key.bias"):
            weights[name.removeprefix("base_model.model.")] = value
    return weights


@pytest.mark.parametrize("name", LISTS)
def test_lists_hold_eight_trials(name: str) -> None:
    space = build_list(name, data="phantoms", model="phantom-blip", model_name="phantom-blip", fixed={"num_epochs": 4})
    trials = draw_configs(space, 0)
    assert len(set(trials)) == 8
    modes = [str(trial.freeze) for trial in trials]
    expected = {
        "named": {"lora": 4, "decoder_only": 4},
        "all_modes": dict.fromkeys(["full", "encoder_only", "decoder_only", "lora"], 2),
    }[name]
    assert {mode: modes.count(mode) for mode in set(modes)} == expected
    assert space.scheduler == "none"


def test_parts_add_up_to_the_whole(tmp_path: Path) -> None:
    """Two trials at once, then a third; worked out by hand."""
    stamps = {"trial_0000": ("12:00:20,000", "12:00:25,500"), "trial_0001": ("12:00:21,000", "12:00:27,000"),
              "trial_0002": ("12:00:32,000", "12:00:36,000")}  # fmt: skip
    for trial, ends in stamps.items():
        folder = tmp_path / "trials" / trial
        folder.mkdir(parents=True)
        lines = [f"2026-11-23 {end} INFO epoch {number}: CIDEr 0.1000" for number, end in enumerate(ends, start=1)]
        (folder / "log.txt").write_text("2026-11-23 12:00:00,000 INFO ready\n" + "\n".join(lines), encoding="utf-8")
        epochs = [{"seconds": 5.0, "training_seconds": 3.0, "score": 0.1}] * 2
        (folder / "trial.json").write_text(json.dumps({"epochs": epochs}), encoding="utf-8")
    trials = [sweep_run.read_trial(folder) for folder in sorted((tmp_path / "trials").iterdir())]
    noon = sweep_run.read_time("2026-11-23 12:00:00,000")
    run = sweep_run.SweepRun(noon, noon + 40, noon + 50, trials, 0, 0, 0)

    assert run.num_slots == 2
    assert sweep_run.compute_turnarounds(run) == [16 - 25.5, 27 - 27]
    parts = peer.split_ours(run)
    assert (parts.start, parts.training, parts.evaluation, parts.whole) == (15, 9, 6, 40)
    assert parts.between == 10


def test_features_save_exactly_the_encoder(tiny_blip: Path) -> None:
    bench = ModelBench(str(tiny_blip), batch_size=3, num_images=5, num_steps=1, device=torch.device("cpu"))
    encoder_flop = count_flop(lambda: bench.encode(3))
    pixels = measure_mode(bench, FreezeMode.DECODER_ONLY, PixelSource(bench.split))
    features = measure_mode(bench, FreezeMode.DECODER_ONLY, FeatureSource(bench.encode(5)))
    assert pixels[2] - features[2] == encoder_flop > 0
    # Keys and values of 10 image tokens, 24 wide, for 2 layers 32 wide, count once and not for each of 3 beams.
    config = bench.config(FreezeMode.ZERO_SHOT)
    with torch.inference_mode():
        ids = torch.zeros(1, NUM_TOKENS, dtype=torch.int64)
        whole = count_flop(lambda: bench.captioner.compute_logits(bench.encode(1), ids)) - encoder_flop / 3
    saved = 2 * whole + whole - count_least_flop(bench, bench.encode(1), config)
    assert saved == pytest.approx(2 * (2 * 10 * 24 * 32 * 2 * 2), rel=0.02)


def test_growth_drives_a_whole_study(tmp_path: Path) -> None:
    cost = growth.drive_study(tmp_path / "run", 4)
    table = pd.read_csv(tmp_path / "run" / "trials.csv")
    assert len(table) == 4
    assert set(table["state"]) <= {"SUCCEEDED", "PRUNED"}
    assert table["best_cider"].gt(0).all()
    assert cost.seconds > cost.last_trial_seconds > 0
    assert cost.disk_bytes >= (tmp_path / "run" / "study.db").stat().st_size


def test_growth_folder_has_many_names_for_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "NUM_DISTINCT_IMAGES", 3)
    records = read_image_folder(growth.write_large_folder(tmp_path / "data", 7)).splits["train"]
    assert len({record.id for record in records}) == 7
    assert [record.caption for record in records[3:6]] == [record.caption for record in records[:3]]
    assert len({np.asarray(record.image.open()).tobytes() for record in records}) == 3


def test_replaying_a_search_adds_up_the_epochs_of_two_trials_at_once() -> None:
    table = {
        ("full", 1e-3, "", 2): RecordedTrial(ciders=(1.0, 2.0), seconds=(3.0, 4.0)),
        ("full", 2e-3, "", 1): RecordedTrial(ciders=(5.0,), seconds=(2.0,)),
        ("full", 4e-3, "", 2): RecordedTrial(ciders=(0.5, 0.6), seconds=(10.0, 1.0)),
    }
    space = build_space(replay.SPACE | {"trials": 3, "scheduler": "none", "first_points": []}, "test")
    source = GridSource(space, table)
    source.trials = list(table.values())[::-1]  # handed out from the end
    assert list(replay.search(space, source)) == [(2.0, 5.0), (3.0, 1.0), (7.0, 2.0), (12.0, 0.5), (13.0, 0.6)]


def test_a_sampler_of_optuna_draws_within_the_mode_whose_turn_it_is() -> None:
    outcome = replay.replay(SEARCHERS["tpe of Optuna, group=False"], 9, load_table(), seed=0)
    # four first points, a draw of each mode, and a second of the mode that no first point has
    assert outcome.num_by_mode == {"lora": 3, "full": 2, "decoder_only": 2, "encoder_only": 2}
    assert 0 < outcome.best < 3.32
    assert outcome.seconds[0.95] <= outcome.seconds[0.98]


def test_a_proposal_stands_for_the_nearest_trial_of_the_table() -> None:
    trials = [RecordedTrial((float(number),), (1.0,)) for number in range(4)]
    keys = [("full", 1e-3, "", 2), ("full", 4e-3, "", 2), ("lora", 1e-2, "query_key", 4), ("full", 1e-3, "", 6)]
    table = dict(zip(keys, trials, strict=True))
    for values, nearest in (
        ({"freeze": "full", "learning_rate": 1.9e-3, "num_epochs": 3}, 0),
        ({"freeze": "full", "learning_rate": 2.1e-3, "num_epochs": 2}, 1),
        ({"freeze": "lora", "learning_rate": 1e-3, "num_epochs": 6}, 2),
        ({"freeze": "full", "learning_rate": 1e-3, "num_epochs": 5}, 3),
    ):
        assert find_nearest(table, TrialConfig.model_validate(values)) is trials[nearest]


def test_each_fault_of_a_caption_is_the_only_one() -> None:
    """What `benchmarks.caption_faults` leaves alone is right still, and so are the facts in other words."""
    records = caption_faults.load_findings(60)
    true = caption_faults.reword(records)
    assert sum(record.caption != text for record, text in zip(records, true, strict=True)) > len(records) / 2
    wrong = {"no": "finding", "side": "side", "another": "finding"}
    for (name, fault), key in zip(caption_faults.FAULTS.items(), wrong, strict=True):
        captions = [fault(record, text) for record, text in zip(records, true, strict=True)]
        assert key in name
        shares = {fact: checks.is_right.mean() for fact, checks in check_facts(records, captions).items()}
        assert shares == {fact: float(fact != wrong[key]) for fact in ("finding", "side", "level")}
    assert all(checks.is_right.all() for checks in check_facts(records, true).values())


def test_published_predictions_are_scored_by_the_tokens_of_their_authors(tmp_path: Path) -> None:
    """As their authors score: pycocoevalcap, of captions in lower case, split at white space."""
    pairs = {
        "CT scan, axial view.CT shows a 12\u2009mm cyst (arrow).": "Axial CT scan of the abdomen (arrow).",
        "Chest X-ray: no effusion.": "Chest X-ray of the patient.",
        "\u202f": "T2-weighted MRI, sagittal view.",
        "T2-weighted MRI  of the brain": "t2-weighted mri of the brain",
    }
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([{"ref": ref, "pred": pred} for ref, pred in pairs.items()]), encoding="utf-8")
    read = published_predictions.read_predictions(path)
    references, predictions = (
        {image: [" ".join(text.lower().split())] for image, text in enumerate(texts)} for texts in read
    )
    bleu, _ = Bleu(4).compute_score(references, predictions, verbose=0)
    expected = {f"BLEU-{order}": score for order, score in enumerate(bleu, start=1)}
    expected["ROUGE-L"] = Rouge().compute_score(references, predictions)[0]
    expected["CIDEr"] = Cider().compute_score(references, predictions)[0]
    assert references[2] == ["."]
    assert published_predictions.score_by_white_space(*read) == expected
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(typer.BadParameter, match="no JSON list of records"):
        published_predictions.read_predictions(path)


def test_shards_are_counted_as_parts_of_the_whole(tiny_blip: Path) -> None:
    loaded = load_captioner(str(tiny_blip)).to("meta")

    def build() -> Captioner:
        return copy.deepcopy(loaded)

    trained, weights, gradients, state = measure(build, FreezeMode.FULL, 1)
    num_steps = 4 * sum(1 for _ in build().parameters())  # AdamW counts them for each parameter
    assert (weights, gradients, state) == (4 * trained, 4 * trained, 8 * trained + num_steps)
    _, *halves = measure(build, FreezeMode.FULL, 2)
    assert halves == pytest.approx([weights / 2, gradients / 2, state / 2], rel=0.02)  # odd lengths are padded up
    adapted, _, gradients, _ = measure(build, FreezeMode.LORA, 1)
    assert gradients == 4 * adapted < weights / 10


def test_chaos_counts_the_trials_that_were_over_and_ran_again() -> None:
    finished = {f"trial_000{number}": 1 for number in range(4)}
    states = [("SUCCEEDED", 1), ("SUCCEEDED", 2), ("RUNNING", 1)]
    records = {f"trial_000{number}": {"state": state, "attempts": n} for number, (state, n) in enumerate(states)}
    assert find_lost(finished, records) == ["trial_0001", "trial_0002", "trial_0003"]
    configs = draw_configs(build_space(CHAOS_SPACE, "space"), 6)
    assert len({config.learning_rate for config in configs}) == len(configs)  # each trial is told from the others
