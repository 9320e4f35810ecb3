"""An explained text: its words, each with a map over the image's patches.

Shape letters: T tokens, Q queries, R rows and C columns of patches, n patches along each axis of a scan.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medcap_core.config import TrialConfig
from medcap_core.data.records import fold_white_space
from medcap_core.models.wordpiece import decode_texts

PEAK_PIXELS = 96
"""Resolution at which the peak of a map over an image is looked for, pixels a side."""

_UNFINISHED = "\ufffd"  # what byte-level tokenizers decode an incomplete letter to


@dataclass(frozen=True)
class WordMap:
    """One whole word and its map: float32 (R, C) over an image or (n, n, n) over a scan, not negative, sum one.

    `queries`, float32 (Q,), is how its attention is shared out among a bridge's queries; None without a bridge.
    """

    text: str
    map: NDArray[np.float32]
    queries: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class ExplainedText:
    """A generated text and its words; punctuation belongs to the word before it.

    `grid` is the shape of a map, and `num_layers` of the decoder attend to the image. `query_maps`, (Q, n, n, n), is
    where each of a bridge's queries looked, each map of sum one; None without a bridge.
    """

    text: str
    words: tuple[WordMap, ...]
    grid: tuple[int, ...]
    num_layers: int
    query_maps: NDArray[np.float32] | None = None

    @property
    def map(self) -> NDArray[np.float32]:
        """The mean of the words' maps; where nothing was written the mean of the queries' maps, or an even map."""
        even = np.full((1, *self.grid), self.even_share, dtype=np.float32)
        unwritten = even if self.query_maps is None else self.query_maps
        mean: NDArray[np.float32] = np.mean([word.map for word in self.words] or unwritten, axis=0)
        return mean

    @property
    def even_share(self) -> float:
        """A patch's share of attention if that is spread evenly."""
        return 1 / math.prod(self.grid)

    @property
    def queries(self) -> NDArray[np.float32]:
        """The mean of the words' shares of the queries (Q,); even where nothing was written."""
        assert self.query_maps is not None
        shares = [word.queries for word in self.words if word.queries is not None]
        even = np.full(len(self.query_maps), 1 / len(self.query_maps), dtype=np.float32)
        mean: NDArray[np.float32] = np.mean(shares or [even], axis=0)
        return mean


def find_peak(values: NDArray[np.float32]) -> tuple[float, ...]:
    """Find where a map is strongest, the first of several such places.

    Over an image (R, C): (x, y) as shares of width and height, of the map as it is drawn. Over a scan (n, n, n): the
    middle of a patch as shares along x, y, z.
    """
    if values.ndim == 2:
        values = enlarge_map(values, (PEAK_PIXELS, PEAK_PIXELS)).T
    place = np.unravel_index(int(values.argmax()), values.shape)
    return tuple((int(index) + 0.5) / side for index, side in zip(place, values.shape, strict=True))


def enlarge_map(
    values: NDArray[np.float32], size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BICUBIC
) -> NDArray[np.float32]:
    """Draw a map (R, C) at (width, height) pixels: float32 (height, width), not negative."""
    smooth = Image.fromarray(np.ascontiguousarray(values)).resize(size, resample)
    enlarged: NDArray[np.float32] = np.maximum(np.asarray(smooth), 0)
    return enlarged


def join_words(
    tokenizer: Any, ids: Sequence[int], num_given: int, maps: NDArray[np.float32], config: TrialConfig
) -> tuple[str, tuple[WordMap, ...]]:
    """Join the tokens `ids` (T) after the `num_given` of the prompt into words, each with the mean of its tokens' maps.

    Returns the text too, decoded as captions are. `maps` is (T - 1, ...): entry t belongs to token t + 1. Special
    tokens are left out, and so are the maps of punctuation; where it stands alone its text goes to the word before.
    """
    special = set(tokenizer.all_special_ids)
    kept = [position for position in range(num_given, len(ids)) if ids[position] not in special]
    own_ids = [ids[position] for position in kept]
    pieces, spans = _find_spans(tokenizer, own_ids)
    [text] = decode_texts(tokenizer, torch.tensor([own_ids], dtype=torch.long), config)
    words: list[WordMap] = []
    end = 0  # spans and words are laid beside each other by their characters other than white space
    for word in (text if _drop_white_space(text) == _drop_white_space(pieces) else fold_white_space(pieces)).split():
        start, end = end, end + len(word)
        if words and not _has_letters(word):
            words[-1] = replace(words[-1], text=words[-1].text + word)
            continue
        own = {kept[index]: piece for index, (first, last, piece) in enumerate(spans) if first < end and last > start}
        chosen = np.array([position for position, piece in own.items() if _has_letters(piece)] or list(own))
        words.append(WordMap(word, maps[chosen - 1].mean(0)))
    return text, tuple(words)


def _find_spans(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[tuple[int, int, str]]]:
    """Decode ids, and find each token's span in the text without white space: its start, its end and what it holds."""
    spans: list[tuple[int, int]] = []
    text, start = "", 0
    # Ever longer parts serve WordPiece and byte-level tokenizers alike; each byte of a letter spans the letter.
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False)
        end = len(_drop_white_space(text.rstrip(_UNFINISHED)))
        spans.append((start, max(end, start + 1)))
        start = end
    characters = _drop_white_space(text)
    return text, [(first, last, characters[first:last]) for first, last in spans]


def _drop_white_space(text: str) -> str:
    return fold_white_space(text).replace(" ", "")


def _has_letters(text: str) -> bool:
    return any(letter.isalnum() for letter in text)
