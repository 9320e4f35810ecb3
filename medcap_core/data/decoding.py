"""Faults of decoding: a damaged or absent file is left out, a failing machine ends the run."""

import errno
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from medcap_core.data.records import Reference
from medcap_core.errors import DataFault

# What image decoders raise on damaged content.
_DAMAGED = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, struct.error, zlib.error,
    zipfile.BadZipFile, NotImplementedError, Image.DecompressionBombError,
)  # fmt: skip
_OUT_OF_REACH = {errno.EACCES, errno.EPERM, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
_MACHINE_FAULTS = {
    errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EBUSY,
    errno.EHOSTDOWN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNRESET,
}  # fmt: skip


class UnreadableImage(Exception):
    """An image or volume that cannot be used; `lasting` is False for a file that is inaccessible for now."""

    def __init__(self, reason: str, *, lasting: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting


@contextmanager
def reading(reference: Reference) -> Iterator[None]:
    """Turn the exceptions of decoders, raised while `reference` is opened and converted, into one of two.

    UnreadableImage for a damaged, absent or forbidden file; DataFault where the machine fails to read (disk, memory,
    open files, network), since leaving such files out would silently change the data set.
    """
    try:
        path = getattr(reference, "path", None)
        mode = path.stat().st_mode if isinstance(path, Path) else stat.S_IFREG
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading would wait for ever
            raise UnreadableImage("a pipe or device, not a file", lasting=False)
        yield
    except MemoryError as error:
        raise _machine_fault(reference, "not enough memory") from error
    except _DAMAGED as error:
        reason = _describe(error)
        number = error.errno if isinstance(error, OSError) else None
        if number in _MACHINE_FAULTS:
            raise _machine_fault(reference, reason) from error
        raise UnreadableImage(reason, lasting=number not in _OUT_OF_REACH) from error


def _machine_fault(reference: Reference, reason: str) -> DataFault:
    return DataFault(
        f"{getattr(reference, 'path', reference)} could not be read ({reason}): this is the machine's fault, not the "
        "file's; mend it and start again, decoding goes on where it stopped."
    )


def _describe(error: BaseException) -> str:
    """Describe a decoding error in one line, without the address of an in-memory file."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged from its first bytes on"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    if isinstance(error, LookupError | TypeError | ArithmeticError):  # of a decoder that did not expect such content
        return f"damaged ({type(error).__name__}: {text})"
    return text or type(error).__name__
