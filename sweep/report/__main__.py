"""The report of a run: `report.html`, `report.md` and `tables/*.csv`.

python -m sweep.report RUN_DIR

A run writes it at its end; this makes it anew, also while the run goes on, whose lock and files it leaves alone.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from medcap_core.runtime.command_line import exit_on_fault
from sweep.process.environment import set_environment
from sweep.report.writing import write_report
from sweep.study.mirror import find_run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def report(
    run: Annotated[str, typer.Argument(metavar="RUN_DIR", help="A run directory, such as runs/lora-001, or its URL.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default: the run directory.")] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Embed images of the test split.")] = True,
) -> None:
    """Write report.html, report.md and tables/*.csv of a run, also while it goes on."""
    set_environment(None)
    with exit_on_fault():
        from rich.console import Console

        from medcap_core.runtime.libraries import set_up_libraries

        set_up_libraries()
        with Console(stderr=True).status("Writing the report") as status:
            path = write_report(
                find_run(run),
                out=out,
                with_images=images,
                progress=lambda what, done, total: status.update(f"{what.capitalize()}: {done} of {total}"),
            )
    sys.stdout.write(f"Report  {path}\n")


if __name__ == "__main__":
    app()
