"""DICOM series, read by SimpleITK, which sorts the slices by position rather than by name."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medcap_core.data.records import Volume

_POSITION = "0020|0032"  # ImagePositionPatient
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
    reader = SimpleITK.ImageSeriesReader()
    reader.MetaDataDictionaryArrayUpdateOn()
    reader.SetFileNames(names)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        *_, last_line = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"its DICOM slices cannot be read ({last_line})") from error
    slices = [number for number in range(len(names)) if reader.HasMetaDataKey(number, _POSITION)]
    positions = [reader.GetMetaData(number, _POSITION).split("\\") for number in slices]
    _require_even_steps([[float(number) for number in position] for position in positions])
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"it is {image.GetDimension()}D with {image.GetNumberOfComponentsPerPixel()} values a voxel")
    # ITK's world coordinates are LPS; aligned to them, two flips give RAS.
    image = SimpleITK.DICOMOrient(image, "LPS")
    voxels: NDArray[np.float32] = SimpleITK.GetArrayFromImage(image).astype(np.float32)  # (z, y, x)
    x, y, z = (float(length) for length in image.GetSpacing())
    return Volume(np.ascontiguousarray(voxels.transpose(2, 1, 0)[::-1, ::-1]), (x, y, z))


def _require_even_steps(positions: list[list[float]]) -> None:
    """Raise ValueError where slices are missing, which would shorten the head."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1) if len(positions) > 1 else np.ones(1)
    if steps.max() > _MAX_STEP * np.median(steps):
        raise ValueError(
            f"slices are missing: most lie {np.median(steps):g} mm apart, but two of them {steps.max():g} mm"
        )
