"""NIfTI files: one volume in the closest canonical orientation."""

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from medcap_core.data.records import Volume
from medcap_core.errors import first_line

MAX_VOXELS = 2**30
"""A header with more voxels is broken, and reading the file would take all memory."""

_MAX_BYTES = 8 * MAX_VOXELS
_HEADER_LIMIT = 540
_ZOOM_TOLERANCE = 0.01
"""Largest relative difference between a zoom and its affine that counts as rounding."""
_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_BYTES = {348: "Nifti1Image", 540: "Nifti2Image"}
_MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}  # by the header's code of its spatial unit


def read_nifti(path: Path) -> Volume:
    """Load a NIfTI-1 or NIfTI-2 file, gzipped or not by its content, scaled by the header's slope and intercept.

    Axes are permuted and flipped to the closest RAS orientation, as by `nibabel.as_closest_canonical`; nothing is
    interpolated. Voxel sizes are those of the affine that is used (sform, else qform, else zooms). A fourth axis of
    length 1 is dropped. The whole file is read, so gzip's checksum is verified. Raises OSError, EOFError or ValueError
    with a message of one line.
    """
    import nibabel

    content = _read_content(path, _MAX_BYTES + 1)
    kind, header = _read_header(content)
    shape = _check_header(header)
    try:
        image = kind.from_bytes(content)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise ValueError(f"its NIfTI header is broken ({first_line(error)})") from error
    if not np.isfinite(image.affine).all() or np.linalg.matrix_rank(image.affine[:3, :3]) < 3:
        raise ValueError("its NIfTI header is broken (its affine does not say where the axes point)")
    orientation = nibabel.io_orientation(image.affine)  # for each stored axis the closest of RAS, and its direction
    try:
        voxels = image.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    except OSError as error:
        counted = first_line(error).removesuffix(" from object")
        raise ValueError(f"it is shorter than its header says ({counted})") from error
    sizes_mm = nibabel.affines.voxel_sizes(image.affine) * _find_unit(header)
    x, y, z = sizes_mm[np.argsort(orientation[:, 0])].tolist()
    return Volume(np.ascontiguousarray(nibabel.apply_orientation(voxels, orientation)), (x, y, z))


def _read_content(path: Path, num_bytes: int) -> bytes:
    """Read at most `num_bytes`, unpacked."""
    with path.open("rb") as file:
        is_compressed = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        try:
            content = (gzip.GzipFile(fileobj=file) if is_compressed else file).read(num_bytes)
        except EOFError as error:
            raise ValueError("its gzip stream ends too early: the file was cut off") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"its gzip stream is damaged ({first_line(error)})") from error
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it holds more than {_MAX_BYTES} bytes, more than any scan")
    return content


def _read_header(content: bytes) -> tuple[Any, Any]:
    """Return nibabel's class, by the header length in the first 4 bytes, in either byte order, and the header."""
    import nibabel

    lengths = [int.from_bytes(content[:4], order) for order in ("little", "big")]
    kind = next((_HEADER_BYTES[length] for length in lengths if length in _HEADER_BYTES), None)
    if kind is None or len(content) < min(length for length in lengths if length in _HEADER_BYTES):
        raise ValueError("no NIfTI file, or damaged in its header" if content else "the file is empty")
    image_class = getattr(nibabel, kind)
    return image_class, image_class.header_class.from_fileobj(io.BytesIO(content), check=False)


def _find_unit(header: Any) -> float:
    """Return the millimetres of the header's spatial unit; 1 where it names none."""
    return _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)


def describe_other_zooms(path: Path) -> str | None:
    """Describe the voxel sizes of a header whose zooms (`pixdim`) differ from its affine; None where they agree.

    Reads the header alone. A file that `read_nifti` refuses gives None.
    """
    import nibabel

    try:
        _, header = _read_header(_read_content(path, _HEADER_LIMIT))
        _check_header(header)
        by_affine = nibabel.affines.voxel_sizes(header.get_best_affine()) * _find_unit(header)
    except (OSError, ValueError, nibabel.spatialimages.HeaderDataError):
        return None
    by_zooms = [abs(float(zoom)) * _find_unit(header) for zoom in header["pixdim"][1:4]]
    if np.allclose(by_affine, by_zooms, rtol=_ZOOM_TOLERANCE, atol=0):
        return None
    written = (" x ".join(f"{size:.4g}" for size in sizes) for sizes in (by_affine, by_zooms))
    return "{} mm by its affine, {} mm by pixdim".format(*written)


def _check_header(header: Any) -> tuple[int, int, int]:
    """Return the shape, in stored axis order. Raises ValueError for values no scan can have."""
    num_axes = int(header["dim"][0])
    if not 1 <= num_axes <= 7:
        raise ValueError(f"its NIfTI header is broken (it says that there are {num_axes} axes)")
    shape = tuple(int(length) for length in header["dim"][1 : 1 + num_axes])
    written = " x ".join(map(str, shape))
    if min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise ValueError(f"its NIfTI header is broken (it says that the shape is {written})")
    if len(shape) < 3 or any(length > 1 for length in shape[3:]):
        raise ValueError(f"it is {len(shape)}D ({written}); give one volume with three axes")
    x, y, z = (abs(float(zoom)) * _find_unit(header) for zoom in header["pixdim"][1:4])
    if not all(math.isfinite(zoom) and zoom > 0 for zoom in (x, y, z)):
        raise ValueError(f"its NIfTI header is broken (it says that voxels measure {x:g} x {y:g} x {z:g} mm)")
    if not 0 <= float(header["vox_offset"]) <= _MAX_BYTES:
        raise ValueError(f"its NIfTI header is broken (it says that voxels begin at byte {header['vox_offset']:g})")
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        raise ValueError(f"its NIfTI header is broken (there is no data type {int(header['datatype'])})") from None
    if dtype.kind not in "iuf":
        raise ValueError(f"its voxels are {dtype}, not single real numbers")
    return shape[0], shape[1], shape[2]
