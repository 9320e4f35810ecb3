"""Start a Ray of our own: on loopback, in a folder that it can use, and again where the machine was too busy."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import ray

from medcap_core.errors import RunFault, first_line

LOOPBACK = "127.0.0.1"
MOST_STARTS = 4
LONGEST_TEMPORARY_FOLDER = 107 - len("/ray/session_2026-11-29_09-30-43_098073_4194304/sockets/plasma_store")
"""Bytes of a folder in which Ray's sockets, whose path has at most 107 bytes, find room."""


def start_ray(threads: ExitStack, is_wanted: Event) -> str | None:
    """Start a Ray of our own, with its files in one of `list_temporary_folders`, and put its thread into `threads`.

    Ray gives up after 30 s, which it lets nobody change: as on a busy machine it may take longer, it is started up to
    MOST_STARTS times while `is_wanted`, each in a thread that takes what was half started with it. Returns the address
    of the dashboard. Raises RunFault.
    """
    for folder in list_temporary_folders():
        for _ in range(MOST_STARTS):
            if folder is not None:
                # TMPDIR too: the dashboard's own processes meet at a socket there.
                os.environ["RAY_TMPDIR"] = os.environ["TMPDIR"] = str(folder)
            thread = ThreadPoolExecutor(1, thread_name_prefix="ray")
            try:
                dashboard_url = thread.submit(_init).result()
            except Exception as error:  # noqa: BLE001 - Ray raises plain Exceptions too, all of them told below
                thread.shutdown()
                ray.shutdown()
                fault = error
            else:
                threads.enter_context(thread)
                return dashboard_url
            if isinstance(fault, OSError) or not is_wanted.is_set():
                break  # another folder may help
        if not isinstance(fault, OSError):
            break
    raise RunFault(
        f"Ray could not start ({first_line(fault).rstrip('.')}); "
        + (
            "set RAY_TMPDIR to a short folder of your own that can be written, such as /tmp/ray-of-mine."
            if isinstance(fault, OSError)
            else "try again when less runs on this machine, or start one by `ray start --head` and add --address auto."
        )
    ) from fault


def list_temporary_folders() -> list[Path | None]:
    """List the folders in which Ray can have its files; None is Ray's own choice (RAY_TMPDIR, TMPDIR or /tmp).

    Ray's choice comes first unless it is too long for a socket or not to be written, as a `ray/` of another user.
    """
    chosen = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    is_suited = len(os.fsencode(chosen)) <= LONGEST_TEMPORARY_FOLDER and _can_be_written(chosen / "ray")
    folders: list[Path | None] = [None] if is_suited else []
    for parent in filter(None, ("/tmp", os.environ.get("XDG_RUNTIME_DIR"), "/var/tmp", "/dev/shm")):
        own = Path(parent) / f"medcap-{os.getuid()}"
        try:
            own.mkdir(mode=0o700, exist_ok=True)
            is_own = own.lstat().st_uid == os.getuid() and own.is_dir() and not own.is_symlink()
        except OSError:
            continue
        if is_own and len(os.fsencode(own)) <= LONGEST_TEMPORARY_FOLDER and _can_be_written(own / "ray"):
            return [*folders, own]
    return folders or [None]


def _can_be_written(path: Path) -> bool:
    """Return whether the folder `path` can be written or, where it does not exist, be made."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def _init() -> str | None:
    context = ray.init(
        address="local",
        include_dashboard=os.environ.get("MEDCAP_DASHBOARD") != "0",
        dashboard_host=LOOPBACK,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    url: str | None = context.dashboard_url
    return url
