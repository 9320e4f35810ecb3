"""See what the model sees: attention pictures of a run's captions and, on phantoms, how well the maps point.

python -m sweep.explain runs/lora-001
python -m sweep.explain runs/lora-001 --image scan.png --method gradient --layer 2
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import rich.progress
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from medcap_core.attention.maps import DEFAULT_SETTINGS, AttentionMethod, MapSettings
from medcap_core.errors import ConfigFault
from medcap_core.runtime.command_line import exit_on_fault
from medcap_core.runtime.libraries import set_up_libraries
from medcap_core.runtime.progress import Progress
from sweep.explain.answers import AnswerTask
from sweep.explain.captions import CaptionTask
from sweep.explain.pictures import write_attention_pictures, write_pointing_game
from sweep.explain.task import load_explained_run
from sweep.process.environment import set_environment
from sweep.study.directory import show_path
from sweep.study.mirror import find_run

_SECONDS_BETWEEN_LINES = 10.0

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def explain(
    run_directory: Annotated[str, typer.Argument(metavar="RUN_DIR", help="Directory or URL of a finished run.")],
    image: Annotated[list[str] | None, typer.Option(help="Image or scan, or an id of the run's test split.")] = None,
    question: Annotated[
        list[str] | None, typer.Option(help="Asked of each scan instead of its own questions; models of scans only.")
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="Test images to draw where no --image is given.")] = 8,
    layer: Annotated[str, typer.Option(help="Decoder layer, from 1, or mean of all.")] = DEFAULT_SETTINGS.layer_name,
    method: Annotated[AttentionMethod, typer.Option(help="How attention becomes a map.")] = DEFAULT_SETTINGS.method,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures; default: RUN_DIR/attention.")] = None,
    model: Annotated[str | None, typer.Option(help="Another model on the run's data: a name or a folder.")] = None,
    pointing_images: Annotated[
        int | None, typer.Option(min=2, help="Test images in the pointing game; default: all.")
    ] = None,
) -> None:
    """Draw where a run's model looked when it wrote each word; on phantoms, also score it by the pointing game."""
    set_environment(None)
    set_up_libraries()
    console = Console()
    with exit_on_fault():
        if layer != "mean" and (not layer.isdecimal() or int(layer) == 0):
            raise ConfigFault(f"--layer {layer}: give a number from 1, or mean.")
        settings = MapSettings(method, None if layer == "mean" else int(layer))
        with _show_progress() as progress:
            run = load_explained_run(find_run(run_directory), model)
            if question and not run.captioner.answers_questions:
                raise ConfigFault("--question is for models that answer questions on scans; leave it out.")
            task = (AnswerTask if run.captioner.answers_questions else CaptionTask)(run, settings, question or ())
            folder = out or run.paths.attention
            entries = write_attention_pictures(task, folder, names=image or [], num=num, progress=progress)
            outcome = None
            if not image and not question:
                outcome = write_pointing_game(run, folder, settings, pointing_images, progress)
        lines = [f"{show_path(folder / entry.file)}  {entry.caption}" for entry in entries]
        for line in (*lines, *([outcome] if outcome else [])):
            console.print(line, soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _show_progress() -> Iterator[Progress]:
    """On standard error, a bar for each step; where that is no terminal, a line every few seconds."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    tasks: dict[str, rich.progress.TaskID] = {}
    last_line = time.monotonic()
    with rich.progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def show(what: str, done: int, total: int) -> None:
            nonlocal last_line
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)
            if not console.is_terminal and time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                sys.stderr.write(f"{what}: {done} of {total}\n")

        yield show


if __name__ == "__main__":
    app()
