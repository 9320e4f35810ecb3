"""JSON annotation files: COCO captions, Karpathy's splits, R2Gen, records, conversations, pandas' tables."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medcap_core.data.records import SplitName
from medcap_core.data.sources import tables
from medcap_core.data.sources.image_index import find_below
from medcap_core.data.sources.json_cells import parse_json
from medcap_core.data.sources.reading import Reading, recognise_split
from medcap_core.data.sources.rows import Row, Table, decode_text, read_content
from medcap_core.data.sources.tables import USUAL_COLUMNS, TableColumns
from medcap_core.errors import DataFault

_WHOLE_NAMES = ("annotation.json", "annotations.json")
_NUM_PROBED = 50
_REMEDY = (
    "give COCO captions (images, annotations), R2Gen's annotation (train, val, test), a list of objects with an image "
    "and a caption, or one object of image name and caption"
)

Cells = dict[str, Any]


def read_annotations(path: Path, own: TableColumns = USUAL_COLUMNS) -> Reading:
    """Read the records of one JSON file, or of one for each split.

    - COCO captions: `images` with `id` and `file_name`, `annotations` with `image_id` and `caption`; the captions of an
      image are references of one record.
    - Karpathy's splits: `images` with `filename`, `split` (`restval` is train) and `sentences` with `raw`.
    - R2Gen: `train`, `val` and `test`, each a list of objects with `id`, `image_path` (a list, of which the first is
      used) and `report`.
    - A list of objects, which may be conversations, or one object of image names and captions.
    - A table as pandas writes it, in any of its orientations with names of columns.

    Columns as in `medcap_core.data.sources.tables.add_rows`. Images lie beside the file, or in the nearest of the usual
    folders (`images/`, `../images/`, `../train2017/` ...). Raises DataFault.
    """
    reading = Reading(splits_by_user=True)
    for file, split in find_files(path):
        layout, records = _list_records(_parse(file), str(file), own)
        columns = dict.fromkeys(column for cells in records for column in cells)
        rows = [Row(number, cells) for number, cells in enumerate(records, start=1)]
        table = Table(file, list(columns), rows, [f"{file.name} was read as {layout}."])
        tables.flatten_columns(table, own)
        tables.add_rows(reading, table, split, _find_image_folder(table, own), own=own)
    return reading


def find_files(path: Path) -> list[tuple[Path, SplitName | None]]:
    """Find the JSON files at `path`, each with its split, None where the file itself says it."""
    if path.is_file():
        return [(path, None)] if path.name.lower().endswith((".json", ".json.gz")) else []
    if not path.is_dir():
        return []
    for name in _WHOLE_NAMES:
        if (path / name).is_file():
            return [(path / name, None)]
    by_split: dict[SplitName, Path] = {}
    folders = (path, path / "annotations")
    files = [file for folder in folders for file in sorted(folder.glob("*.json")) if file.is_file()]
    # COCO's folder also holds instances and keypoints of each split.
    for file in sorted(files, key=lambda file: "caption" not in file.name.lower()):
        for word in re.split(r"[^a-z]+", file.stem.lower()):
            if (split := recognise_split(word)) is not None:
                by_split.setdefault(split, file)
    return [(file, split) for split, file in by_split.items()] if "train" in by_split else []


def _parse(file: Path) -> Any:
    """Parse a JSON file; one of an object a line becomes a list. Raises DataFault."""
    content = read_content(file)
    try:
        return parse_json(content, str(file), _REMEDY)
    except DataFault as fault:
        if not (isinstance(fault.__cause__, json.JSONDecodeError) and fault.__cause__.msg == "Extra data"):
            raise
    lines = enumerate(decode_text(content)[0].split("\n"), start=1)
    return [parse_json(line, f"{file} line {number}", _REMEDY) for number, line in lines if line.strip()]


def _list_records(content: Any, where: str, own: TableColumns) -> tuple[str, list[Cells]]:
    """Return the layout's name and its records as rows of a table. Raises DataFault."""
    if isinstance(content, list):
        return "a list of records", _require_objects(content, where)
    if isinstance(content, dict) and content:
        if {"images", "annotations"} <= content.keys():
            return "COCO captions", _list_coco(content, where)
        if all(recognise_split(key) for key in content):
            rows = []
            for split, part in content.items():
                named = _list_by_name(part, own) if isinstance(part, dict) and part else None
                cells = _require_objects(part, f"{where}: {split}") if named is None else named[1]
                rows += [{**own_cells, "split": split} for own_cells in cells]
            return "a list of reports for each split", rows
        found = _list_table(content, where, own) or _list_by_name(content, own)
        if found is not None:
            return found
    raise DataFault(f"{where} is no known layout of annotations: {_REMEDY}.")


def _list_table(content: Mapping[str, Any], where: str, own: TableColumns) -> tuple[str, list[Cells]] | None:
    """List the rows of one list of objects, or of a table as pandas writes it; None for other content."""
    lists = [key for key, value in content.items() if isinstance(value, list)]
    if all(key in lists for key in ("columns", "data")):
        if not all(isinstance(row, list) for row in content["data"]):
            raise DataFault(f"{where}: data is not a list of rows: {_REMEDY}.")
        names = [str(name) for name in content["columns"]]
        return "a table by rows", [dict(zip(names, row, strict=False)) for row in content["data"]]
    if all(tables.find_column(list(content), names) for names in (own.image_names, own.caption_names)):
        return "a table by columns", _list_columns(content, where)
    if len(lists) == 1 and (len(content) == 1 or any(isinstance(value, dict) for value in content[lists[0]])):
        records = _require_objects(content[lists[0]], f"{where}: {lists[0]}")
        if any("sentences" in cells for cells in records):
            return "Karpathy's splits", _list_karpathy(records, f"{where}: {lists[0]}")
        return "a list of records", records
    return None


def _list_by_name(content: Mapping[str, Any], own: TableColumns) -> tuple[str, list[Cells]] | None:
    """List records or captions by the name of their image, or records by an id; None for other content."""
    if all(isinstance(value, dict) for value in content.values()):
        columns = list(dict.fromkeys(column for cells in content.values() for column in cells))
        key = "id" if tables.find_column(columns, own.image_names) else "image"
        return "records by name", [{key: name, **value} for name, value in content.items()]
    texts = [text for value in content.values() for text in (value if isinstance(value, list) else [value])]
    if all(isinstance(text, str) for text in texts):
        return "captions by image name", [{"image": name, "caption": value} for name, value in content.items()]
    return None


def _list_coco(content: Mapping[str, Any], where: str) -> list[Cells]:
    images = _require_objects(content["images"], f"{where}: images", ("id", "file_name"))
    annotations = _require_objects(content["annotations"], f"{where}: annotations")
    if annotations and not any("caption" in annotation for annotation in annotations):
        raise DataFault(f"{where}: no annotation has a caption: give COCO's file of captions, not of objects.")
    by_id: dict[str, list[Cells]] = {str(image["id"]): [] for image in images}
    unknown: list[Cells] = []
    for annotation in (annotation for annotation in annotations if "caption" in annotation):  # others are of objects
        own = {name: value for name, value in annotation.items() if name not in ("id", "image_id")}
        image_id = str(annotation.get("image_id"))
        by_id.get(image_id, unknown).append({**own, "id": image_id})
    rows = [{**own, **image} for image in images for own in by_id[str(image["id"])] or [{"caption": ""}]]
    return rows + unknown  # these name no image, and are left out as such


def _list_karpathy(images: list[Cells], where: str) -> list[Cells]:
    rows = []
    for number, image in enumerate(images):
        sentences = _require_objects(image.get("sentences"), f"{where}: entry {number}: sentences", ("raw",))
        own = {name: image[name] for name in image if name not in ("filepath", "sentences", "sentids")}
        name = "/".join(str(image[key]) for key in ("filepath", "filename") if image.get(key))
        record_id = image.get("cocoid", image.get("imgid"))
        rows.append({**own, "id": record_id, "filename": name, "caption": [text["raw"] for text in sentences]})
    return rows


def _list_columns(content: Mapping[str, Any], where: str) -> list[Cells]:
    """Return the rows of a table that is written column by column, each a list or an object of cells by row."""
    columns = {name: dict(enumerate(cells)) if isinstance(cells, list) else cells for name, cells in content.items()}
    if others := [name for name, cells in columns.items() if not isinstance(cells, dict)]:
        raise DataFault(f"{where}: {others[0]} is no column of cells: {_REMEDY}.")
    keys = dict.fromkeys(key for cells in columns.values() for key in cells)
    return [{name: cells.get(key) for name, cells in columns.items()} for key in keys]


def _require_objects(values: Any, where: str, keys: Iterable[str] = ()) -> list[Cells]:
    """Return a list of JSON objects that have `keys`. Raises DataFault naming the first that is none or lacks one."""
    if not isinstance(values, list):
        raise DataFault(f"{where} is not a list: {_REMEDY}.")
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise DataFault(f"{where}: entry {number} is not an object: {_REMEDY}.")
        missing = [key for key in keys if isinstance(value.get(key), dict | list | None)]
        if missing:
            raise DataFault(f"{where}: entry {number} has no {missing[0]}: add it to every entry, or remove the entry.")
    return values


def _find_image_folder(table: Table, own: TableColumns) -> Path:
    """Find the folder that the names of images are relative to: the file's own, or the first that holds one."""
    beside = table.path.parent
    column = tables.find_column(table.columns, own.image_names)
    names = [name for row in table.rows[:_NUM_PROBED] if column and (name := row.text(column).strip())]
    parts = ["", "images", "imgs", "img", *table.path.stem.split("_")]
    folders = [
        root / part for root in (beside, beside.parent, beside / "images", beside.parent / "images") for part in parts
    ]
    return next((folder for folder in folders if any(find_below(folder, name) for name in names)), beside)
