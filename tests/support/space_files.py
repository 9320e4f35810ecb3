"""Small space files and what loading them gives; shared by the tests of search spaces."""

import re
from pathlib import Path

import pytest

from medcap_core.errors import ConfigFault
from sweep.space import SearchSpace, load_space

LORA = """
name: tiny
fixed: {batch_size: 6}
search:
  freeze: {choice: [full, decoder_only, lora]}
  learning_rate:
    - {loguniform: [1e-5, 1e-3], when: {freeze: [full, decoder_only]}}
    - {loguniform: [1e-4, 1e-2], when: {freeze: lora}}
  lora_rank: {choice: [4, 8], when: {freeze: lora}}
  num_epochs: {int: [2, 5]}
first_points:
  - {freeze: lora, learning_rate: 1e-3, lora_rank: 8, num_epochs: 4}
  - {freeze: full, learning_rate: 1e-4, num_epochs: 3}
trials: 7
"""

ABLATION = """
name: ablation
sampler: grid
seeds: [3, 5]
search:
  lora_rank: {grid: [4, 16], when: {freeze: lora}}
  freeze: {grid: [zero_shot, lora, full]}
  num_epochs: {grid: [2, 3], when: {freeze: [lora, full]}}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(tmp_path: Path, text: str) -> SearchSpace:
    return load_space(write(tmp_path, text))


def faults_of(tmp_path: Path, text: str) -> list[str]:
    """Faults of a file without its path, which each must begin with."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigFault) as caught:
        load_space(path)
    assert all(fault.startswith(f"{path}: ") for fault in caught.value.faults)
    return [fault.removeprefix(f"{path}: ") for fault in caught.value.faults]


def search_of(text: str) -> str:
    return f"name: x\nsearch:\n  {text}\n"


def read_cases(catalogue: str) -> list[tuple[str, str]]:
    """Read files with their faults: `\\n` ends a line of a file, faults stand below it, indented by four spaces."""
    cases = re.findall(r"((?: {0,3}\S.*\n)+)((?: {4}.*\n)+)", catalogue)
    return [
        (text.rstrip("\n").replace("\\n", "\n"), re.sub(r"\s+", " ", faults).strip().replace("\\n", "\n"))
        for text, faults in cases
    ]
