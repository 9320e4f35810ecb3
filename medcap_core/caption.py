"""Caption images or scans with a trained model, or answer questions on scans.

python -m medcap_core.caption IMAGE... --model runs/lora-001/best
python -m medcap_core.caption FOLDER --model runs/lora-001/best --out captions.csv
python -m medcap_core.caption SCAN... --model runs/medblip3d-001/best --question "How large are the ventricles?"
"""

import csv
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from medcap_core.captioning import LoadedCaptioner, answer, load_configured, predict, read_settings
from medcap_core.captioning import caption as generate_captions
from medcap_core.data.records import ImageFile
from medcap_core.data.scans.files import VOLUME_SUFFIXES, holds_dicom
from medcap_core.data.sources.image_index import IMAGE_SUFFIXES, FolderImages
from medcap_core.data.sources.rows import is_table, read_rows
from medcap_core.data.sources.scan_tables import SCAN_COLUMNS
from medcap_core.data.sources.tables import IMAGE_COLUMNS, flatten_columns, require_columns
from medcap_core.errors import DataFault
from medcap_core.models import load_geometry
from medcap_core.runtime.command_line import exit_on_fault
from medcap_core.runtime.files import replace_text, walk_folders
from medcap_core.runtime.libraries import set_up_libraries

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_PROGRESS_SECONDS = 5.0


def list_inputs(path: Path, noun: str) -> list[Path]:
    """List the images or scans of a folder and its direct subfolders, or of a table's column of paths.

    A folder of DICOM slices is one scan. Another path is an image or scan itself. Raises DataFault for a folder without
    any and for a table without the column.
    """
    if path.is_dir():
        found = _list_folder(path, noun)
        if not found:
            raise DataFault(f"{path}: there is no {noun} in this folder or in those in it; name one that has some.")
        return found
    if not is_table(path):
        return [path]
    table = read_rows(path)
    flatten_columns(table)
    (column,) = require_columns(table, {noun: IMAGE_COLUMNS if noun == "image" else SCAN_COLUMNS})
    faults = [f"{path} line {row.line}: {row.fault}; mend it or take it out." for row in table.rows if row.fault]
    faults += [f"{path} line {row.line}: no {noun}." for row in table.rows if not row.fault and not row.text(column)]
    if faults or not table.rows:
        raise DataFault(faults or [f"{path}: the table has no rows."])
    images = FolderImages(path.parent)
    # Of a table of questions each scan once.
    names = dict.fromkeys(row.text(column).strip() for row in table.rows)
    references = [(name, images.find(name) if noun == "image" else None) for name in names]
    return [image.path if isinstance(image, ImageFile) else path.parent / name for name, image in references]


def _list_folder(folder: Path, noun: str) -> list[Path]:
    is_scan = noun == "scan"
    if is_scan and holds_dicom(folder):
        return [folder]
    suffixes = VOLUME_SUFFIXES if is_scan else tuple(f".{suffix}" for suffix in IMAGE_SUFFIXES)
    walked = list(walk_folders(folder, 1))
    named = [parent / name for parent, names in walked for name in names if name.lower().endswith(suffixes)]
    found = [path for path in named if path.is_file()]
    return sorted([*found, *(parent for parent, _ in walked if is_scan and holds_dicom(parent))])


def write_predictions(
    captioner: LoadedCaptioner, paths: Sequence[Path], questions: Sequence[str], out: Path, warn: Callable[[str], None]
) -> int:
    """Write the CSV file `out`, `image,caption` or `scan` and a column for each question, and count the rows.

    The file is written in one step at the end. Files that cannot be read are left out, each named by `warn`, which also
    gets the progress. Raises DataFault where all are bad, and where `out` cannot be written.
    """
    rows: list[list[str]] = []
    faults: list[str] = []
    start = said = time.monotonic()
    for part in predict(captioner, paths, questions):
        faults += part.faults
        for fault in part.faults:
            warn(f"left out: {fault}")
        rows += [[_show(path), *texts] for path, texts in zip(part.inputs, part.texts, strict=True)]
        now = time.monotonic()
        if now - said > _PROGRESS_SECONDS and part.num_done < len(paths):
            left = (now - start) / part.num_done * (len(paths) - part.num_done)
            warn(f"{part.num_done:,} of {len(paths):,} done, about {left:,.0f} s left")
            said = now
    if not rows:
        raise DataFault(faults)
    text = io.StringIO()
    header = [captioner.model.geometry.noun, *(questions or ["caption"])]
    csv.writer(text).writerows([header, *rows])
    try:
        replace_text(out, text.getvalue())
    except OSError as error:
        raise DataFault(f"--out {out}: cannot be written ({error.strerror or error}); choose another.") from None
    return len(rows)


def _check_out(out: Path) -> None:
    """Raise DataFault unless `out` can be written: a file is tried beside it."""
    if (out.exists() and not out.is_file()) or not out.parent.is_dir():
        raise DataFault(f"--out {out}: give a file in a folder that is there.")
    try:
        with tempfile.NamedTemporaryFile(dir=out.parent, prefix=f".{out.name}."):
            pass
    except (OSError, ValueError) as error:  # the latter for a name that is not UTF-8
        why = getattr(error, "strerror", None) or "its name is not UTF-8"
        raise DataFault(f"--out {_show(out)}: cannot be written ({why}); choose another.") from None


def _show(path: object) -> str:
    """Return the path as text, bytes that are not UTF-8 as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


@app.command()
def caption(
    images: Annotated[list[Path], typer.Argument(help="Images or scans, folders or tables of them.")],
    model: Annotated[str, typer.Option(help="A run's best folder, a Hub name or a path.")] = "phantom-blip",
    prompt: Annotated[str | None, typer.Option(help="Text that captions begin with; default: as trained.")] = None,
    beams: Annotated[int | None, typer.Option(min=1, max=16, help="Default: as in the run.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=4, max=512, help="Default: as in the run.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a CSV file; bad images are left out.")] = None,
    question: Annotated[list[str] | None, typer.Option(help="Asked instead of a caption; may be repeated.")] = None,
) -> None:
    """Print one line for each image: its path, a tab, its caption or its answers, with tabs between; or write --out."""
    set_up_libraries()
    with exit_on_fault():
        config = read_settings(model, prompt=prompt, num_beams=beams, max_new_tokens=max_new_tokens)
        if out is not None:
            _check_out(out)
        noun = load_geometry(config).noun
        paths = [found for path in images for found in list_inputs(path, noun)]
        captioner, questions = load_configured(config), question or []
        if out is not None:
            count = write_predictions(captioner, paths, questions, out, lambda line: typer.echo(line, err=True))
            sys.stdout.write(f"{count:,} {'rows of answers' if questions else 'captions'} in {_show(out)}\n")
            return
        texts: Iterable[list[str]]
        if questions:
            texts = answer(captioner, paths, questions)
        else:
            texts = ([text] for text in generate_captions(captioner, paths))
        for path, columns in zip(paths, texts, strict=True):
            sys.stdout.write("\t".join([_show(path), *columns]) + "\n")


if __name__ == "__main__":
    app()
