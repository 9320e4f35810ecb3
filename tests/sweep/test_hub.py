"""The first `python -m sweep.run` of the README on real data, as it stands, against a look-alike of the Hub."""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from medcap_core.models import EMBEDDED_MODELS
from tests.support import REPOSITORY
from tests.support.hub_server import serving_hub

SIZES = {"train": 60, "test": 12}  # the real one has 1,978 and 327, and no validation split either


def write_radiology_mini(folder: Path) -> None:
    """A data set in the layout of unsloth/Radiology_mini: parquet files, concepts, JPEG images named by their ids."""
    generator = np.random.default_rng(0)
    text = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "image_id": text, "caption": text, "cui": [text]})
    (folder / "data").mkdir(parents=True)
    for split, count in SIZES.items():
        rows = []
        for number in range(count):
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (40, 50), dtype=np.uint8)).save(buffer, "JPEG")
            name = f"ROCOv2_2023_{split}_{number:06d}"
            image = {"bytes": buffer.getvalue(), "path": f"{name}.jpg"}
            caption = f"Chest X-ray number {number} showing a nodule in the left lobe."
            rows.append({"image": image, "image_id": name, "caption": caption, "cui": ["C1306645"]})
        table = datasets.Dataset.from_list(rows, features=features)
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: data/{split}-*\n" for split in SIZES)
        + "---\n"
    )


def read_command() -> list[str]:
    text = (REPOSITORY / "README.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("$ ") and "--data rocov2-mini" in line]
    return shlex.split(line.removeprefix("$ python"))


@pytest.mark.slow
def test_the_first_command_on_real_data(tmp_path: Path) -> None:
    write_radiology_mini(tmp_path / "data")
    repositories = {
        "datasets/unsloth/Radiology_mini": tmp_path / "data",
        "models/Salesforce/blip-image-captioning-base": EMBEDDED_MODELS["phantom-blip"],
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "RAY_", "TUNE_"))}
    places = {"HF_HOME": tmp_path / "hf", "MEDCAP_CACHE": tmp_path / "cache", "PYTHONPATH": REPOSITORY}
    with serving_hub(repositories) as endpoint:
        environment = kept | {name: str(place) for name, place in places.items()} | {"HF_ENDPOINT": endpoint}
        command = [sys.executable, *read_command()]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for said in (
        "1,978 train and 327 test images of ROCOv2, Hub data set unsloth/Radiology_mini",
        "54 train, 6 validation, 12 test",
        "There is no validation split: 6 images were cut from train",
        "Salesforce/blip-image-captioning-base",
    ):
        assert said in done.stdout
    assert "Traceback" not in done.stderr
