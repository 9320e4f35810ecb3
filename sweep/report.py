"""The report of a run: `report.html`, `report.md` and `tables/*.csv`.

python -m sweep.report RUN_DIR

A run writes it at its end; this makes it anew, also while the run goes on, whose lock and files it leaves alone.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from medcap_core.command_line import told_in_sentences
from medcap_core.errors import RunFault
from medcap_core.files import replace_durably
from sweep.environment import set_environment

WHAT = "writing the report"

Progress = Callable[[str, int, int], None]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def write_report(
    directory: Path, *, out: Path | None = None, with_images: bool = True, progress: Progress | None = None
) -> Path:
    """Write the report of the run in `directory`, into it or into the folder `out`; returns the path of the page.

    Reads the run as it stands and takes no lock. Raises RunFault if `directory` is no run or `out` cannot be written.
    """
    import optuna

    from sweep.report_blocks import format_csv_table
    from sweep.report_markdown import format_markdown
    from sweep.report_page import render_page
    from sweep.report_sections import NUM_STEPS, build_report
    from sweep.results import load_results

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(WHAT, done, NUM_STEPS + 1)

    if progress is not None:
        progress(WHAT, 0, NUM_STEPS + 1)
    report = build_report(load_results(directory), with_images=with_images, step=step)
    folder = out or directory
    try:
        (folder / "tables").mkdir(parents=True, exist_ok=True)
        for table in report.tables:
            _write(folder / "tables" / f"{table.name}.csv", format_csv_table(table))
        _write(folder / "report.md", format_markdown(report))
        _write(folder / "report.html", render_page(report))
    except OSError as error:
        raise RunFault(
            f"{folder}: the report cannot be written ({error.strerror}); free some space or choose another folder by "
            f"python -m sweep.report {directory} --out DIR."
        ) from None
    step()
    return folder / "report.html"


def _write(path: Path, text: str) -> None:
    """Replace `path` in one step; two processes that report on one run at once do not mix their files."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        replace_durably(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory, such as runs/lora-001.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default: the run directory.")] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Embed images of the test split.")] = True,
) -> None:
    """Write report.html, report.md and tables/*.csv of a run, also while it goes on."""
    set_environment(None)
    with told_in_sentences():
        from rich.console import Console

        from medcap_core.libraries import set_up_libraries

        set_up_libraries()
        with Console(stderr=True).status("Writing the report") as status:
            path = write_report(
                directory,
                out=out,
                with_images=images,
                progress=lambda what, done, total: status.update(f"{what.capitalize()}: {done} of {total}"),
            )
    sys.stdout.write(f"Report  {path}\n")


if __name__ == "__main__":
    app()
