"""The private names of Ray that this project uses, each with what is lost without it."""

from contextlib import suppress


def set_process_title(title: str) -> None:
    """Set the title of this process; without it `ps` shows the function that Ray calls instead of the trial."""
    with suppress(ImportError):
        from ray._raylet import setproctitle  # type: ignore[attr-defined]  # compiled

        setproctitle(title)
