"""Attention pictures of a run, by the function a report calls and by the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from medcap_core.attention.maps import AttentionMethod, AttentionWay, WordMap
from medcap_core.caption import caption_images, read_settings
from medcap_core.errors import RunFault
from medcap_core.training.export import export_captioner
from sweep.explain.__main__ import app, read_attention_pictures
from sweep.explain.captions import write_attention_pictures
from sweep.explain.chosen import choose_rows
from sweep.explain.sheet import SHEET_WIDTH, Sheet, draw_sheet
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


def read_index(directory: Path) -> dict[str, object]:
    index: dict[str, object] = json.loads((directory / "attention" / "attention.json").read_text())
    return index


def test_pictures_of_the_best_the_worst_and_other_test_images(run: Path, materials: Materials) -> None:
    steps: list[tuple[str, int, int]] = []
    pictures = write_attention_pictures(run, num=6, progress=lambda *step: steps.append(step))
    assert [picture.kind for picture in pictures] == ["best"] * 3 + ["worst"] * 2 + ["random"]
    assert {picture.image_id for picture in pictures[:3]} == {"0.png", "1.png", "2.png"}
    assert len({picture.image_id for picture in pictures}) == 6
    paths = [materials.images / "test" / picture.image_id for picture in pictures]
    assert [picture.caption for picture in pictures] == caption_images(paths, read_settings(str(run / "best")))
    references = pd.read_csv(materials.images / "test" / "metadata.csv").set_index("file_name")["text"]
    maps = np.load(run / "attention" / "attention.npz")
    for picture, entry in zip(pictures, read_index(run)["images"], strict=True):  # type: ignore[call-overload]
        assert picture.reference == references[picture.image_id]
        assert not picture.is_synthetic
        assert picture.caption in picture.alt
        with Image.open(picture.path) as image:
            assert (image.format, image.width) == ("PNG", SHEET_WIDTH)
        words = [word["text"] for word in entry["words"]]
        assert "".join(words) == picture.caption.replace(" ", "")
        assert maps[entry["maps"]].shape == (len(words), 3, 3)
        np.testing.assert_allclose(maps[entry["maps"]].sum((1, 2)), 1, rtol=1e-5)
        assert entry["box"] is None
    assert ("explaining captions", 6, 6) in steps
    assert ("drawing pictures", 6, 6) in steps
    assert read_attention_pictures(run) == pictures


def test_later_pictures_replace_earlier_ones(run: Path) -> None:
    way = AttentionWay(AttentionMethod.GRADIENT, 2)
    write_attention_pictures(run, num=2)
    (run / "attention" / "note.png").write_text("the user's own")
    write_attention_pictures(run, images=["3.png"])
    assert not list((run / "attention").glob("*-best-*"))
    pictures = write_attention_pictures(run, num=1, way=way)
    left = {path.name for path in (run / "attention").glob("*.png")}
    assert left == {pictures[0].path.name, "note.png"}
    assert {key: read_index(run)[key] for key in ("method", "layer", "model")} == {
        "method": "gradient",
        "layer": "2",
        "model": "tiny-001/best",
    }


def test_images_are_given_by_path_or_id(run: Path, materials: Materials, tmp_path: Path) -> None:
    Image.new("RGB", (50, 30), (200, 40, 90)).save(tmp_path / "my scan.png")
    result = explain(
        run, "--image", tmp_path / "my scan.png", "--image", "3.png", "--out", tmp_path / "out", "--layer", 1
    )
    assert (result.exit_code, result.stderr) == (0, "")
    loose, known = read_attention_pictures(run, tmp_path / "out")
    assert (loose.image_id, loose.reference, loose.kind) == ("my scan.png", None, "given")
    assert loose.path.name == "01-given-my-scan.png.png"
    assert known.reference is not None
    assert [line.split("  ")[1] for line in result.stdout.splitlines()] == [loose.caption, known.caption]
    with Image.open(loose.path) as sheet:
        assert (200, 40, 90) in {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24)}


def test_another_model_is_explained_on_the_same_images(run: Path, tiny_blip: Path, tmp_path: Path) -> None:
    (own,) = write_attention_pictures(run, images=["3.png"], out=tmp_path)
    (other,) = write_attention_pictures(run, images=["3.png"], out=tmp_path, model=str(tiny_blip))
    assert own.caption != other.caption


def test_phantoms_are_called_synthetic_and_played_on(phantom_run: Path) -> None:
    result = explain(phantom_run, "--image", caption_of_phantoms(12)["id"][5])
    assert (result.exit_code, result.stderr) == (0, "")
    (picture,) = read_attention_pictures(phantom_run)
    assert picture.is_synthetic
    assert picture.alt.startswith("Synthetic image")
    assert "Pointing" not in result.stdout


def test_the_pointing_game_is_left_as_a_file_and_a_line(phantom_run: Path, materials: Materials) -> None:
    references = caption_of_phantoms(12)
    references.to_csv(phantom_run / "test_predictions.csv", index=False)
    result = explain(phantom_run, "--num", 1, "--pointing-images", 9, "--method", "cross_attention", "--layer", 3)
    assert (result.exit_code, result.stderr) == (0, "")
    line = result.stdout.splitlines()[-1]
    game = json.loads((phantom_run / "attention" / "pointing_game.json").read_text())
    assert (game["split"], game["method"], game["layer"]) == ("test", "cross_attention", "3")
    assert game["num_images"] <= 9
    assert f"{game['share']:.3f} [{game['interval'][0]:.3f}, {game['interval'][1]:.3f}] of {game['num_words']} " in line
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
    (["--compare"], r".*tiny-001: --compare needs phantoms.*"),
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
        write_attention_pictures(tmp_path / "none")
    with pytest.raises(RunFault, match="has no best model yet"):
        write_attention_pictures(tmp_path)
    (tmp_path / "best").symlink_to(run / "best")
    with pytest.raises(RunFault, match="has not scored its test split yet; let it end, or give --image"):
        write_attention_pictures(tmp_path)


def test_a_damaged_list_is_named(run: Path, tmp_path: Path) -> None:
    assert read_attention_pictures(tmp_path) == []
    (tmp_path / "attention.json").write_text('{"images": [{}]}')
    with pytest.raises(RunFault, match=r"attention\.json is damaged; delete it"):
        read_attention_pictures(tmp_path, tmp_path)
    assert len(write_attention_pictures(run, images=["3.png"], out=tmp_path)) == 1  # which replaces it


MAP = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)


def draw(words: list[str], image: Image.Image, text: str = "a caption") -> Image.Image:
    return draw_sheet(Sheet(image, "title", [("Caption", text)], [WordMap(word, MAP) for word in words], ["legend"]))


@pytest.mark.parametrize("shape", [(96, 96), (384, 900)])
def test_long_captions_stay_on_the_sheet(shape: tuple[int, int]) -> None:
    words = ["word", "pneumonoultramicroscopicsilicovolcanoconiosis-related", "µm²"] * 27
    sheet = draw(words, Image.new("RGB", shape, (10, 20, 30)), " ".join(words))
    pixels = np.asarray(sheet)
    assert sheet.width == SHEET_WIDTH
    for edge in (pixels[:, :30], pixels[:, -30:], pixels[-30:], pixels[:20]):
        assert (edge == 255).all()


def test_words_fill_rows_of_six() -> None:
    heights = [draw(["word"] * count, Image.new("L", (30, 30))).height for count in (6, 7, 12, 13)]
    assert heights[1] == heights[2]
    assert heights[1] - heights[0] == heights[3] - heights[2] > 200


def test_a_caption_without_words_still_has_its_sheet() -> None:
    assert draw([], Image.new("L", (40, 40)), "").height > 400


def test_heat_lies_where_the_map_is() -> None:
    def brightness(values: np.ndarray) -> np.ndarray:
        image = Image.new("L", (64, 64), 0)
        words = [WordMap("word", values.astype(np.float32))]
        sheet = np.asarray(draw_sheet(Sheet(image, "t", [], words, [])), dtype=float).sum(-1)
        cell = sheet[-40 - 20 - 200 : -40 - 20, 45:235]  # above margin and gap
        return np.array([[part.mean() for part in np.array_split(half, 2, 1)] for half in np.array_split(cell, 2, 0)])

    for row in range(2):
        for column in range(2):
            values = np.zeros((2, 2))
            values[row, column] = 1
            seen = brightness(values)
            assert np.unravel_index(seen.argmax(), seen.shape) == (row, column)
