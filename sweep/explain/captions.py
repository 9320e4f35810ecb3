"""Explain captions of images."""

from dataclasses import replace

import numpy as np
from PIL import Image

from medcap_core.attention.explained import ExplainedText, WordMap, find_peak
from medcap_core.attention.pointing import Box, find_finding_words, is_inside
from medcap_core.data.images import decode_rgb
from medcap_core.data.phantoms import PhantomImage
from sweep.explain.sheet import Panel, Sheet, View
from sweep.explain.task import Item, Task, build_title, is_synthetic
from sweep.study.attention import PictureEntry, WordEntry

_IMAGE_PIXELS = 560


class CaptionTask(Task):
    """The caption of each image; on phantoms with the finding's box and the words that name it."""

    noun = "captions"

    def describe(self, item: Item, explained: ExplainedText, file: str, maps: str) -> PictureEntry:
        """See `Task.describe`; peaks are shares of the image's width and height."""
        box, named = _find_box(item), _find_named(item, explained)
        words = []
        for index, word in enumerate(explained.words):
            peak = find_peak(word.map)
            in_box = None if box is None else is_inside(peak, box)
            words.append(WordEntry(text=word.text, peak=peak, names_finding=index in named, peak_in_box=in_box))
        noun = "Synthetic image" if is_synthetic(item) else "Image"
        return PictureEntry(
            image_id=item.record.id,
            kind=item.kind,
            caption=explained.text,
            reference=item.reference,
            cider=item.cider,
            is_synthetic=is_synthetic(item),
            box=box,
            words=words,
            alt=f'{noun} {item.record.id} with the caption "{explained.text}" and, for each of its {len(words)} words, '
            "a heat map of where the model looked.",
            file=file,
            maps=maps,
        )

    def lay_out(self, item: Item, explained: ExplainedText) -> Sheet:
        """See `Task.lay_out`."""
        image = decode_rgb(item.record.image)
        image.thumbnail((_IMAGE_PIXELS, _IMAGE_PIXELS), Image.Resampling.BICUBIC)
        plain = View(np.asarray(image), box=_find_box(item))
        named = _find_named(item, explained)
        legend = [self.describe_maps(explained)]
        if plain.box is not None:
            legend.append("Blue box: where the finding was drawn.")
        if named:
            legend.append("Bold: words that name a finding; ring: where their map is strongest.")
        heading = "Caption by the model"
        if item.cider is not None:
            among = f", among the {item.kind}" if item.kind in ("best", "worst") else ""
            heading += f" (CIDEr {item.cider:.2f}{among})"
        texts = [] if item.reference is None else [("Reference caption", item.reference)]

        def build_panel(word: WordMap, *, is_named: bool) -> Panel:
            view = replace(plain, heat=word.map, box=None)
            if is_named:
                x, y = find_peak(word.map)
                view = replace(view, box=plain.box, ring=(x, y))
            return Panel(word.text, [view], float(word.map.max()), is_bold=is_named)

        panels = [build_panel(word, is_named=index in named) for index, word in enumerate(explained.words)]
        return Sheet(build_title(item), plain, [*texts, (heading, explained.text)], legend, [("Word by word", panels)])


def _find_box(item: Item) -> Box | None:
    """Find where a phantom's finding was drawn; None for other images and where nothing is wrong."""
    box: Box | None = item.record.truth["box"] if isinstance(item.record.image, PhantomImage) else None
    return box


def _find_named(item: Item, explained: ExplainedText) -> set[int]:
    """Find the words that name a finding, on phantoms."""
    if not isinstance(item.record.image, PhantomImage):
        return set()
    return set(find_finding_words([word.text for word in explained.words]))
