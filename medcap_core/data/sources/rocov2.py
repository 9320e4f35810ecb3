"""ROCOv2 as published on Zenodo (record 10821435): `<split>_captions.csv` beside folders or archives of images."""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap_core.data.records import SPLITS, SplitName
from medcap_core.data.sources.image_index import fold_name, index_images
from medcap_core.data.sources.reading import SPLIT_SPELLINGS, Reading
from medcap_core.data.sources.roco import find_article
from medcap_core.data.sources.rows import read_rows
from medcap_core.data.sources.tables import find_column, require_columns
from medcap_core.errors import DataFault

_DOI = re.compile(r"\b10\.\d{4,9}/\S+")


def is_rocov2(folder: Path) -> bool:
    """Check for a `<split>_captions.csv` in `folder`."""
    return any(_find_captions(folder, split) for split in SPLITS)


def read_rocov2(folder: Path) -> Reading:
    """Read every split that has a captions file.

    Images are `<ID>.jpg` in `<split>_images/` or `<split>/` (or a folder inside these), or in `<split>_images.zip`.
    `<split>_concepts.csv` becomes `truth["concepts"]`, a list of UMLS CUIs, and `cui_mapping.csv`
    `truth["concept_names"]`, their names by CUI. The article in an image's row of `license_information.csv` (a PMC id,
    else a DOI) is its case. Raises DataFault where a split has captions but no images.
    """
    reading = Reading()
    faults = []
    for split in SPLITS:
        found = _find_captions(folder, split)
        if found is None:
            continue
        captions, prefix = found
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


def _find_captions(folder: Path, split: SplitName) -> tuple[Path, str] | None:
    """Find the captions file of a split, and the spelling of the split in its name."""
    for prefix in SPLIT_SPELLINGS[split]:
        path = folder / f"{prefix}_captions.csv"
        if path.is_file():
            return path, prefix
    return None


def _read_split(reading: Reading, split: SplitName, captions: Path, sources: tuple[list[Path], list[Path]]) -> None:
    images = index_images(*sources)
    searched = ", ".join(path.name for path in itertools.chain(*sources))
    cuis = _read_pairs(
        captions.with_name(captions.name.replace("_captions", "_concepts")), {"id": ("id",), "CUIs": ("cuis", "cui")}
    )
    concepts = {name: [cui.strip() for cui in text.split(";") if cui.strip()] for name, text in cuis.items()}
    articles = _read_articles(captions.with_name("license_information.csv"))
    wanted = {"CUI": ("cui",), "name": ("canonical name", "name")}
    names = _read_pairs(captions.with_name("cui_mapping.csv"), wanted)
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


def _read_articles(path: Path) -> dict[str, str]:
    """Read the article by image id, from any cell of its row; empty without the file or its ids."""
    if not path.is_file():
        return {}
    table = read_rows(path)
    id_column = find_column(table.columns, ("id", "image_id"))
    if id_column is None:
        return {}
    articles = {}
    for row in table.rows:
        cells = [row.text(column) for column in table.columns if column != id_column]
        dois = [match[0].rstrip(".,;)").lower() for cell in cells if (match := _DOI.search(cell))]
        article = next(filter(None, [*map(find_article, cells), *dois]), None)
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
