"""The report of a run: `report.html`, `report.md` and `tables/*.csv`.

python -m sweep.report RUN_DIR
python -m sweep.report RUN_DIR --every 60

A run writes it at its end; this makes it anew, also while the run goes on, whose lock and files it leaves alone.
"""

import sys
import time
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
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Write it every so many seconds until the run ends; an open page loads itself anew."),
    ] = None,
) -> None:
    """Write report.html, report.md and tables/*.csv of a run, also while it goes on."""
    set_environment(None)
    with exit_on_fault():
        from rich.console import Console

        from medcap_core.runtime.libraries import set_up_libraries
        from sweep.study.results import RunStatus, load_results

        set_up_libraries()
        goes_on = True
        while goes_on:
            directory = find_run(run)
            goes_on = every is not None and load_results(directory).status is RunStatus.RUNNING
            with Console(stderr=True).status("Writing the report") as status:
                path = write_report(
                    directory,
                    out=out,
                    with_images=images,
                    refresh_seconds=every if goes_on else None,
                    progress=lambda what, done, total: status.update(f"{what.capitalize()}: {done} of {total}"),
                )
            if goes_on and every is not None:
                time.sleep(every)
    sys.stdout.write(f"Report  {path}\n")


if __name__ == "__main__":
    app()
