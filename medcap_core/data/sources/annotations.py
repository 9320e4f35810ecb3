"""JSON annotation files: COCO captions, R2Gen's `annotation.json`, lists of records, captions by image name."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medcap_core.data.records import SplitName
from medcap_core.data.sources.image_index import exists
from medcap_core.data.sources.json_cells import parse_json
from medcap_core.data.sources.reading import Reading, recognise_split
from medcap_core.data.sources.rows import Row, Table
from medcap_core.data.sources.tables import (
    IMAGE_COLUMNS,
    USUAL_COLUMNS,
    TableColumns,
    add_rows,
    find_column,
    flatten_columns,
)
from medcap_core.errors import DataFault

_WHOLE_NAMES = ("annotation.json", "annotations.json")
_NUM_PROBED = 50
_REMEDY = (
    "give COCO captions (images, annotations), R2Gen's annotation (train, val, test), a list of objects with an image "
    "and a caption, or one object of image name and caption; a file of one object a line is named .jsonl"
)

Cells = dict[str, Any]


def is_annotations(path: Path) -> bool:
    """Check for a JSON file, or a folder with `annotation.json` or with one file for each split."""
    return bool(_find_files(path))


def read_annotations(path: Path, own: TableColumns = USUAL_COLUMNS) -> Reading:
    """Read the records of one JSON file, or of one for each split.

    - COCO captions: `images` with `id` and `file_name`, `annotations` with `image_id` and `caption`; the captions of an
      image are references of one record.
    - R2Gen: `train`, `val` and `test`, each a list of objects with `id`, `image_path` (a list, of which the first is
      used) and `report`.
    - A list of objects, or one object of image names and captions.

    Columns as in `medcap_core.data.sources.tables.add_rows`. Images lie beside the file, or in the nearest of the usual
    folders (`images/`, `../images/`, `../train2017/` ...). Raises DataFault.
    """
    reading = Reading(splits_by_user=True)
    for file, split in _find_files(path):
        layout, records = _list_records(parse_json(file.read_bytes(), str(file), _REMEDY), str(file))
        columns = dict.fromkeys(column for cells in records for column in cells)
        rows = [Row(number, cells) for number, cells in enumerate(records, start=1)]
        table = Table(file, list(columns), rows, [f"{file.name} was read as {layout}."])
        flatten_columns(table, own)
        add_rows(reading, table, split, _find_image_folder(table, own), own=own)
    return reading


def _find_files(path: Path) -> list[tuple[Path, SplitName | None]]:
    """Return each file with its split, None where the file itself says it."""
    if path.is_file():
        return [(path, None)] if path.suffix.lower() == ".json" else []
    if not path.is_dir():
        return []
    for name in _WHOLE_NAMES:
        if (path / name).is_file():
            return [(path / name, None)]
    by_split: dict[SplitName, Path] = {}
    files = [file for folder in (path, path / "annotations") for file in sorted(folder.glob("*.json"))]
    # COCO's folder also holds instances and keypoints of each split.
    for file in sorted(files, key=lambda file: "caption" not in file.name.lower()):
        for word in re.split(r"[^a-z]+", file.stem.lower()):
            if (split := recognise_split(word)) is not None:
                by_split.setdefault(split, file)
    return [(file, split) for split, file in by_split.items()] if "train" in by_split else []


def _list_records(content: Any, where: str) -> tuple[str, list[Cells]]:
    """Return the layout's name and its records as rows of a table. Raises DataFault."""
    if isinstance(content, list):
        return "a list of records", _require_objects(content, where)
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        return "COCO captions", _list_coco(content, where)
    if isinstance(content, dict) and content:
        if all(recognise_split(key) for key in content):
            return "a list of reports for each split", [
                {**cells, "split": split}
                for split, records in content.items()
                for cells in _require_objects(records, f"{where}: {split}")
            ]
        if len(content) == 1 and isinstance(content[(key := next(iter(content)))], list):
            return "a list of records", _require_objects(content[key], f"{where}: {key}")
        if content and all(isinstance(value, dict) for value in content.values()):
            return "records by image name", [{"image": name, **value} for name, value in content.items()]
        if all(isinstance(value, str) or _is_texts(value) for value in content.values()):
            return "captions by image name", [{"image": name, "caption": value} for name, value in content.items()]
    raise DataFault(f"{where} is no known layout of annotations: {_REMEDY}.")


def _list_coco(content: Mapping[str, Any], where: str) -> list[Cells]:
    images = _require_objects(content["images"], f"{where}: images", ("id", "file_name"))
    annotations = _require_objects(content["annotations"], f"{where}: annotations")
    if annotations and not any("caption" in annotation for annotation in annotations):
        raise DataFault(f"{where}: no annotation has a caption: give COCO's file of captions, not of objects.")
    by_image: dict[str, list[Cells]] = {str(image["id"]): [] for image in images}
    unknown = []
    for annotation in (annotation for annotation in annotations if "caption" in annotation):  # others are of objects
        own = {name: value for name, value in annotation.items() if name not in ("id", "image_id")}
        if (image_id := str(annotation.get("image_id"))) in by_image:
            by_image[image_id].append(own)
        else:
            unknown.append({**own, "id": image_id})
    rows = [{**own, **image} for image in images for own in by_image[str(image["id"])] or [{"caption": ""}]]
    return rows + unknown  # these name no image, and are left out as such


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


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
    column = find_column(table.columns, [own.image] if own.image else IMAGE_COLUMNS)
    names = [name for row in table.rows[:_NUM_PROBED] if column and (name := row.text(column).strip())]
    parts = ["", "images", "imgs", "img", *table.path.stem.split("_")]
    folders = [
        root / part for root in (beside, beside.parent, beside / "images", beside.parent / "images") for part in parts
    ]
    return next((folder for folder in folders if any(exists(folder / name) for name in names)), beside)
