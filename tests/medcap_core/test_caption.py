"""Captioning images from the command line."""

import json
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from medcap_core.caption import app, list_inputs
from medcap_core.captioning import answer, load_captioner, load_configured, read_settings
from medcap_core.captioning import caption as caption_images
from medcap_core.config import TrialConfig
from medcap_core.errors import ConfigFault, DataFault, ModelFault, UserFault
from medcap_core.training.export import TRIAL_CONFIG_FILE, export_captioner
from tests.support.tiny_blip import IMAGE_SIZE, tiny_config


@pytest.fixture(scope="module")
def best(tiny_blip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as a run exports it: untrained, with a prompt, few tokens and three beams."""
    folder = tmp_path_factory.mktemp("run") / "best"
    config = tiny_config(tiny_blip, freeze="zero_shot", prompt="a picture of", max_new_tokens=6, num_beams=3)
    export_captioner(config, None, folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for index, size in enumerate((31, 48, 90)):
        paths.append(tmp_path / f"scan {index}.png")
        Image.fromarray(generator.integers(0, 256, (size, IMAGE_SIZE), dtype=np.uint8)).save(paths[-1])
    return paths


@pytest.fixture
def caption() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_each_image_has_a_line(best: Path, images: list[Path], caption: Callable[..., Result]) -> None:
    result = caption(*images, "--model", best)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [path for path, _ in lines] == [str(path) for path in images]
    assert [text for _, text in lines] == caption_images(load_captioner(best), images)
    assert len({text for _, text in lines}) > 1


def test_images_are_captioned_as_in_the_run(
    best: Path, tiny_blip: Path, images: list[Path], caption: Callable[..., Result]
) -> None:
    settings = read_settings(str(best))
    assert (settings.prompt, settings.max_new_tokens, settings.num_beams) == ("a picture of", 6, 3)
    config = tiny_config(tiny_blip, prompt="a picture of", max_new_tokens=6, num_beams=3)
    assert caption_images(load_configured(settings), images) == caption_images(load_configured(config), images)
    other = config.model_copy(update={"prompt": "the left", "num_beams": 1, "max_new_tokens": 4})
    result = caption(*images, "--model", best, "--prompt", "the left", "--beams", 1, "--max-new-tokens", 4)
    assert [line.split("\t")[1] for line in result.stdout.splitlines()] == caption_images(
        load_configured(other), images
    )
    assert caption_images(load_configured(other), images) != caption_images(load_configured(config), images)


def test_python_gives_the_captions_of_the_command(best: Path, images: list[Path]) -> None:
    """Also of images that are open already, and with other settings than the run's."""
    captioner = load_captioner(best)
    expected = caption_images(captioner, images)
    assert caption_images(captioner, [str(images[0]), Image.open(images[1])]) == expected[:2]
    assert caption_images(captioner, []) == []
    other = load_captioner(best, prompt="the left", num_beams=1)
    assert (other.config.prompt, other.config.num_beams, other.config.max_new_tokens) == ("the left", 1, 6)
    with pytest.raises(ConfigFault, match="num_beams"):
        load_captioner(best, num_beams=0)
    with pytest.raises(DataFault, match=r"none\.png: No such file"):
        caption_images(captioner, [images[0], "none.png"])
    with pytest.raises(ModelFault, match="the blip model"):
        answer(captioner, images, ["left or right?"])


def test_python_names_what_it_cannot_take(best: Path, images: list[Path]) -> None:
    captioner = load_captioner(best)
    assert caption_images(captioner, (path for path in images[:1])) == caption_images(captioner, images[:1])
    no_lists: list[Any] = [str(images[0]), images[0], Image.new("L", (8, 8)), None]
    for given in no_lists:
        with pytest.raises(DataFault, match=f"give a list of files and PIL images, not one {type(given).__name__}"):
            caption_images(captioner, given)
    no_images: list[Any] = [None, 5, b"a.png", np.zeros((8, 8))]
    for item in no_images:
        with pytest.raises(DataFault, match=f"{type(item).__name__} is neither a file's name nor a PIL image"):
            caption_images(captioner, [images[0], item])
    with pytest.raises(DataFault, match="it has no pixels; give an image file"):
        caption_images(captioner, [Image.new("L", (0, 8))])
    with pytest.raises(DataFault, match="give a list of questions, not one"):
        answer(captioner, images, "Why?")
    with pytest.raises(UserFault, match="File name too long"):
        load_captioner("x" * 5000)


def test_the_best_folder_may_be_moved(best: Path, images: list[Path], tmp_path: Path) -> None:
    moved = best.rename(tmp_path / "elsewhere")
    try:
        assert caption_images(load_captioner(moved), images)
    finally:
        moved.rename(best)


def test_all_bad_images_are_named_at_once(
    best: Path, images: list[Path], caption: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "note.png").write_text("no image")
    result = caption(images[0], tmp_path / "none.png", tmp_path / "note.png", "--model", best)
    assert (result.exit_code, result.stdout) == (2, "")
    first, second = result.stderr.splitlines()
    assert re.fullmatch(rf"error: {tmp_path}/none.png: .*; give an image file\.", first)
    assert second.startswith(f"error: {tmp_path}/note.png: not an image")


def test_a_folder_is_captioned_into_a_table(
    best: Path, images: list[Path], caption: Callable[..., Result], tmp_path: Path
) -> None:
    folder = images[0].parent
    (folder / "deeper").mkdir()
    moved = images[2].rename(folder / "deeper" / "last.png")
    (folder / "bad.png").write_text("no image")
    (folder / "notes.txt").write_text("no image either")
    out = tmp_path / "captions.csv"
    result = caption(folder, "--model", best, "--out", out)
    assert (result.exit_code, result.stdout) == (0, f"3 captions in {out}\n")
    assert re.fullmatch(rf"left out: {folder}/bad.png: .*\n", result.stderr)
    table = pd.read_csv(out, keep_default_na=False)
    paths = [moved, images[0], images[1]]
    assert sorted(table["image"]) == sorted(map(str, paths))
    expected = dict(zip(map(str, paths), caption_images(load_captioner(best), paths), strict=True))
    assert dict(zip(table["image"], table["caption"], strict=True)) == expected
    assert not list(tmp_path.glob(".*"))


def test_a_table_is_captioned_in_its_order(
    best: Path, images: list[Path], caption: Callable[..., Result], tmp_path: Path
) -> None:
    rows = tmp_path / "list.tsv"
    rows.write_text("".join(f"{line}\n" for line in ("image", images[1].name, images[0].name)))
    out = tmp_path / "captions.csv"
    assert caption(rows, "--model", best, "--out", out).exit_code == 0
    assert list(pd.read_csv(out)["image"]) == [str(images[1]), str(images[0])]
    rows.write_text(f"image\n{images[1].stem}\nelsewhere\\{images[0].name.upper()}\n")  # as in a table of data
    assert [path.name for path in list_inputs(rows, "image")] == [images[1].name, images[0].name]


def test_a_name_that_is_not_utf_8(
    best: Path, images: list[Path], caption: Callable[..., Result], tmp_path: Path
) -> None:
    odd = images[0].rename(tmp_path / os.fsdecode(b"R\xf6ntgen.png"))
    assert caption(odd, "--model", best).stdout.startswith(f"{tmp_path}/R\\udcf6ntgen.png\t")
    assert caption(odd, "--model", best, "--out", tmp_path / "captions.csv").exit_code == 0
    assert list(pd.read_csv(tmp_path / "captions.csv")["image"]) == [f"{tmp_path}/R\\udcf6ntgen.png"]
    result = caption(odd, "--model", best, "--out", "/proc/captions.csv")
    assert (result.exit_code, "/proc/captions.csv: cannot be written (" in result.stderr) == (2, True)


def test_nothing_is_written_where_nothing_can_be(
    best: Path, images: list[Path], caption: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.csv").write_text("picture\na.png\n")
    (tmp_path / "note.png").write_text("no image")
    out = tmp_path / "captions.csv"
    for source, said in (
        ("empty", "no image in this folder"),
        ("odd.csv", "no column for the image"),
        ("note.png", ""),
    ):
        result = caption(tmp_path / source, "--model", best, "--out", out)
        assert result.exit_code == 2
        assert said in result.stderr
        assert not out.exists()
    result = caption(images[0], "--model", best, "--out", tmp_path / "none" / "captions.csv")
    assert (result.exit_code, "--out" in result.stderr) == (2, True)


def test_a_model_that_is_none_is_named(images: list[Path], caption: Callable[..., Result], tmp_path: Path) -> None:
    result = caption(images[0], "--model", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "config.json" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_without_bitsandbytes_nothing_is_quantized(best: Path, tmp_path: Path) -> None:
    values = json.loads((best / TRIAL_CONFIG_FILE).read_text())
    (tmp_path / TRIAL_CONFIG_FILE).write_text(json.dumps(values | {"quantization": "4bit"}))
    expected = "none" if find_spec("bitsandbytes") is None else "4bit"
    assert read_settings(str(tmp_path)).quantization == expected


@pytest.mark.parametrize("damaged", ['{"data": "phantoms", "mod', "3", '["data"]'])
def test_damaged_settings_are_named(
    best: Path, images: list[Path], caption: Callable[..., Result], damaged: str
) -> None:
    path = best / "trial_config.json"
    text = path.read_text()
    try:
        path.write_text(damaged)
        result = caption(images[0], "--model", best)
    finally:
        path.write_text(text)
    assert result.exit_code == 2
    assert result.stderr == f"error: {path} is damaged; delete it to caption with default settings.\n"


def test_a_real_volume_is_read_and_asked_about(head_template: Path, tmp_path: Path) -> None:
    """MNI152 from its NIfTI file to an answer of the embedded, untrained 3D model."""
    config = TrialConfig(
        model="medblip3d", image_size=32, patch_size=16, num_queries=4, freeze="zero_shot", max_new_tokens=8,
        language_model="brain-gpt2",
    )  # fmt: skip
    export_captioner(config, None, tmp_path / "model")
    questions = ["What is the sex of this subject?", "How large are the ventricles?"]
    flags = [flag for question in questions for flag in ("--question", question)]
    result = CliRunner().invoke(app, [str(head_template), "--model", str(tmp_path / "model"), *flags])
    assert result.exit_code == 0, result.output
    path, sex, size = result.stdout.rstrip("\n").split("\t")
    assert path == str(head_template)
    assert sex in ("female", "male")  # what the language model says of a subject it sees nothing of
    assert size


def test_a_folder_of_scans_is_asked_into_a_table(caption: Callable[..., Result], tmp_path: Path) -> None:
    config = TrialConfig(
        model="medblip3d", image_size=32, patch_size=16, num_queries=4, freeze="zero_shot", max_new_tokens=8,
        language_model="brain-gpt2",
    )  # fmt: skip
    export_captioner(config, None, tmp_path / "model")
    scans = [tmp_path / "scans" / name for name in ("a.npy", "deeper/b.npy")]
    for number, path in enumerate(scans):
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.random.default_rng(number).random((9, 8, 7), dtype=np.float32))
    (tmp_path / "scans" / "bad.nii").write_text("no scan")
    out, questions = tmp_path / "answers.csv", ["What is the sex of this subject?", "How large are the ventricles?"]
    flags = [flag for question in questions for flag in ("--question", question)]
    result = caption(tmp_path / "scans", "--model", tmp_path / "model", "--out", out, *flags)
    assert (result.exit_code, result.stdout) == (0, f"2 rows of answers in {out}\n")
    assert re.fullmatch(rf"left out: {tmp_path}/scans/bad\.nii: .*; give a scan\.\n", result.stderr)
    table = pd.read_csv(out, keep_default_na=False)
    assert list(table.columns) == ["scan", *questions]
    assert list(table["scan"]) == [str(path) for path in scans]
    captioner = load_captioner(tmp_path / "model")
    assert table[questions].to_numpy().tolist() == answer(captioner, scans, questions)
    rows = tmp_path / "scans.csv"
    rows.write_text(f"path,question\n{scans[1]},a?\n{scans[1]},b?\n")
    assert caption(rows, "--model", tmp_path / "model", "--out", out).exit_code == 0
    captions = pd.read_csv(out, keep_default_na=False)
    assert captions.to_numpy().tolist() == [[str(scans[1]), *caption_images(captioner, scans[1:])]]
    (tmp_path / "none").mkdir()
    result = caption(tmp_path / "none", "--model", tmp_path / "model")
    assert (result.exit_code, "there is no scan in this folder" in result.stderr) == (2, True)


def test_a_folder_that_changes_while_it_is_walked() -> None:
    for noun in ("image", "scan"):
        with pytest.raises(DataFault, match=f"/proc: there is no {noun} in this folder"):
            list_inputs(Path("/proc"), noun)


def test_series_of_slices_are_scans(tmp_path: Path) -> None:
    for name in ("one/1.dcm", "two/IM0", "notes/readme.txt", "v.nii.gz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM" if path.suffix == "" else b"")
    assert list_inputs(tmp_path, "scan") == [tmp_path / name for name in ("one", "two", "v.nii.gz")]
    assert list_inputs(tmp_path / "one", "scan") == [tmp_path / "one"]


def test_a_2d_model_is_not_asked(images: list[Path], best: Path) -> None:
    result = CliRunner().invoke(app, [str(images[0]), "--model", str(best), "--question", "left or right?"])
    assert result.exit_code == 2
    assert "--question: the blip model" in result.stderr
