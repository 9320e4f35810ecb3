"""What is wrong with a pickled checkpoint is told in a sentence; a whole conversion is tested beside ViT-GPT2."""

from pathlib import Path

import pytest
import torch

from medcap_core.convert import convert_weights
from medcap_core.errors import ModelFault

# Pickles that pop from nothing, ask for what is not there, hold no text and are cut off.
DAMAGED = [b"\x80\x02\x85.", b"\x80\x02h\x06.", b"\x80\x02X\x01\0\0\0\xff.", b"\x80\x02X\x01."]


OTHERS = [{"epoch": 3}, [torch.zeros(2)], {"model": {"a": torch.zeros(2)}}, {3: torch.zeros(2)}]


@pytest.mark.parametrize("content", [b"", b"no pickle", *DAMAGED, *OTHERS])
def test_a_file_that_is_not_made_of_named_tensors_is_told(content: object, tmp_path: Path) -> None:
    source = tmp_path / "old"
    source.mkdir()
    path = source / "pytorch_model.bin"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ModelFault) as caught:
        convert_weights(str(source), tmp_path / "new")
    (sentence,) = caught.value.faults
    assert sentence.startswith(f"{path}: it ")
    assert "\n" not in sentence
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_new_folder(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(ModelFault, match="is a file or a folder that is not empty; name a new folder"):
        convert_weights(str(tmp_path), taken)
