"""See what the model sees: attention pictures of a run's captions and, on phantoms, how well the maps point.

python -m sweep.explain runs/lora-001
python -m sweep.explain runs/lora-001 --image scan.png --method gradient --layer 2
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medcap_core.attention import (
    DEFAULT_WAY,
    AttentionMethod,
    AttentionWay,
    ExplainedCaption,
    count_layers,
    explain_captions,
)
from medcap_core.command_line import told_in_sentences
from medcap_core.data.images import decode_rgb
from medcap_core.data.phantoms import PhantomImage
from medcap_core.errors import ConfigFault
from medcap_core.evaluation import OnProgress, ignore_progress
from medcap_core.libraries import set_up_libraries
from medcap_core.models.medblip3d import MedBlip3dCaptioner
from medcap_core.pointing_game import find_finding_words, is_inside
from sweep.attention_files import (
    AttentionPicture,
    describe_run,
    list_earlier,
    read_attention_pictures,
    save_picture,
    slug,
    write_index,
)
from sweep.attention_sheet import Sheet, draw_sheet
from sweep.environment import set_environment
from sweep.explained_run import (
    ChosenImage,
    ExplainedRun,
    choose_images,
    load_explained_run,
    make_output_folder,
    read_given_images,
)
from sweep.pointing import compare_ways, describe_comparison, write_pointing_game
from sweep.run_directory import show_path
from sweep.volume_pictures import write_volume_pictures

__all__ = ["AttentionPicture", "read_attention_pictures", "write_attention_pictures"]

_SECONDS_BETWEEN_LINES = 10.0


def write_attention_pictures(
    run_directory: Path,
    *,
    images: Sequence[str] = (),
    questions: Sequence[str] = (),
    num: int = 8,
    way: AttentionWay = DEFAULT_WAY,
    out: Path | None = None,
    model: str | None = None,
    progress: OnProgress = ignore_progress,
) -> list[AttentionPicture]:
    """Caption images of a finished run, and draw where the model looked for each word.

    `images` are paths or ids of the run's test split; without them `num` test images are taken, the best, the worst
    and random ones by the run's test predictions. `out` is by default `run_directory/attention`; pictures of an earlier
    call there are replaced. Beside the pictures lie `attention.json` (captions, words, peaks) and `attention.npz`
    (maps). For a model of volumes see `write_volume_pictures`; `questions` are for these. Raises UserFault.
    """
    run = load_explained_run(run_directory, model)
    folder = make_output_folder(run_directory, out)
    if isinstance(run.captioner, MedBlip3dCaptioner):
        return write_volume_pictures(
            run, folder, images=images, questions=questions, num=num, way=way, progress=progress
        )
    if questions:
        raise ConfigFault("--question is for models that answer questions on scans; leave it out.")
    chosen = read_given_images(run, list(images), progress) if images else choose_images(run, num, progress)
    pixels = np.stack([image.pixels for image in chosen])
    explained = explain_captions(
        run.captioner, pixels, run.config, [way], lambda done, total: progress("explaining captions", done, total)
    )[way]
    earlier = list_earlier(folder)
    num_layers = count_layers(run.captioner, pixels, run.config)
    entries, maps = [], {}
    for index, (image, caption) in enumerate(zip(chosen, explained, strict=True)):
        entry = _describe(image, caption)
        entry |= {"file": f"{index + 1:02d}-{image.kind}-{slug(image.record.id)}.png", "maps": f"maps_{index:03d}"}
        maps[entry["maps"]] = np.stack([word.map for word in caption.words]) if caption.words else np.zeros((0, 1, 1))
        sheet = _build_sheet(run, image, caption, way, num_layers, entry)
        save_picture(draw_sheet(sheet), folder / entry["file"])
        entries.append(entry)
        progress("drawing pictures", index + 1, len(chosen))
    return write_index(folder, describe_run(run, way, num_layers), entries, maps, earlier)


def _describe(image: ChosenImage, explained: ExplainedCaption) -> dict[str, Any]:
    """What `attention.json` says of one image, but for its files."""
    record = image.record
    is_synthetic = isinstance(record.image, PhantomImage)
    box = record.truth["box"] if isinstance(record.image, PhantomImage) else None
    named = set()
    if isinstance(record.image, PhantomImage):
        named = set(find_finding_words([word.text for word in explained.words]))
    words = [
        {
            "text": word.text,
            "peak": list(word.peak),
            "names_finding": index in named,
            "peak_in_box": None if box is None else is_inside(word.peak, box),
        }
        for index, word in enumerate(explained.words)
    ]
    return {
        "image_id": record.id,
        "kind": image.kind,
        "caption": explained.caption,
        "reference": image.reference,
        "cider": image.cider,
        "is_synthetic": is_synthetic,
        "box": None if box is None else list(box),
        "words": words,
        "alt": f'{"Synthetic image" if is_synthetic else "Image"} {record.id} with the caption "{explained.caption}" '
        f"and, for each of its {len(words)} words, a heat map of where the model looked.",
    }


def _build_sheet(
    run: ExplainedRun,
    image: ChosenImage,
    explained: ExplainedCaption,
    way: AttentionWay,
    num_layers: int,
    entry: dict[str, Any],
) -> Sheet:
    rows, columns = explained.words[0].map.shape if explained.words else (1, 1)
    layer = f"mean of {num_layers} layers" if way.layer is None else f"layer {way.layer} of {num_layers}"
    legend = [
        f"Model {run.model_name}; method {way.method.value}, {layer}, {rows}×{columns} patches. Each word has its own "
        f"scale; in the corner, its strongest patch's share ({1 / (rows * columns):.1%} if spread evenly)."
    ]
    marked = frozenset(index for index, word in enumerate(entry["words"]) if word["names_finding"])
    if entry["box"] is not None:
        legend.append("Blue box: where the finding was drawn.")
    if marked:
        legend.append("Bold: words that name a finding; ring: where their map is strongest.")
    title = f"{image.record.id} · synthetic data, no patient" if entry["is_synthetic"] else image.record.id
    caption_name = "Caption by the model"
    if image.cider is not None:
        caption_name += f" (CIDEr {image.cider:.2f}" + {"best": ", among the best)", "worst": ", among the worst)"}.get(
            image.kind, ")"
        )
    texts = [(caption_name, explained.caption)]
    if image.reference is not None:
        texts.insert(0, ("Reference caption", image.reference))
    return Sheet(
        image=decode_rgb(image.record.image),
        title=title,
        texts=texts,
        words=explained.words,
        legend=legend,
        box=entry["box"],
        marked=marked,
    )


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def explain(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a finished run.")],
    image: Annotated[list[str] | None, typer.Option(help="Image or scan, or an id of the run's test split.")] = None,
    question: Annotated[
        list[str] | None, typer.Option(help="Asked of each scan instead of its own questions; models of scans only.")
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="Test images to draw where no --image is given.")] = 8,
    layer: Annotated[str, typer.Option(help="Decoder layer, from 1, or mean of all.")] = DEFAULT_WAY.layer_name,
    method: Annotated[AttentionMethod, typer.Option(help="How attention becomes a map.")] = DEFAULT_WAY.method,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures; default: RUN_DIR/attention.")] = None,
    model: Annotated[str | None, typer.Option(help="Another model on the run's data: a name or a folder.")] = None,
    pointing_images: Annotated[
        int | None, typer.Option(min=2, help="Test images in the pointing game; default: all.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Only: the pointing game for each method and layer, on validation.")
    ] = False,
) -> None:
    """Draw where a run's model looked when it wrote each word; on phantoms, also score it by the pointing game."""
    set_environment(None)
    set_up_libraries()
    console = Console()
    with told_in_sentences():
        way = AttentionWay(method, _parse_layer(layer))
        with _show_progress() as progress:
            pictures, outcome = [], None
            if compare:
                outcome = describe_comparison(compare_ways(run_directory, model=model, out=out, progress=progress))
            else:
                pictures = write_attention_pictures(
                    run_directory,
                    images=image or (),
                    questions=question or (),
                    num=num,
                    way=way,
                    out=out,
                    model=model,
                    progress=progress,
                )
            if not compare and not image and not question:
                outcome = write_pointing_game(
                    run_directory, way=way, num_images=pointing_images, out=out, model=model, progress=progress
                )
        for picture in pictures:
            console.print(
                f"{show_path(picture.path)}  {picture.caption}", soft_wrap=True, highlight=False, markup=False
            )
        if outcome is not None:
            console.print(outcome, soft_wrap=True, highlight=False, markup=False)


def _parse_layer(text: str) -> int | None:
    if text == "mean":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ConfigFault(f"--layer {text}: give a number from 1, or mean.")
    return int(text)


@contextmanager
def _show_progress() -> Iterator[OnProgress]:
    """On standard error, a bar for each step; where that is no terminal, a line every few seconds."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    tasks: dict[str, Any] = {}
    last_line = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def show(what: str, done: int, total: int) -> None:
            nonlocal last_line
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)
            if not console.is_terminal and time.monotonic() - last_line > _SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                sys.stderr.write(f"{what}: {done} of {total}\n")

        yield show


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
