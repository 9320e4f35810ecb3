"""Checkpoints bring neither code nor pickled weights."""

import json
import re
from pathlib import Path

import pytest

from medcap_core.errors import ModelFault
from medcap_core.models import load_captioner
from tests.support import REPOSITORY
from tests.support.tiny_blip import save_tiny_blip


def test_every_checkpoint_is_loaded_in_one_place() -> None:
    found = {
        path.relative_to(REPOSITORY).as_posix()
        for package in ("medcap_core", "sweep")
        for path in (REPOSITORY / package).rglob("*.py")
        if re.search(r"\w\.from_pretrained\(", path.read_text(encoding="utf-8"))
    }
    assert found == {"medcap_core/runtime/checkpoints.py", "sweep/report/model_card.py"}  # the latter writes an example


def test_the_code_of_a_checkpoint_is_not_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "other", "auto_map": {"AutoConfig": "configuration.Config"}})
    )
    (tmp_path / "configuration.py").write_text("raise SystemExit('run')")
    with pytest.raises(ModelFault, match="contains custom code"):
        load_captioner(str(tmp_path))
    assert "y/N" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ('{"weight_map": {"a": "pytorch_model-00001.bin", "b": "model-00002.safetensors"}}', "names pytorch_model"),
        ('{"weight_map": 3}', "is damaged"),
        ("[]", "is damaged"),
    ],
)
def test_an_index_of_pickled_shards_is_refused(tmp_path: Path, index: str, said: str) -> None:
    folder = save_tiny_blip(tmp_path / "blip")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelFault, match=said) as raised:
        load_captioner(str(folder))
    assert len(raised.value.faults) == 1
