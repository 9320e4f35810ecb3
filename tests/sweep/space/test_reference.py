"""docs/space_file.md: what is generated from the models' fields, complete and up to date."""

import pytest
import yaml
from pydantic import BaseModel

from medcap_core.config import TrialConfig
from sweep.space import build_space
from sweep.space.ranges import Range
from sweep.space.reference import EXAMPLE, write_reference
from sweep.space.schema import Resources, SearchSpace
from tests.support import REPOSITORY


def test_the_page_is_what_is_generated() -> None:
    page = (REPOSITORY / "docs" / "space_file.md").read_text(encoding="utf-8")
    assert page == write_reference(), "run python -m sweep.space.reference > docs/space_file.md"


@pytest.mark.parametrize("model", [SearchSpace, Resources, Range, TrialConfig])
def test_each_field_has_one_sentence(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert f"| `{name}` |" in write_reference()


def test_a_row_has_bounds_unit_and_default() -> None:
    assert (
        "| `max_new_tokens` | a whole number (at least 4, at most 512) | tokens | `48` | Longest generated caption. |"
        in write_reference().splitlines()
    )


def test_the_example_is_a_space_of_twelve_lines() -> None:
    space = build_space(yaml.safe_load(EXAMPLE), "example")
    assert (space.trials, len(space.search["learning_rate"])) == (8, 2)
    assert space.first_points == ({"freeze": "full", "learning_rate": 1e-3, "num_epochs": 5},)
    assert len(EXAMPLE.splitlines()) == 12
    assert f"```yaml\n{EXAMPLE}```" in write_reference()
