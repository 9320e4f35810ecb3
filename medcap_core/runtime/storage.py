"""Files under a URL (object stores, HDFS and whatever else fsspec knows), each access tried again while it may help."""

import errno
import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from medcap_core.errors import ConfigFault, RunFault, first_line
from medcap_core.runtime.cache import cache_root
from medcap_core.runtime.outage import Outage, is_lasting, is_refusal

log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
"""Pauses between attempts double from the first to the longest."""
NUM_TRANSFERS = 16
"""Files in transfer at once; they wait for the network more than for this machine."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
"""Scheme to the extra of this project that brings its client."""
_OBJECT_STORES = frozenset(_EXTRAS) | {"memory"}
"""Schemes under which a file is there whole or not at all, and folders need not be made."""
_S3_OPTIONS = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
"""`Storage` tries again by itself: attempts of botocore and s3fs, of 15 s each, would hide a silent server."""
_VERSION_KEYS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
"""Keys by which file systems tell one content of a file from the next, the surest first."""


class StorageFault(RunFault):
    """A storage refuses access, or does not answer for long; what is on this machine's disk stays there."""


def is_url(name: str) -> bool:
    """Return whether `name` is a URL, rather than a path or a name of the Hub."""
    return re.match(r"[a-z][a-z0-9+.-]*://", name) is not None


def working_directory(url: str) -> Path:
    """Return the folder of this machine that goes with a run's URL, under `cache_root`; not yet created."""
    return cache_root() / "runs" / _folder_name(url)


def data_directory(url: str) -> Path:
    """Return the folder of this machine for the copy of a data set at `url`, under `cache_root`; not yet created."""
    return cache_root() / "fetched" / _folder_name(url)


def _folder_name(url: str) -> str:
    last = re.sub(r"[^A-Za-z0-9._-]+", "-", url.rstrip("/").rpartition("/")[2])[:60]
    return f"{last or 'root'}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class StoredFile:
    """A file of a storage: its size and what changes with its content."""

    num_bytes: int
    version: str


@dataclass(frozen=True)
class Storage:
    """The files under `url`, by names relative to it. Picklable, and safe for several threads.

    Every method raises StorageFault where access is refused, or where there is no answer for `outage.patience_seconds`.
    """

    url: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.url}

    def __truediv__(self, name: str) -> "Storage":
        return Storage(f"{self.url}/{name}")

    def list_files(self) -> dict[str, StoredFile]:
        """List all files below the URL, by name; none where nothing lies there.

        Left out are names such as `../x`, which on a disk would lie elsewhere.
        """

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()  # another machine may have written
            found: dict[str, Any] = self._fs.find(self._root, detail=True)
            return found

        try:
            found = self._attempt(find)
        except FileNotFoundError:
            return {}
        prefix = f"{self._root}/"
        return {
            path.removeprefix(prefix): StoredFile(int(info["size"] or 0), _version_of(info))
            for path, info in found.items()
            if info["type"] == "file" and path.startswith(prefix) and _stays(path.removeprefix(prefix))
        }

    def is_file(self) -> bool:
        """Return whether the URL itself is a file."""
        return bool(self._attempt(lambda: self._fs.isfile(self._root)))

    def read(self, name: str) -> bytes | None:
        """Read a small file; None where there is none."""
        try:
            content: bytes = self._attempt(lambda: self._fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Replace a small file in one step."""
        self._replace(name, lambda path: self._fs.pipe_file(path, content))

    def put(self, local: Path, name: str) -> None:
        """Replace a file by a local one, in one step. Raises FileNotFoundError where the local one is gone."""
        self._replace(name, lambda path: self._fs.put_file(str(local), path), local)

    def get(self, name: str, local: Path) -> None:
        """Replace a local file by a stored one, in one step. Raises FileNotFoundError where there is none."""
        local.parent.mkdir(parents=True, exist_ok=True)
        partial = local.with_name(f".{local.name}.part")
        self._attempt(lambda: self._fs.get_file(self._path(name), str(partial)))
        partial.replace(local)

    def put_all(self, files: Iterable[tuple[Path, str]]) -> None:
        """Put several files at once, in no order; those that are gone meanwhile are left out."""
        with start_transfers() as pool:
            for transfer in [pool.submit(self.put, local, name) for local, name in files]:
                with suppress(FileNotFoundError):
                    transfer.result()

    def remove(self, name: str) -> None:
        """Remove a file or folder, if it is there."""
        with suppress(FileNotFoundError):
            self._attempt(lambda: self._fs.rm(self._path(name), recursive=True))

    @cached_property
    def outage(self) -> Outage:
        """How long the storage has not answered this object."""
        return Outage(self.url)

    @property
    def _scheme(self) -> str:
        return self.url.partition("://")[0]

    @cached_property
    def _fs(self) -> Any:
        return self._opened[0]

    @cached_property
    def _root(self) -> str:
        root: str = self._opened[1]
        return root

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        import fsspec  # slow to import, and most runs have no URL

        if self._scheme in ("file", "local") and self.url.partition("://")[2][:1] not in ("/", "~"):
            raise ConfigFault(
                f"{self.url}: names another folder in each working directory, and processes have their own; write it "
                f"with three slashes, as {self._scheme}:///home/me/run."
            )
        extra = _EXTRAS.get(self._scheme)
        options = {"use_listings_cache": False} if extra else {}  # another machine may have written since
        try:
            fs, root = fsspec.url_to_fs(self.url, **options, **(_S3_OPTIONS if extra == "s3" else {}))
        except ImportError as error:
            remedy = f"pip install -e '.[{extra}]'" if extra else "install that"
            raise ConfigFault(
                f"{self.url}: the client of {self._scheme}:// is not installed ({first_line(error).rstrip('.')}); "
                f"{remedy}."
            ) from None
        except ValueError as error:
            remedy = (
                f"check the settings and credentials that this machine has for {self._scheme}://"
                if extra
                else "use a path, or a URL that fsspec knows such as s3://, gs://, az:// or hdfs://"
            )
            raise ConfigFault(f"{self.url}: {first_line(error).rstrip('.')}; {remedy}.") from None
        except OSError as error:  # pyarrow looks for the libraries of Java and Hadoop
            raise ConfigFault(
                f"{self.url}: the client of {self._scheme}:// does not start ({first_line(error).rstrip('.')}); for "
                "hdfs:// install Java and Hadoop's client, and set JAVA_HOME, HADOOP_HOME and CLASSPATH."
            ) from None
        if extra == "s3":
            fs.retries = 1
        # Each failure is told of here; gcsfs also warns at each call where it may not ask for a bucket's layout.
        logging.getLogger(type(fs).__module__.partition(".")[0]).setLevel(logging.CRITICAL)
        return fs, root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _replace(self, name: str, write: Callable[[str], object], source: Path | None = None) -> None:
        path = self._path(name)

        def replace() -> None:
            if self._scheme in _OBJECT_STORES:
                write(path)
                return
            folder, _, last = path.rpartition("/")
            partial = f"{folder}/.{last}.{threading.get_ident()}.part"
            self._fs.makedirs(folder, exist_ok=True)
            write(partial)
            self._fs.mv(partial, path)

        try:
            self._attempt(replace)
        except FileNotFoundError as error:
            if source is not None and not source.is_file():
                raise
            raise StorageFault(
                f"{self.url} cannot be written: there is no {self._root.partition('/')[0] or self.url} "
                f"({first_line(error).rstrip('.')}); make that bucket, container or folder first, or give another URL."
            ) from error

    def _attempt(self, action: Callable[[], _Result]) -> _Result:
        """Do what may fail for a while. A FileNotFoundError passes, and that this machine's disk is full."""
        _ = self._fs  # a missing client is no matter of patience
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            try:
                result = action()
            except FileNotFoundError:
                self.outage.note_answer()
                raise
            except Exception as error:  # clients raise what they like
                if getattr(error, "status_code", None) == HTTPStatus.NOT_FOUND:  # adlfs, where the container is missing
                    self.outage.note_answer()
                    raise FileNotFoundError(first_line(error)) from error
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                reason = first_line(error).rstrip(".")
                if is_refusal(error):
                    raise StorageFault(
                        f"{self.url}: access is refused ({reason}); check the credentials that this machine has for "
                        f"{self._scheme}://, then go on by --resume: what was finished is kept."
                    ) from error
                if is_lasting(error):
                    raise StorageFault(f"{self.url} cannot be used ({reason}); give another URL.") from error
                silent = self.outage.note_failure(reason, began)
                if silent + pause > self.outage.patience_seconds:
                    raise StorageFault(
                        f"{self.url} did not answer for {silent:.0f} s ({reason}); go on by --resume when it does: "
                        "what was finished is kept."
                    ) from error
                log.warning("%s: %s; trying again in %.1f s", self.url, reason, pause)
            else:
                self.outage.note_answer()
                return result
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


@contextmanager
def start_transfers() -> Iterator[ThreadPoolExecutor]:
    """Start threads for several transfers at once; at the end, those not begun are given up."""
    with ThreadPoolExecutor(NUM_TRANSFERS, thread_name_prefix="storage") as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _stays(name: str) -> bool:
    return {"", ".", ".."}.isdisjoint(name.split("/"))


def _version_of(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None), "")
