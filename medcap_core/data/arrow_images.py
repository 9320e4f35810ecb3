"""Images in memory-mapped Arrow files, as `datasets` writes them; rows of one image are recognised by its bytes.

`datasets` is imported where it is used: most data sets are folders, and the import is slow in every process.
"""

import functools
import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from medcap_core.data.records import ImageFile, fingerprint_file


@dataclass(frozen=True)
class ArrowImage:
    """The image in one row of an Arrow file, mapped once per process."""

    file: Path
    row: int
    column: str

    def open(self) -> Image.Image:
        """Decode the stored bytes, or the file named in the row. Raises OSError or ValueError if that fails."""
        value = map_arrow_file(self.file)[self.row][self.column]
        content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(content, bytes):
            image = Image.open(io.BytesIO(content))
            image.load()
            return image
        if path:
            return ImageFile(Path(path)).open()
        raise ValueError("the row holds no image bytes")

    def hash_content(self) -> str:
        """Compute the SHA-256 (hex) of the stored bytes; of none where the row names a file."""
        value = map_arrow_file(self.file)[self.row][self.column]
        content = value.get("bytes") if isinstance(value, dict) else value
        return hashlib.sha256(content if isinstance(content, bytes) else b"").hexdigest()

    def fingerprint(self) -> str:
        """Join name, size and modification time of the Arrow file, and the row."""
        return f"{_fingerprint_once(self.file)}:{self.row}"


class DistinctImages:
    """The images of one split: a row whose image has the bytes and the name of an earlier row's is one more of that.

    Bytes are read and hashed only where names, cases and numbers of bytes agree.
    """

    def __init__(self) -> None:
        self._by_hash: dict[tuple[Any, ...], dict[str | None, ArrowImage]] = {}

    def find(self, image: ArrowImage, key: tuple[Any, ...]) -> ArrowImage:
        """Return the first image that equals `image`; `key` holds its name, number of bytes and case."""
        known = self._by_hash.setdefault(key, {})
        if not known:
            return known.setdefault(None, image)
        if None in known:
            first = known.pop(None)
            known[first.hash_content()] = first
        return known.setdefault(image.hash_content(), image)


def list_contents(table: Any, image_column: str) -> list[tuple[str | None, int | None]]:
    """List the name and the number of bytes of each row's image, without reading the bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    images = table.data.column(image_column)
    names = sizes = pa.nulls(len(images))
    if pa.types.is_struct(images.type) and {"path", "bytes"} <= {field.name for field in images.type}:
        names, images = pc.struct_field(images, "path"), pc.struct_field(images, "bytes")
    if pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type):
        sizes = pc.binary_length(images)
    return list(zip(names.to_pylist(), sizes.to_pylist(), strict=True))


def map_arrow_file(file: Path) -> Any:
    """Open the file as a memory-mapped `datasets.Dataset` with undecoded images, once per process."""
    return _map_arrow_file(file, os.getpid())


@functools.lru_cache(maxsize=256)
def _map_arrow_file(file: Path, process_id: int) -> Any:
    import datasets

    table = datasets.Dataset.from_file(str(file))
    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    return table


_fingerprint_once = functools.lru_cache(maxsize=256)(fingerprint_file)
