"""Importing many modules at once, quickly."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import large libraries in it, without Python's garbage collector.

    torch, transformers and Ray make about a million objects as they are imported, all of which stay: looking through
    them again and again takes a third of the time. Afterwards they are out of the collector's sight for good.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
