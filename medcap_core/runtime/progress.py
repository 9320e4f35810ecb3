"""The one callback by which a long step says how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, such as "decoding images", how many are done, and how many there are in all."""


def ignore_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""
