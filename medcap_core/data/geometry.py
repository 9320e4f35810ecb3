"""The protocol shared by the geometry of images and of volumes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.records import Reference


class Geometry(Protocol):
    """The input a model takes: `ImageGeometry` or `VolumeGeometry`, frozen and hashable."""

    def __hash__(self) -> int: ...

    @property
    def noun(self) -> str:
        """Noun for one input in messages, as `Record.noun`."""

    @property
    def size(self) -> int:
        """Side of the square in pixels, or of the cube in voxels."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one decoded image or volume, channels first."""

    @property
    def described(self) -> Mapping[str, int]:
        """Every number that changes the values decoded from a file, for the key of a store."""

    def decode(self, reference: Reference) -> NDArray[np.uint8]:
        """Decode the image or volume to uint8 of `row_shape`.

        Raises `medcap_core.data.decoding.UnreadableImage` where the file cannot be used, DataFault where the machine
        fails to read it.
        """

    def refer_to(self, path: Path) -> Reference:
        """Build a reference to the file at `path`. Raises ValueError where the name is of another kind of file."""
