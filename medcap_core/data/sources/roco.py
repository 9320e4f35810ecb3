"""ROCO: version 1 in its original layout (github razorx89/roco-dataset) and repacked with CSV files, and version 2.

ROCOv2 is read as published on Zenodo (record 10821435): `<split>_captions.csv` beside folders or archives of images.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap_core.data.records import SPLITS, SplitName
from medcap_core.data.sources.image_index import fold_name, index_images
from medcap_core.data.sources.reading import SPLIT_SPELLINGS, Reading
from medcap_core.data.sources.rows import read_rows
from medcap_core.data.sources.tables import find_column, require_columns
from medcap_core.errors import DataFault

_PMC_ID = re.compile(r"PMC\d+")
_DOI = re.compile(r"\b10\.\d{4,9}/\S+")
_CLASS = "radiology"  # the other class, non-radiology, is never read


def read_roco(folder: Path) -> Reading:
    """Read the original layout, `<split>/radiology/captions.txt` with `images/` beside it.

    An image is `images/<ROCO id>.jpg`, or `<PMC id>_<file>` as named by the data set's download script, looked up in
    `dlinks.txt` and `licences.txt`; the article, `<PMC id>`, is the case. `cuis.txt` becomes `truth["concepts"]`. Many
    images can no longer be downloaded: their records are skipped. Raises DataFault where `images/` is missing.
    """
    reading = Reading()
    files = find_captions(folder)
    _require_image_folders([captions.parent for captions in files.values()])
    for split, captions in files.items():
        parent = captions.parent
        images, stored_names = index_images([parent / "images"]), _read_stored_names(parent)
        cells = (line.split("\t") for line in _read_lines(parent / "cuis.txt"))
        concepts = {name.strip(): [cui.strip() for cui in cuis if cui.strip()] for name, *cuis in cells}
        reading.splits.setdefault(split, [])
        for number, line in enumerate(_read_lines(captions), start=1):
            record_id, tab, caption = line.partition("\t")
            if not tab:
                reading.skip(split, f"{captions.name} line {number}", "no tab between id and caption")
                continue
            record_id = record_id.strip()
            stored_name = stored_names.get(record_id, "")
            image = images.get(fold_name(record_id)) or images.get(fold_name(stored_name))
            truth = {"concepts": concepts[record_id]} if record_id in concepts else {}
            found = image or f"image file not found in {parent / 'images'}"
            reading.add_found(split, record_id, found, caption, _find_article(stored_name), truth)
    return reading


def read_repacked_roco(folder: Path) -> Reading:
    """Read the repacked layout: a CSV `id,name,caption` for each split, images at `<split>/radiology/images/<name>`.

    The CSV is `<split>/radiologytraindata.csv` or `<split>/radiology/traindata.csv` (`valdata`, `testdata`). Raises
    DataFault where the image folder is missing.
    """
    reading = Reading()
    tables = find_tables(folder)
    folders = [path.parent if path.parent.name == _CLASS else path.parent / _CLASS for path in tables.values()]
    _require_image_folders(folders)
    for (split, path), parent in zip(tables.items(), folders, strict=True):
        images, table = index_images([parent / "images"]), read_rows(path)
        wanted = {"id": ("id",), "image": ("name",), "caption": ("caption",)}
        id_column, name_column, caption_column = require_columns(table, wanted)
        reading.splits.setdefault(split, [])
        for row in table.rows:
            record_id, name = row.text(id_column).strip(), row.text(name_column).strip()
            found = row.fault or images.get(fold_name(name), f"image file '{name}' not found in {parent / 'images'}")
            reading.add_found(split, record_id, found, row.text(caption_column), _find_article(name))
    return reading


def find_rocov2(folder: Path) -> dict[SplitName, Path]:
    """Find `<split>_captions.csv` in `folder`, by split."""
    return _find_by_split((folder,), "{0}_captions.csv")


def read_rocov2(folder: Path) -> Reading:
    """Read every split that has a captions file.

    Images are `<ID>.jpg` in `<split>_images/` or `<split>/` (or a folder inside these), or in `<split>_images.zip`.
    `<split>_concepts.csv` becomes `truth["concepts"]`, a list of UMLS CUIs, and `cui_mapping.csv`
    `truth["concept_names"]`, their names by CUI. The article in an image's row of `license_information.csv` (a PMC id,
    else a DOI) is its case. Raises DataFault where a split has captions but no images.
    """
    reading = Reading()
    faults = []
    for split, captions in find_rocov2(folder).items():
        prefix = captions.name.removesuffix("_captions.csv")
        names = (f"{prefix}_images", prefix)
        folders = [folder / name for name in names if (folder / name).is_dir()]
        archives = [folder / f"{name}.zip" for name in names if (folder / f"{name}.zip").is_file()]
        if folders or archives:
            _read_split(reading, split, captions, (folders, archives))
        else:
            faults.append(
                f"{captions} has no images beside it: looked for {prefix}_images/, {prefix}/ and {prefix}_images.zip "
                f"in {folder}; add the images or move the captions file away."
            )
    if faults:
        raise DataFault(faults)
    return reading


def _read_split(reading: Reading, split: SplitName, captions: Path, sources: tuple[list[Path], list[Path]]) -> None:
    images = index_images(*sources)
    searched = ", ".join(path.name for path in itertools.chain(*sources))
    concepts_file = captions.with_name(captions.name.replace("_captions", "_concepts"))
    cuis = _read_pairs(concepts_file, {"id": ("id",), "CUIs": ("cuis", "cui")})
    concepts = {name: [cui.strip() for cui in text.split(";") if cui.strip()] for name, text in cuis.items()}
    articles = _read_articles(captions.with_name("license_information.csv"))
    mapping_columns = {"CUI": ("cui",), "name": ("canonical name", "name")}
    names = _read_pairs(captions.with_name("cui_mapping.csv"), mapping_columns)
    table = read_rows(captions)
    id_column, caption_column = require_columns(table, {"id": ("id",), "caption": ("caption",)})
    reading.splits.setdefault(split, [])
    for row in table.rows:
        record_id = row.text(id_column).strip()
        truth: dict[str, Any] = {}
        if record_id in concepts:
            truth["concepts"] = concepts[record_id]
            known = {concept: names[concept] for concept in concepts[record_id] if concept in names}
            truth |= {"concept_names": known} if known else {}
        found = row.fault or images.get(fold_name(record_id), f"no image of that name in {searched}")
        reading.add_found(split, record_id, found, row.text(caption_column), articles.get(record_id), truth)


def _find_article(text: str) -> str | None:
    """Find the PMC id of an article in the name of one of its files or in an address."""
    match = _PMC_ID.search(text)
    return match[0] if match else None


def find_captions(folder: Path) -> dict[SplitName, Path]:
    """Find `<split>/radiology/captions.txt` in `folder`, its `data/` or its `all_data/`, by split."""
    return _find_by_split((folder, folder / "data", folder / "all_data"), f"{{0}}/{_CLASS}/captions.txt")


def find_tables(folder: Path) -> dict[SplitName, Path]:
    """Find `<split>/radiology<split>data.csv` in `folder` or its `all_data/`, by split."""
    names = f"{{0}}/{_CLASS}{{1}}data.csv", f"{{0}}/{_CLASS}/{{1}}data.csv"
    return _find_by_split((folder / "all_data", folder), *names)


def _find_by_split(roots: Sequence[Path], *patterns: str) -> dict[SplitName, Path]:
    """Find a file of each split, in the first root that has one; a pattern takes any two spellings of the split."""
    for root in roots:
        found: dict[SplitName, Path] = {}
        for split in SPLITS:
            for spellings in itertools.product(SPLIT_SPELLINGS[split], repeat=2):
                for path in (root / pattern.format(*spellings) for pattern in patterns):
                    if path.is_file():
                        found.setdefault(split, path)
        if found:
            return found
    return {}


def _require_image_folders(folders: list[Path]) -> None:
    missing = [folder for folder in folders if not (folder / "images").is_dir()]
    if missing:
        raise DataFault(
            f"{folder} has captions but no folder images/: download the images into it." for folder in missing
        )


def _read_stored_names(folder: Path) -> dict[str, str]:
    """Read the file name by ROCO id, `<PMC id>_<file name>` as in the data set's `fetch.py`."""
    names = _read_pairs(folder / "licences.txt", {"id": ("roco_id",), "image": ("pmc_id",)})
    for line in _read_lines(folder / "dlinks.txt"):
        cells = line.split("\t")
        if len(cells) == 3 and ".tar.gz" in cells[1]:
            pmc_id = cells[1].partition(".tar.gz")[0].rpartition("/")[2]
            names[cells[0].strip()] = f"{pmc_id}_{cells[2].strip()}"
    return names


def _read_lines(path: Path) -> list[str]:
    """Read the lines, split at line feeds alone since captions hold other line breaks; empty without the file."""
    if not path.is_file():
        return []
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFault(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from error
    return [line for line in content.split("\n") if line.strip()]


def _read_articles(path: Path) -> dict[str, str]:
    """Read the article by image id, from any cell of its row; empty without the file or its ids."""
    table = read_rows(path) if path.is_file() else None
    id_column = find_column(table.columns, ("id", "image_id")) if table else None
    if table is None or id_column is None:
        return {}
    articles = {}
    for row in table.rows:
        cells = [row.text(column) for column in table.columns if column != id_column]
        dois = [match[0].rstrip(".,;)").lower() for cell in cells if (match := _DOI.search(cell))]
        article = next(filter(None, [*map(_find_article, cells), *dois]), None)
        if article:
            articles[row.text(id_column).strip()] = article
    return articles


def _read_pairs(path: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Read one column by another, given their accepted names; empty without the file."""
    if not path.is_file():
        return {}
    table = read_rows(path)
    key, value = require_columns(table, wanted)
    return {row.text(key).strip(): row.text(value).strip() for row in table.rows}
