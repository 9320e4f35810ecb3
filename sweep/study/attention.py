"""`attention/` of a run directory: what its pictures show (`attention.json`), and `pointing_game.json`."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ValidationError

from medcap_core.attention.pointing import Box, PointingGame
from medcap_core.errors import RunFault
from medcap_core.runtime.files import write_json_atomically

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


class _AttentionFile(BaseModel):
    """One JSON file of `attention/`."""

    file_name: ClassVar[str]

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read it from the folder; None where it is not there. Raises RunFault if it is damaged."""
        path = folder / cls.file_name
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise RunFault(f"{path} is damaged; delete it and run sweep.explain anew.") from None

    def save(self, folder: Path) -> None:
        """Replace it; fields that were not given are left out."""
        write_json_atomically(folder / self.file_name, self.model_dump(mode="json", exclude_unset=True))


class AttentionIndex(_AttentionFile):
    """`attention.json`: whose attention was looked at, and how; `layer` is a number from 1 or "mean"."""

    file_name = "attention.json"

    model: str
    data: str
    method: str
    layer: str
    num_layers: int
    images: list[PictureEntry]


class PointingResult(_AttentionFile, PointingGame):
    """`pointing_game.json`: whose maps were scored, and the outcome."""

    file_name = "pointing_game.json"

    model: str
    split: str
    method: str
    layer: str
