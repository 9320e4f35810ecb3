"""Attention pictures of a run on images, by the loop and by the command line."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from medcap_core.attention.maps import DEFAULT_SETTINGS, AttentionMethod, MapSettings
from medcap_core.captioning import caption, load_captioner
from medcap_core.errors import RunFault
from medcap_core.training.export import export_captioner
from sweep.explain.__main__ import app
from sweep.explain.captions import CaptionTask
from sweep.explain.pictures import write_attention_pictures
from sweep.explain.sheet import DPI, WIDTH
from sweep.explain.task import choose_rows, load_explained_run
from sweep.study.attention import AttentionIndex, PictureEntry, PointingResult
from tests.support.real_runs import Materials
from tests.support.tiny_blip import tiny_config


@pytest.fixture(scope="module")
def run(materials: Materials, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a finished run on images leaves that is read here; its predictions go from right to wrong."""
    directory = tmp_path_factory.mktemp("runs") / "tiny-001"
    config = tiny_config(materials.model, data=str(materials.images), freeze="zero_shot", max_new_tokens=6)
    export_captioner(config, None, directory / "best")
    references = pd.read_csv(materials.images / "test" / "metadata.csv")
    predictions = [text if row < 3 else "in a picture" for row, text in enumerate(references["text"])]
    table = {"id": references["file_name"], "reference": references["text"], "prediction": predictions, "zero_shot": ""}
    pd.DataFrame(table).to_csv(directory / "test_predictions.csv", index=False)
    return directory


@pytest.fixture(scope="module")
def phantom_run(materials: Materials, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "phantoms-001"
    config = tiny_config(Path("phantom-blip"), max_test_images=12, freeze="zero_shot", max_new_tokens=24, num_beams=1)
    export_captioner(config, None, directory / "best")
    return directory


def explain(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def draw(
    run: Path,
    folder: Path | None = None,
    *,
    images: Sequence[str] = (),
    settings: MapSettings = DEFAULT_SETTINGS,
    model: str | None = None,
    **options: Any,
) -> list[PictureEntry]:
    task = CaptionTask(load_explained_run(run, model), settings)
    return write_attention_pictures(task, folder or run / "attention", names=list(images), **options)


def read_index(directory: Path) -> AttentionIndex:
    index = AttentionIndex.load(directory / "attention" / "attention.json")
    assert index is not None
    return index


def test_pictures_of_the_best_the_worst_and_other_test_images(run: Path, materials: Materials) -> None:
    steps: list[tuple[str, int, int]] = []
    pictures = draw(run, num=6, progress=lambda *step: steps.append(step))
    assert [picture.kind for picture in pictures] == ["best"] * 3 + ["worst"] * 2 + ["random"]
    assert {picture.image_id for picture in pictures[:3]} == {"0.png", "1.png", "2.png"}
    assert len({picture.image_id for picture in pictures}) == 6
    paths = [materials.images / "test" / picture.image_id for picture in pictures]
    assert [picture.caption for picture in pictures] == caption(load_captioner(run / "best"), paths)
    references = pd.read_csv(materials.images / "test" / "metadata.csv").set_index("file_name")["text"]
    maps = np.load(run / "attention" / "attention.npz")
    for picture in pictures:
        assert picture.reference == references[picture.image_id]
        assert not picture.is_synthetic
        assert picture.caption in picture.alt
        with Image.open(run / "attention" / picture.file) as image:
            assert (image.format, image.width) == ("PNG", WIDTH * DPI)
        words = [word.text for word in picture.words]
        assert "".join(words) == picture.caption.replace(" ", "")
        assert maps[picture.maps].shape == (len(words), 3, 3)
        np.testing.assert_allclose(maps[picture.maps].sum((1, 2)), 1, rtol=1e-5)
        assert picture.box is None
    assert ("explaining captions", 6, 6) in steps
    assert ("drawing pictures", 6, 6) in steps
    assert read_index(run).images == pictures
    (first, *_) = json.loads((run / "attention" / "attention.json").read_text())["images"]
    assert set(first) == {
        "image_id", "kind", "caption", "reference", "cider", "is_synthetic", "box", "words", "alt", "file", "maps",
    }  # fmt: skip
    assert set(first["words"][0]) == {"text", "peak", "names_finding", "peak_in_box"}


def test_later_pictures_replace_earlier_ones(run: Path) -> None:
    settings = MapSettings(AttentionMethod.GRADIENT, 2)
    draw(run, num=2)
    (run / "attention" / "note.png").write_text("the user's own")
    draw(run, images=["3.png"])
    assert not list((run / "attention").glob("*-best-*"))
    (picture,) = draw(run, num=1, settings=settings)
    left = {path.name for path in (run / "attention").glob("*.png")}
    assert left == {picture.file, "note.png"}
    index = read_index(run)
    assert (index.method, index.layer, index.model) == ("gradient", "2", "tiny-001/best")


def test_images_are_given_by_path_or_id(run: Path, materials: Materials, tmp_path: Path) -> None:
    Image.new("RGB", (50, 30), (200, 40, 90)).save(tmp_path / "my scan.png")
    result = explain(
        run, "--image", tmp_path / "my scan.png", "--image", "3.png", "--out", tmp_path / "out", "--layer", 1
    )
    assert (result.exit_code, result.stderr) == (0, "")
    index = AttentionIndex.load(tmp_path / "out" / "attention.json")
    assert index is not None
    loose, known = index.images
    assert (loose.image_id, loose.reference, loose.kind) == ("my scan.png", None, "given")
    assert loose.file == "01-given-my-scan.png.png"
    assert known.reference is not None
    assert [line.split("  ")[1] for line in result.stdout.splitlines()] == [loose.caption, known.caption]
    with Image.open(tmp_path / "out" / loose.file) as sheet:
        assert (200, 40, 90) in {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24)}


def test_another_model_is_explained_on_the_same_images(run: Path, tiny_blip: Path, tmp_path: Path) -> None:
    (own,) = draw(run, tmp_path, images=["3.png"])
    (other,) = draw(run, tmp_path, images=["3.png"], model=str(tiny_blip))
    assert own.caption != other.caption


def test_phantoms_are_called_synthetic_and_played_on(phantom_run: Path) -> None:
    result = explain(phantom_run, "--image", caption_of_phantoms(12)["id"][5])
    assert (result.exit_code, result.stderr) == (0, "")
    (picture,) = read_index(phantom_run).images
    assert picture.is_synthetic
    assert picture.alt.startswith("Synthetic image")
    assert "Pointing" not in result.stdout


def test_the_pointing_game_is_left_as_a_file_and_a_line(phantom_run: Path, materials: Materials) -> None:
    references = caption_of_phantoms(12)
    references.to_csv(phantom_run / "test_predictions.csv", index=False)
    result = explain(phantom_run, "--num", 1, "--pointing-images", 9, "--method", "cross_attention", "--layer", 3)
    assert (result.exit_code, result.stderr) == (0, "")
    line = result.stdout.splitlines()[-1]
    game = PointingResult.load(phantom_run / "attention" / "pointing_game.json")
    assert game is not None
    assert (game.split, game.method, game.layer) == ("test", "cross_attention", "3")
    assert game.num_images <= 9
    assert f"{game.share:.3f} [{game.interval[0]:.3f}, {game.interval[1]:.3f}] of {game.num_words} " in line
    assert json.loads((phantom_run / "attention" / "pointing_game.json").read_text())["share"] == game.share
    assert line.startswith("Pointing game (cross_attention, layer 3): ")


def caption_of_phantoms(count: int) -> pd.DataFrame:
    from medcap_core.config import TrialConfig
    from medcap_core.data.images import ImageGeometry
    from medcap_core.data.prepare import prepare_data

    split = prepare_data(TrialConfig(max_test_images=count), ImageGeometry(96), splits=("test",)).splits["test"]
    captions = split.captions
    return pd.DataFrame({"id": split.ids, "reference": captions, "prediction": captions[::-1], "zero_shot": captions})


@pytest.mark.parametrize("num", range(1, 12))
def test_rows_are_chosen_once_each(num: int) -> None:
    scores = np.array([0.5, 3.0, 0.1, 2.0, 0.1, 1.0, 0.7])
    rows = choose_rows(scores, num)
    assert len({row for row, _ in rows}) == len(rows) == min(num, 7)
    assert rows[0] == (1, "best")
    worst = [row for row, kind in rows if kind == "worst"]
    assert worst == [4, 2, 0][: len(worst)]


FAULTS: list[tuple[list[str], str]] = [
    (["--layer", "5"], r"--layer 5: the model's decoder has 2 layers; give 1 to 2, or mean\."),
    (["--layer", "last"], r"--layer last: give a number from 1, or mean\."),
    (["--question", "a mass?"], r"--question is for models that answer questions on scans; leave it out\."),
    (["--image", "none.png"], r"--image none\.png: no such file, and no image of the run's test split.*"),
    (["--model", "nothing here"], r"model nothing here: no such folder.*"),
    (["--out", __file__], rf"--out {re.escape(__file__)}: cannot be made \(File exists\); choose another folder\."),
]


@pytest.mark.parametrize(("flags", "message"), FAULTS)
def test_faults_are_one_sentence(run: Path, flags: list[str], message: str) -> None:
    result = explain(run, *flags)
    assert result.exit_code == 2
    assert re.fullmatch(f"error: {message}\n", result.stderr), result.stderr


def test_runs_that_are_not_finished_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFault, match="none: no such folder; give a run directory"):
        load_explained_run(tmp_path / "none")
    with pytest.raises(RunFault, match="has no best model yet"):
        load_explained_run(tmp_path)
    (tmp_path / "best").symlink_to(run / "best")
    with pytest.raises(RunFault, match="has not scored its test split yet; let it end, or give --image"):
        draw(tmp_path)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", 'id,reference,prediction\n"'])
def test_damaged_predictions_are_named(run: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "best").symlink_to(run / "best")
    (tmp_path / "test_predictions.csv").write_text(content)
    with pytest.raises(RunFault, match=r"test_predictions\.csv (cannot be read|has no column id)"):
        draw(tmp_path)


def test_a_damaged_list_is_named(run: Path, tmp_path: Path) -> None:
    assert AttentionIndex.load(tmp_path / "attention.json") is None
    (tmp_path / "attention.json").write_text('{"images": [{}]}')
    with pytest.raises(RunFault, match=r"attention\.json is damaged \(.*\); delete it"):
        AttentionIndex.load(tmp_path / "attention.json")
    assert len(draw(run, tmp_path, images=["3.png"])) == 1  # which replaces it
