"""Files that are no valid YAML mapping."""

import re
from pathlib import Path

import pytest

from medcap_core.errors import ConfigFault
from sweep.space import load_space

BROKEN_FILES = {
    "syntax": (
        b"name: x\nsearch: {freeze: [a\ntrials: 3\n",
        "line 3, column 7: while parsing a flow sequence expected ',' or ']', but got ':'; correct the YAML.",
    ),
    "tab": (
        b"name: x\nsearch:\n\tfreeze: 1\n",
        "line 3, column 1: while scanning for the next token found character '\\t' that cannot start any token; "
        "correct the YAML.",
    ),
    "two documents": (
        b"name: x\n---\nname: y\n",
        "line 2, column 1: expected a single document in the stream but found another document; correct the YAML.",
    ),
    "python object": (
        b"name: !!python/name:os.system x\n",
        "line 1, column 7: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'; "
        "correct the YAML.",
    ),
    "empty": (b"# nothing yet\n", "the file is empty; write keys and values, with 'name: ...' at least."),
    "list": (b"- name\n", "the file is no mapping; write keys and values, with 'name: ...' at least."),
    "not text": (b"\xff\xfe\x00", "cannot be read (it is not UTF-8 text); give a YAML file."),
}


@pytest.mark.parametrize(("content", "expected"), BROKEN_FILES.values(), ids=BROKEN_FILES.keys())
def test_broken_file(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigFault, match=re.escape(f"{path}: {expected}")) as caught:
        load_space(path)
    assert len(caught.value.faults) == 1


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault) as caught:
        load_space(tmp_path / "absent.yaml")
    remedy = "check the path (ready ones are in search_spaces/)."
    assert str(caught.value) == f"{tmp_path / 'absent.yaml'}: no such file; {remedy}"
    with pytest.raises(ConfigFault) as caught:
        load_space(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read (Is a directory); give a YAML file."
