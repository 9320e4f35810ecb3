"""What a store of decoded images and one of decoded volumes have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.records import Reference


class Geometry(Protocol):
    """What a model takes: `ImageGeometry` for images, `VolumeGeometry` for volumes. Frozen and hashable."""

    def __hash__(self) -> int: ...

    @property
    def noun(self) -> str:
        """What sentences call one of them, as `Record.noun`."""

    @property
    def size(self) -> int:
        """Side of the square in pixels, or of the cube in voxels."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one decoded image or volume, channels first."""

    @property
    def described(self) -> Mapping[str, int]:
        """All that decides the values decoded from a given file, for the key of a store."""

    def decode(self, reference: Reference) -> NDArray[np.uint8]:
        """The image or volume as uint8 of `row_shape`.

        Raises `medcap_core.data.decoding.UnreadableImage` where the file cannot be used, DataFault where the machine
        fails to read it.
        """

    def refer_to(self, path: Path) -> Reference:
        """A reference to what lies at `path`. Raises ValueError for a file that cannot be one by its name."""
