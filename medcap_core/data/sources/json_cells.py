"""JSON text of any content to values, and lists in the cells of a table to plain rows."""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from medcap_core.errors import DataFault, first_line

if TYPE_CHECKING:
    from medcap_core.data.sources.rows import Row, Table


_TEXT = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST_OF_TEXTS = re.compile(
    rf"\s*(?:array\()?\[\s*(?:(?:np\.str_\()?{_TEXT}[\s,)]*)*\](?:, dtype=\S+)?\)?\s*", re.DOTALL
)
"""A list in JSON or as Python or NumPy show it, NumPy without commas."""
_ANSWERING = ("gpt", "assistant")


def parse_json(content: str | bytes, where: str, remedy: str) -> Any:
    """Parse JSON, bytes in UTF-8, UTF-16 or UTF-32. Raises DataFault naming `where` and ending in `remedy`."""
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        place = f" at line {error.lineno}" if error.lineno > 1 else ""
        raise DataFault(f"{where} is not JSON ({error.msg}{place}): {remedy}.") from error
    except UnicodeDecodeError as error:
        raise DataFault(f"{where} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    except RecursionError as error:
        raise DataFault(f"{where} is nested too deeply: {remedy}.") from error
    except ValueError as error:  # a number of more than 4300 digits
        raise DataFault(f"{where} cannot be read ({first_line(error).partition(';')[0]}): {remedy}.") from error


def flatten_lists(table: "Table", image: str | None, captions: Sequence[str], others: Sequence[str]) -> None:
    """Turn lists in the named columns of `table` into plain text, in place.

    Of a list of images the first is taken; a list of captions becomes one row each, adjacent. A list is a JSON list of
    texts, or in a CSV the text of one (`['a.png', 'b.png']`, NumPy's `['a.png' 'b.png']`). Any other list or mapping in
    these columns and in `others` makes its row unusable.
    """
    num_several = 0
    for row in table.rows:
        if image and (found := _as_texts(row.cells.get(image))) is not None:
            num_several += len(found) > 1
            row.cells[image] = found[0] if found else ""
    plain = [*captions, *([image] if image else []), *others]
    table.rows[:] = [one for row in table.rows for one in _split_captions(row, captions, plain)]
    if num_several:
        table.notes.append(f"{num_several:,} rows of {table.path.name} name several images; the first of each is used.")


def _split_captions(row: "Row", captions: Sequence[str], plain: Sequence[str]) -> list["Row"]:
    """Make a row of each caption in a list; the columns `plain` must hold text then."""
    rows = [row]
    for column in captions:
        if (found := _as_texts(row.cells.get(column))) is not None:
            rows = [replace(one, cells={**one.cells, column: text}) for one in rows for text in found or [""]]
    for column in plain:
        if isinstance(rows[0].cells.get(column), list | dict):
            row.cells[column] = ""
            return [replace(row, fault=row.fault or f"line {row.line}: {column} is not text")]
    return rows


def take_answers(table: "Table", conversations: str, caption: str) -> None:
    """Turn the column of conversations into one of captions, in place: of each the first answer.

    They are LLaVA's (`from`, `value`) or chat messages (`role`, `content`).
    """
    num_longer = 0
    table.columns[table.columns.index(conversations)] = caption
    for row in table.rows:
        turns = row.cells.pop(conversations, None)
        said = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
        answers = [turn for turn in said if turn.get("from", turn.get("role")) in _ANSWERING]
        num_longer += len(answers) > 1
        answer = answers[0].get("value", answers[0].get("content")) if answers else None
        if isinstance(answer, list):
            answer = " ".join(str(part["text"]) for part in answer if isinstance(part, dict) and "text" in part)
        row.cells[caption] = answer
    table.notes.append(
        "The first answer of each conversation is its caption"
        + (f"; {num_longer:,} conversations have further ones, which are not used." if num_longer else ".")
    )


def _as_texts(value: Any) -> list[str] | None:
    """Return the texts of a list, given as such or written in a cell; None for all else."""
    if isinstance(value, str) and _LIST_OF_TEXTS.fullmatch(value):
        try:
            value = json.loads(value)
        except ValueError:
            value = [ast.literal_eval(text) for text in re.findall(_TEXT, value, re.DOTALL)]
    return value if isinstance(value, list) and all(isinstance(text, str) for text in value) else None
