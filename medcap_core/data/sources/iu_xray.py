"""IU X-Ray as published with two tables, `indiana_reports.csv` and `indiana_projections.csv`, joined by `uid`."""

from pathlib import Path

from medcap_core.data.sources.image_index import fold_name, index_images
from medcap_core.data.sources.reading import Reading
from medcap_core.data.sources.rows import read_rows
from medcap_core.data.sources.tables import require_columns
from medcap_core.errors import DataFault

_REPORTS, _PROJECTIONS = "indiana_reports.csv", "indiana_projections.csv"
_FRONTAL = "frontal"


def is_iu_xray(path: Path) -> bool:
    """Check for a folder with either of the two tables, or one of them."""
    if path.is_file():
        return path.name in (_REPORTS, _PROJECTIONS)
    return any((path / name).is_file() for name in (_REPORTS, _PROJECTIONS))


def read_iu_xray(path: Path) -> Reading:
    """Read the frontal images; the caption joins findings and impression, the case is the study's `uid`.

    Images are sought beside the tables and in folders up to three levels below, archives left out. The tables name no
    splits. Raises DataFault where a table or a column is missing.
    """
    folder = path.parent if path.is_file() else path
    missing = [name for name in (_REPORTS, _PROJECTIONS) if not (folder / name).is_file()]
    if missing:
        raise DataFault(f"{folder / missing[0]} is missing: IU X-Ray needs {_REPORTS} and {_PROJECTIONS} together.")
    reports, projections = read_rows(folder / _REPORTS), read_rows(folder / _PROJECTIONS)
    report_uid, findings, impression = require_columns(
        reports, {"study": ("uid",), "findings": ("findings",), "impression": ("impression",)}
    )
    uid, filename, projection = require_columns(
        projections, {"study": ("uid",), "image": ("filename",), "projection": ("projection",)}
    )
    texts = {
        row.text(report_uid).strip(): " ".join(filter(None, (row.text(findings).strip(), row.text(impression).strip())))
        for row in reports.rows
    }
    frontal = [row for row in projections.rows if row.text(projection).strip().lower() == _FRONTAL]
    images = index_images(entry for entry in (folder, *sorted(folder.glob("*/*"))) if entry.is_dir())
    reading = Reading()
    for row in frontal:
        name, case = row.text(filename).strip(), row.text(uid).strip()
        found = images.get(fold_name(name), f"image '{name}' not found in {folder}")
        if case not in texts:
            found = f"study '{case}' is not in {_REPORTS}"
        reading.add_found("train", name, found, texts.get(case, ""), case)
    seen = {row.text(uid).strip() for row in frontal}
    reading.notes.append(
        f"{len(projections.rows) - len(frontal):,} lateral images were not used; "
        f"{len(texts.keys() - seen):,} studies have no frontal image."
    )
    return reading
