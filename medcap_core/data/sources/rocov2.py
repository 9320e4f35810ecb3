"""ROCOv2 as published on Zenodo (record 10821435): `<split>_captions.csv` beside folders or archives of images."""

from pathlib import Path
from typing import Any

from medcap_core.data.records import SPLITS, Record, SplitName
from medcap_core.data.sources.image_index import index_images
from medcap_core.data.sources.reading import SPLIT_SPELLINGS, Reading
from medcap_core.data.sources.tables import read_rows, require_columns
from medcap_core.errors import DataFault


def is_rocov2(folder: Path) -> bool:
    """Check for a `<split>_captions.csv` in `folder`."""
    return any(_find_captions(folder, split) for split in SPLITS)


def read_rocov2(folder: Path) -> Reading:
    """Read every split that has a captions file.

    Images are `<ID>.jpg` in `<split>_images/` or `<split>/` (or a folder inside these), or in `<split>_images.zip`.
    `<split>_concepts.csv` becomes `truth["concepts"]`, a list of UMLS CUIs, and `cui_mapping.csv`
    `truth["concept_names"]`, their names by CUI. Raises DataFault where a split has captions but no images.
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
    concepts = _read_concepts(captions.with_name(captions.name.replace("_captions", "_concepts")))
    names = _read_concept_names(captions.with_name("cui_mapping.csv"))
    table = read_rows(captions)
    id_column, caption_column = require_columns(table, {"id": ("id",), "caption": ("caption",)})
    reading.splits.setdefault(split, [])
    for row in table.rows:
        record_id = row.text(id_column).strip()
        image = images.find(record_id)
        truth: dict[str, Any] = {}
        if record_id in concepts:
            truth["concepts"] = concepts[record_id]
            known = {concept: names[concept] for concept in concepts[record_id] if concept in names}
            truth |= {"concept_names": known} if known else {}
        if row.fault:
            reading.skip(split, record_id, row.fault)
        elif image is None:
            searched = ", ".join(path.name for path in (*sources[0], *sources[1]))
            reading.skip(split, record_id, f"no image of that name in {searched}")
        else:
            reading.add(split, Record(id=record_id, image=image, caption=row.text(caption_column), truth=truth))


def _read_concepts(path: Path) -> dict[str, list[str]]:
    """Read CUIs by image id from a `*_concepts.csv` (header `ID,CUIs`, joined by `;`); empty without the file."""
    if not path.is_file():
        return {}
    table = read_rows(path)
    id_column, cuis_column = require_columns(table, {"id": ("id",), "CUIs": ("cuis", "cui")})
    return {
        row.text(id_column).strip(): [cui.strip() for cui in row.text(cuis_column).split(";") if cui.strip()]
        for row in table.rows
    }


def _read_concept_names(path: Path) -> dict[str, str]:
    """Read names by CUI from `cui_mapping.csv` (header `CUI,Canonical name`); empty without the file."""
    if not path.is_file():
        return {}
    table = read_rows(path)
    cui_column, name_column = require_columns(table, {"CUI": ("cui",), "name": ("canonical name", "name")})
    return {row.text(cui_column).strip(): row.text(name_column).strip() for row in table.rows}
