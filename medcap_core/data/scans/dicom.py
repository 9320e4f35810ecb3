"""DICOM files, read by SimpleITK: a series of slices as a volume, sorted by position, and one frame as an image."""

import importlib.util
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medcap_core.data.records import Volume
from medcap_core.data.scans.nifti import MAX_VOXELS
from medcap_core.errors import DataFault, first_line

_POSITION = "0020|0032"  # ImagePositionPatient
_ECHO_TIME = "0018|0081"
_PHOTOMETRIC = "0028|0004"
_BITS_ALLOCATED, _BITS_STORED, _IS_SIGNED = "0028|0100", "0028|0101", "0028|0103"
_INTERCEPT, _SLOPE = "0028|1052", "0028|1053"
_WINDOW_CENTER, _WINDOW_WIDTH, _WINDOW_FUNCTION = "0028|1050", "0028|1051", "0028|1056"
_VOI_LUT = b"\x28\x00\x10\x30"
"""The tag (0028,3010) as stored, little-endian."""
_HEADER_BYTES = 2**18
"""Bytes within which that tag begins; pixels come later."""
_MAX_PIXELS = 2**28
"""A header with more pixels a frame is broken, and reading them would take all memory."""
_ITK_OBJECT = re.compile(r"^ITK ERROR: |\w+\(0x[0-9a-f]+\): ")
_MAX_STEP = 1.5
"""Largest distance between neighbouring slices, in units of the median distance; more is a gap."""


def read_dicom_series(folder: Path) -> Volume:
    """Load the only series in `folder`, its axes permuted and flipped to the closest RAS orientation.

    SimpleITK applies each slice's rescale slope and intercept. Raises OSError or ValueError with a message of one line.
    """
    import SimpleITK  # an extra: importing this module must not need it

    if not folder.is_dir():
        raise FileNotFoundError(2, "No such folder", str(folder))
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # it writes to stderr directly
    series = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise ValueError("the folder holds no DICOM series; give one folder for each series of slices")
    if len(series) > 1:
        raise ValueError(f"the folder holds {len(series)} DICOM series; give one folder for each")
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    lost = sorted({path.name for path in folder.glob("*.[dD][cC][mM]")} - {Path(name).name for name in names})
    if lost:
        raise ValueError(f"{len(lost)} of its .dcm files cannot be read, such as {lost[0]}")
    _require_likely_size(names)
    reader = SimpleITK.ImageSeriesReader()
    reader.MetaDataDictionaryArrayUpdateOn()
    reader.SetFileNames(names)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(f"its DICOM slices cannot be read ({_last_line(error)})") from error
    _require_regular_slices(reader, len(names))
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"it is {image.GetDimension()}D with {image.GetNumberOfComponentsPerPixel()} values a voxel")
    # ITK's world coordinates are LPS; aligned to them, two flips give RAS.
    image = SimpleITK.DICOMOrient(image, "LPS")
    voxels: NDArray[np.float32] = SimpleITK.GetArrayFromImage(image).astype(np.float32)  # (z, y, x)
    x, y, z = (float(length) for length in image.GetSpacing())
    return Volume(np.ascontiguousarray(voxels.transpose(2, 1, 0)[::-1, ::-1]), (x, y, z))


def _last_line(error: RuntimeError) -> str:
    """Return the last line of ITK's message, without the object's address."""
    last = next(reversed(str(error).strip().splitlines()), type(error).__name__)
    return _ITK_OBJECT.sub("", last).strip().rstrip(".")


def _require_likely_size(names: Sequence[str]) -> None:
    """Raise ValueError where the first slice's header says more pixels than memory holds for all slices."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(names[0])
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return  # it cannot be read either way
    if math.prod(reader.GetSize()) * len(names) > MAX_VOXELS:
        raise ValueError(f"its slices say {reader.GetSize()[0]} x {reader.GetSize()[1]} pixels, more than any scan has")


def _require_regular_slices(reader: Any, count: int) -> None:
    """Raise ValueError where several images lie at one position (echoes), or slices are missing, a shorter head."""
    slices = [number for number in range(count) if reader.HasMetaDataKey(number, _POSITION)]
    positions = [tuple(map(float, reader.GetMetaData(number, _POSITION).split("\\"))) for number in slices]
    echo_times = {reader.GetMetaData(n, _ECHO_TIME).strip() for n in slices if reader.HasMetaDataKey(n, _ECHO_TIME)}
    most = max(Counter(positions).values(), default=1)
    if most > 1:
        echoes = f", echo times {', '.join(sorted(echo_times, key=_as_number))} ms" if len(echo_times) > 1 else ""
        raise ValueError(
            f"the series holds {most} images at one position{echoes}; give a folder for each of these volumes"
        )
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1) if len(positions) > 1 else np.ones(1)
    if steps.max() > _MAX_STEP * np.median(steps):
        raise ValueError(
            f"slices are missing: most lie {np.median(steps):g} mm apart, but two of them {steps.max():g} mm"
        )


def read_dicom_image(path: Path) -> Image.Image:
    """Load the only frame of a DICOM file: mode L or RGB (8 bits), or F where its range is not known.

    SimpleITK applies the rescale slope and intercept. Gray values are then windowed by the first window of the file
    (centre, width and function, by DICOM PS3.3 C.11.2.1) to 0 .. 255. Without a usable window, 8-bit values stay as
    stored and others are returned in mode F, for `medcap_core.data.images.to_rgb` to scale. MONOCHROME1, where the
    lowest value is white, is inverted. Tables of values (VOI LUT sequences) are not read.
    Raises OSError or ValueError with a message of one line, also for a file of several frames.
    """
    import SimpleITK  # an extra: importing this module must not need it

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # it writes to stderr directly
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        columns, rows, *frames = reader.GetSize()
        if math.prod(frames) != 1:
            raise ValueError(f"it holds {math.prod(frames)} frames; save the one to be captioned as a file of its own")
        if columns * rows > _MAX_PIXELS:
            raise ValueError(f"its header says {columns} x {rows} pixels, more than any radiograph has")
        values: NDArray[Any] = SimpleITK.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise ValueError(f"its DICOM content cannot be read ({_last_line(error)})") from error
    header = {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}
    if reader.GetNumberOfComponents() > 1:
        return Image.fromarray(values.reshape(values.shape[-3:]))
    values = values.reshape(values.shape[-2:])
    is_inverted = header.get(_PHOTOMETRIC) == "MONOCHROME1"
    rescaled = _restore_inverted(values, header) if is_inverted else values
    shares = _apply_lut(rescaled, path)
    if shares is None:
        shares = _apply_window(rescaled, header)
    if shares is not None:
        windowed = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
        return Image.fromarray(255 - windowed if is_inverted else windowed)
    return Image.fromarray(values if values.dtype == np.uint8 else values.astype(np.float32))


def _restore_inverted(values: NDArray[Any], header: dict[str, str]) -> NDArray[np.float64]:
    """Restore the values that a window of a MONOCHROME1 file is meant for.

    GDCM flips all bits of the stored values x of such files before the rescale: y = slope (top - x) + intercept.
    """
    top = -1 if header.get(_IS_SIGNED) == "1" else 2 ** int(header.get(_BITS_STORED) or header[_BITS_ALLOCATED]) - 1
    slope, intercept = float(header.get(_SLOPE) or 1), float(header.get(_INTERCEPT) or 0)
    return slope * top + 2 * intercept - values.astype(np.float64)


def _apply_lut(values: NDArray[Any], path: Path) -> NDArray[np.float64] | None:
    """Map gray values to shares of white by the file's first VOI LUT, which SimpleITK does not show; None without one.

    Raises DataFault where pydicom, which reads it, is not installed.
    """
    with path.open("rb") as file:
        if _VOI_LUT not in file.read(_HEADER_BYTES):
            return None
    if importlib.util.find_spec("pydicom") is None:
        raise DataFault(f"{path} has a VOI LUT, which needs pydicom: pip install 'medcap-sweep[dicom]'.")
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_voi

    dataset = dcmread(path, stop_before_pixels=True)
    tables = dataset.get("VOILUTSequence")
    if not tables:
        return None
    try:
        highest = 2 ** int(tables[0].LUTDescriptor[2]) - 1
        shares: NDArray[np.float64] = apply_voi(np.rint(values).astype(np.int64), dataset).astype(np.float64) / highest
    except (AttributeError, LookupError, TypeError, NotImplementedError) as error:
        raise ValueError(f"its VOI LUT is broken ({first_line(error)})") from error
    return shares


def _apply_window(values: NDArray[Any], header: dict[str, str]) -> NDArray[np.float64] | None:
    """Map gray values to shares of white by the header's first window; None without a usable one."""
    center, width = (_as_number(header.get(key, "").split("\\")[0]) for key in (_WINDOW_CENTER, _WINDOW_WIDTH))
    function = header.get(_WINDOW_FUNCTION) or "LINEAR"
    if not (math.isfinite(center) and math.isfinite(width)) or width < (1 if function == "LINEAR" else 1e-12):
        return None
    offsets = values.astype(np.float64) - center
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * offsets / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return offsets / width + 0.5
    return (offsets + 0.5) / max(width - 1, 1e-12) + 0.5


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
