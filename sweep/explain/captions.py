"""Draw where a model looks as it writes captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcap_core.attention.maps import (
    DEFAULT_WAY,
    AttentionWay,
    ExplainedCaption,
    count_layers,
    explain_captions,
)
from medcap_core.attention.pointing import find_finding_words, is_inside
from medcap_core.data.images import decode_rgb
from medcap_core.data.phantoms import PhantomImage
from medcap_core.errors import ConfigFault
from medcap_core.models.medblip3d.captioner import MedBlip3dCaptioner
from medcap_core.runtime.progress import Progress, ignore_progress
from sweep.explain.answers import write_volume_pictures
from sweep.explain.chosen import (
    ChosenImage,
    ExplainedRun,
    choose_images,
    load_explained_run,
    make_output_folder,
    read_given_images,
)
from sweep.explain.files import AttentionPicture, describe_run, list_earlier, save_picture, slug, write_index
from sweep.explain.sheet import Sheet, draw_sheet


def write_attention_pictures(
    run_directory: Path,
    *,
    images: Sequence[str] = (),
    questions: Sequence[str] = (),
    num: int = 8,
    way: AttentionWay = DEFAULT_WAY,
    out: Path | None = None,
    model: str | None = None,
    progress: Progress = ignore_progress,
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
