"""`attention/` of a run directory: what its pictures show (`attention.json`), and `pointing_game.json`."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from medcap_core.attention.pointing import Box, PointingGame
from sweep.study.paths import RunFile

_REMEDY = "delete it and run sweep.explain anew"
Kind = Literal["best", "worst", "random", "given"]


class PeakEntry(BaseModel):
    """Where a map is strongest: shares of an image's width and height, or of a scan along x, y and z.

    Whether that lies in the true box of a phantom's finding, or in the structure that a question on a phantom is about,
    is None where there is no such place.
    """

    peak: tuple[float, ...]
    peak_in_box: bool | None = None
    peak_in_structure: bool | None = None


class WordEntry(PeakEntry):
    """One word of a text; `names_finding` is of captions of phantoms."""

    text: str
    names_finding: bool = False


class QueryEntry(PeakEntry):
    """One query of a bridge, and the share of the text's attention to the image that it has."""

    query: int
    share: float


class PictureEntry(BaseModel):
    """One picture; `alt` is its text alternative.

    `file` and `maps` are its names in `attention/` and in `attention.npz`. `caption` is the text that is explained: an
    answer where a `question` was asked. `reference` is None where the truth is not known.
    """

    image_id: str
    kind: Kind
    question: str | None = None
    question_kind: str | None = None
    caption: str
    reference: str | None
    cider: float | None = None
    is_synthetic: bool
    box: Box | None = None
    structures: tuple[str, ...] = ()
    peak: tuple[float, ...] | None = None
    peak_in_structure: bool | None = None
    words: list[WordEntry]
    queries: list[QueryEntry] = []
    alt: str
    file: str
    maps: str


class AttentionIndex(RunFile):
    """`attention.json`: whose attention was looked at, and how; `layer` is a number from 1 or "mean"."""

    file_name: ClassVar = "attention.json"
    remedy = _REMEDY

    model: str
    data: str
    method: str
    layer: str
    num_layers: int
    images: list[PictureEntry]


class PointingResult(RunFile, PointingGame):
    """`pointing_game.json`: whose maps were scored, and the outcome."""

    model_config = ConfigDict(extra="ignore")  # the file also has what follows from its fields
    file_name: ClassVar = "pointing_game.json"
    remedy = _REMEDY

    model: str
    split: str
    method: str
    layer: str
