"""Files that are no valid YAML mapping."""

import re
from pathlib import Path

import pytest

from medcap_core.errors import ConfigFault
from sweep.space import apply_overrides, build_space, load_space

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
    "deep nesting": (b"name: " + b"[" * 5000, "line 1, column 26: more than 20 levels of nesting; correct the YAML."),
    "circular alias": (
        b"name: &loop [*loop]\n",
        "line 1, column 14: the alias stands within what it refers to; correct the YAML.",
    ),
    "alias bomb": (
        b"a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n"
        + b"".join(b"%c: &%c [%s]\n" % (of + 1, of + 1, b", ".join([b"*%c" % of] * 10)) for of in b"abcde"),
        "line 4, column 4: more than 10,000 values, aliases written out; correct the YAML.",
    ),
    "number of thousands of digits": (
        b"name: x\ntrials: " + b"9" * 5000,
        "line 2, column 9: a whole number of 5000 characters; correct the YAML.",
    ),
    "hexadecimal number of thousands of digits": (
        b"name: x\ntrials: 0x" + b"f" * 5000,
        "line 2, column 9: a whole number of 5002 characters; correct the YAML.",
    ),
    "no date": (b"name: 2026-02-30\n", "line 1, column 7: '2026-02-30' is no timestamp; correct the YAML."),
    "no boolean": (b"name: !!bool maybe\n", "line 1, column 7: 'maybe' is no bool; correct the YAML."),
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
    remedy = "check the path, or name a ready space, such as lora."
    assert str(caught.value) == f"{tmp_path / 'absent.yaml'}: no such file; {remedy}"
    with pytest.raises(ConfigFault) as caught:
        load_space(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read (Is a directory); give a YAML file."


def test_what_is_repeated_may_be_written_once(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "name: x\nsearch:\n  lora_rank: {choice: &sizes [4, 8]}\n  batch_size: {choice: *sizes}\n", encoding="utf-8"
    )
    assert [ranges[0].values for ranges in load_space(path).search.values()] == [(4, 8), (4, 8)]


@pytest.mark.parametrize("text", ["[" * 5000, "&a [*a]", "9" * 5000])
def test_a_value_of_the_command_line_is_as_safe(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match=r"--set seed=.*: the value is no valid YAML \(line 1, ") as caught:
        apply_overrides(build_space({"name": "x"}, "test"), set_values=[f"seed={text}"])
    assert len(caught.value.faults) == 1
