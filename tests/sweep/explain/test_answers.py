"""Attention pictures of a run on scans, by the command line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from medcap_core.config import TrialConfig
from medcap_core.data.brain_phantoms import load_brain_phantoms
from medcap_core.data.prepare import prepare_data
from medcap_core.data.records import Record
from medcap_core.data.scans.records import DIAGNOSIS_QUESTION
from medcap_core.data.scans.volumes import VolumeGeometry
from medcap_core.training.export import export_captioner
from sweep.explain.__main__ import app
from sweep.explain.answers import draw_structures, find_patches, find_structures
from sweep.explain.sheet import DPI, WIDTH
from sweep.explain.task import Item
from sweep.held_out.questions import list_questions
from sweep.report.pictures import load_attention
from sweep.study.attention import AttentionIndex
from sweep.tables.blocks import Gallery, Text

NUM_SCANS, SIZE, SIDE, NUM_QUERIES = 6, 32, 2, 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a finished run on synthetic heads leaves that is read here; the answers to two scans are right."""
    directory = tmp_path_factory.mktemp("runs") / "heads-001"
    config = TrialConfig.model_validate({
        "data": "brain_phantoms", "model": "medblip3d", "image_size": SIZE, "patch_size": SIZE // SIDE,
        "num_queries": NUM_QUERIES, "qformer_layers": 1, "freeze": "zero_shot", "max_new_tokens": 4, "num_beams": 1,
        "max_test_images": NUM_SCANS,
    })  # fmt: skip
    export_captioner(config, None, directory / "best")
    records = load_test_scans()
    rows = [
        (record.id, asked.kind, asked.text, asked.answer, asked.answer if index < 2 else "who knows")
        for index, record in enumerate(records)
        for asked in list_questions(record)
    ]
    pd.DataFrame(rows, columns=["id", "kind", "question", "answer", "best"]).to_csv(
        directory / "test_answers.csv", index=False
    )
    return directory


def load_test_scans() -> list[Record]:
    config = TrialConfig(data="brain_phantoms", max_test_images=NUM_SCANS)
    return prepare_data(config, VolumeGeometry(SIZE), splits=("test",)).splits["test"].records


def explain(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_pictures_of_answers_and_the_report(run: Path) -> None:
    result = explain(run, "--num", 6, "--method", "gradient")
    assert result.exit_code == 0, result.stderr
    index = json.loads((run / "attention" / "attention.json").read_text())
    assert (index["method"], index["num_layers"]) == ("gradient", 4)
    entries = index["images"]
    assert [entry["kind"] for entry in entries] == ["best"] * 3 + ["worst"] * 2 + ["random"]
    assert len({entry["question_kind"] for entry in entries[:3]}) == 3
    assert {entry["image_id"] for entry in entries[:3]} <= {record.id for record in load_test_scans()[:2]}
    maps = np.load(run / "attention" / "attention.npz")
    for number, entry in enumerate(entries):
        assert entry["is_synthetic"]
        assert entry["reference"]
        assert entry["question"] in entry["alt"]
        with Image.open(run / "attention" / entry["file"]) as image:
            assert (image.format, image.width) == ("PNG", WIDTH * DPI)
        words = maps[entry["maps"]]
        assert words.shape == (len(entry["words"]), SIDE, SIDE, SIDE)
        shares, queries = maps[f"queries_{number:03d}"], maps[f"query_maps_{number:03d}"]
        np.testing.assert_allclose(np.einsum("wq,qxyz->wxyz", shares, queries), words, rtol=1e-4, atol=1e-6)
        strongest = [query["share"] for query in entry["queries"]]
        assert strongest == sorted(strongest, reverse=True)
        for word, own in zip(entry["words"], words, strict=True):
            place = tuple(int(share * SIDE) for share in word["peak"])
            assert own[place] == own.max()
            assert (word["peak_in_structure"] is None) is (not entry["structures"])

    assert not (run / "attention" / "pointing_game.json").exists()
    assert len(result.stdout.splitlines()) == len(entries)
    assert "cider" not in entries[0]

    said, *_, gallery = load_attention(run)
    assert isinstance(said, Text) and isinstance(gallery, Gallery)
    assert "method gradient, layer mean" in said.text
    assert gallery.pictures[0].texts[0][1] == entries[0]["question"]


def test_a_volume_from_a_file_with_questions_of_ones_own(run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "head.npy", np.random.default_rng(1).random((11, 13, 7), dtype=np.float32))
    question = "Is there a tumour?"
    result = explain(run, "--image", tmp_path / "head.npy", "--question", question, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    index = AttentionIndex.load(tmp_path / "out" / "attention.json")
    assert index is not None
    (picture,) = index.images
    assert (picture.image_id, picture.reference, picture.is_synthetic) == ("head.npy", None, False)
    assert question in picture.alt
    assert "Pointing" not in result.stdout

    both = explain(run, "--image", tmp_path / "head.npy", "--out", tmp_path / "out")
    assert both.exit_code == 0, both.stderr
    entries = json.loads((tmp_path / "out" / "attention.json").read_text())["images"]
    assert [entry["question"] for entry in entries] == [DIAGNOSIS_QUESTION, None]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {entry["file"] for entry in entries}


def test_a_test_scan_is_asked_its_own_questions(run: Path, tmp_path: Path) -> None:
    record = load_test_scans()[3]
    result = explain(run, "--image", record.id, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    entries = json.loads((tmp_path / "attention.json").read_text())["images"]
    assert [(entry["question"], entry["reference"]) for entry in entries] == [
        (question.text, question.answer) for question in list_questions(record)
    ]


def test_unusable_scans_are_all_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "flat.npy").write_bytes(b"no array")
    (tmp_path / "scan.png").write_bytes(b"")
    result = explain(run, "--image", tmp_path / "flat.npy", "--image", tmp_path / "scan.png", "--image", "nobody")
    said = " ".join(result.stderr.split())
    assert (result.exit_code, "flat.npy: " in said, said.count("; give a scan.")) == (2, True, 2)
    assert "--image nobody: no such file, and no scan of the run's test split has this id" in said


def load_heads(count: int) -> list[Record]:
    return load_brain_phantoms({"train": count}).splits["train"]


def test_what_questions_on_phantoms_are_about() -> None:
    records = load_heads(40)
    about = {(record.truth["side"], find_structures(record, "side")) for record in records}
    assert about == {("left", ("left_hippocampus",)), ("right", ("right_hippocampus",)), ("neither", ())}
    about = {(record.truth["structure"], find_structures(record, "structure")) for record in records}
    assert about == {("hippocampus", ("left_hippocampus", "right_hippocampus")), ("cortex", ("cortex",)), ("none", ())}
    assert find_structures(records[0], "ventricles") == ("ventricles",)
    assert find_structures(records[0], "sex") == find_structures(records[0], None) == ()


def test_masks_lie_where_the_model_sees_the_structures() -> None:
    """RAS: x grows to the subject's right, so the left hippocampus lies in the lower half of x."""
    pixels = np.zeros((1, 32, 32, 32), dtype=np.uint8)
    items = [Item(record, "given", pixels, None, "?", "side") for record in load_heads(40)]
    masks = {item.record.truth["side"]: draw_structures(item) for item in items}
    left, right = (np.argwhere(masks[side]) for side in ("left", "right"))
    assert masks["neither"] is None
    assert left[:, 0].max() < 16 <= right[:, 0].min()
    hippocampi = next(item for item in items if item.record.truth["structure"] == "hippocampus")
    both = np.argwhere(draw_structures(replace(hippocampi, question_kind="structure")))
    assert both[:, 0].min() < 16 <= both[:, 0].max()


def test_a_patch_counts_if_it_holds_one_voxel() -> None:
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[2, 3, 5] = mask[3, 0, 0] = True
    assert np.argwhere(find_patches(mask, 2)).tolist() == [[0, 1, 1], [1, 0, 0]]
    assert np.argwhere(find_patches(mask, 3)).tolist() == [[1, 0, 0], [1, 1, 2]]
