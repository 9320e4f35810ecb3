"""Write the reference of the space file, `docs/space_file.md`, from the fields of its models.

python -m sweep.space.reference > docs/space_file.md
"""

import sys
from collections.abc import Sequence

from pydantic import BaseModel

from medcap_core.config import TrialConfig
from sweep.space.fields import describe_field, field_schemas, show_plain
from sweep.space.ranges import NOT_SEARCHED, Range
from sweep.space.schema import SECTIONS, TOP_LEVEL_FIELDS, Resources, SearchSpace

EXAMPLE = """\
name: mine
data: phantoms
model: phantom-blip
fixed: {batch_size: 16, max_validation_images: 120}
search:
  freeze: {choice: [full, lora]}
  learning_rate:
    - {loguniform: [2e-4, 4e-3], when: {freeze: full}}
    - {loguniform: [2e-3, 4e-2], when: {freeze: lora}}
  num_epochs: {int: [2, 6]}
first_points: [{freeze: full, learning_rate: 1e-3, num_epochs: 5}]
trials: 8
"""

_HEAD = f"""\
# The space file

A space file says what a sweep tries: a YAML mapping, of which every key but `name` has a default. `medcap run FILE`
runs it, and `medcap run FILE --dry-run` shows how it is read and what it will cost. A name without a path, such as
`medcap run lora`, is a ready space of `search_spaces/`. This page is written by `python -m sweep.space.reference`.

```yaml
{EXAMPLE}```

- `data` and `model` name a data set and a base model: one of the project's own, one of the Hugging Face Hub, or a path.
- `fixed` has fields of a trial with one value for all trials; the other fields have their defaults.
- `search` has the fields that are searched, each with one range: `choice`, `int`, `uniform`, `loguniform` or `grid`.
- A field may have several ranges under conditions: here LoRA gets higher learning rates than full fine-tuning. Each is
  a parameter of its own to the sampler. No two ranges of a field may hold at once; where none holds, the field has its
  default.
- `first_points` are tried before the sampler proposes points; fields left out are drawn.
- `trials` is the number of trials. In a grid (`sampler: grid`) the rows give it.
- `--set KEY=VALUE` changes one value on the command line: a key of the file, `resources.KEY`, `models.ALIAS`, or a
  field of a trial, which is then fixed and searched no more.

A value is read by the type of its field, so `1e-5` is a number. Unknown keys, keys written twice, values out of bounds
and conditions that can never hold are faults of the file; all are reported at once, before anything starts.
"""


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:-1]) + f" and `{names[-1]}`"


_FIELDS = f"""\
These keys stand under `fixed`, `search`, `first_points` and `when`, but for those of the file:
{_list_names(TOP_LEVEL_FIELDS)}; `model` is searched where `models` names several.
The same for every trial of a run, and so never searched, are {_list_names(NOT_SEARCHED)}.
"""


def write_reference() -> str:
    """Return the page as Markdown."""
    ranges = [f"| `{key}` | {field.description} |" for key, field in Range.model_fields.items()]
    parts = [
        _HEAD,
        "## Keys\n",
        _format_table(SearchSpace),
        "## Keys of `resources`\n",
        _format_table(Resources),
        "## Ranges\n",
        "A range is a mapping with exactly one of the types, and `when` if it does not always hold.\n",
        "\n".join(["| Key | Meaning |", "| --- | --- |", *ranges, ""]),
        "## Fields of a trial\n",
        _FIELDS,
        _format_table(TrialConfig),
    ]
    return "\n".join(parts)


def _format_table(model: type[BaseModel]) -> str:
    schemas = field_schemas(model)
    has_units = any("unit" in schema for schema in schemas.values())
    rows = [["Key", "Takes", *(["Unit"] if has_units else []), "Default", "Meaning"]]
    rows.append(["---"] * len(rows[0]))
    for field, schema in schemas.items():
        unit = [schema.get("unit", "")] if has_units else []
        default = f"`{show_plain(schema['default'])}`" if "default" in schema else "required"
        if field in SECTIONS:
            default = "empty"
        rows.append([f"`{field}`", describe_field(model, field), *unit, default, schema["description"]])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    sys.stdout.write(write_reference())
