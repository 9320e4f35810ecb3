"""A file system in memory that fails when it is told to."""

from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class UnreliableFileSystem(MemoryFileSystem):  # type: ignore[misc]  # untyped
    """Reads and writes raise what `faults` holds, one each."""

    protocol = "unreliable"
    faults: ClassVar[list[Exception]] = []

    def cat_file(self, path: str, **options: Any) -> Any:
        self._fail()
        return super().cat_file(path, **options)

    def put_file(self, local: str, path: str, **options: Any) -> Any:
        self._fail()
        return super().put_file(local, path, **options)

    def _fail(self) -> None:
        if self.faults:
            raise self.faults.pop(0)


fsspec.register_implementation("unreliable", UnreliableFileSystem, clobber=True)
