"""Volumes on disk: NIfTI files, NumPy arrays and folders of DICOM slices."""

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcap_core.data.records import Volume, VolumeReference, fingerprint_file, is_dicom
from medcap_core.data.scans.nifti import read_nifti
from medcap_core.errors import DataFault, first_line

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".npy")
OTHER_VOLUME_SUFFIXES = (
    ".hdr", ".img", ".img.gz", ".mgz", ".mgh", ".mnc", ".nrrd", ".nhdr", ".mha", ".mhd", ".npz",
)  # fmt: skip
"""Suffixes of volumes in formats that are not read."""
_NUM_LOOKED_AT = 5


@dataclass(frozen=True)
class _VolumeFile(VolumeReference):
    path: Path

    def fingerprint(self) -> str:
        """Join file name, size and modification time."""
        return fingerprint_file(self.path)


class NiftiFile(_VolumeFile):
    """A `.nii` or `.nii.gz` file."""

    def read(self) -> Volume:
        """Load the volume, see `read_nifti`."""
        return read_nifti(self.path)


class NpyFile(_VolumeFile):
    """A `.npy` file of one volume (X, Y, Z), taken as RAS with voxels of 1 mm, since the format stores neither."""

    def read(self) -> Volume:
        """Load the volume. Raises OSError or ValueError for a file that is absent, damaged or not of real numbers."""
        try:
            # Mapped, so that a header that claims more than the file holds takes no memory.
            voxels = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (EOFError, SyntaxError, ValueError) as error:
            if "allow_pickle" in str(error) or "Python objects" in str(error):
                raise ValueError("it holds Python objects or is no .npy file; save one array of numbers") from None
            raise ValueError(f"it is no whole .npy file ({first_line(error)})") from error
        if not isinstance(voxels, np.ndarray):
            raise ValueError("it is an archive of arrays (.npz); save one array as .npy")  # noqa: TRY004 - what open raises
        if voxels.dtype.kind not in "iufb":
            raise ValueError(f"its values are {voxels.dtype}, not real numbers")
        while voxels.ndim > 3 and voxels.shape[-1] == 1:
            voxels = voxels[..., 0]
        return Volume(voxels.astype(np.float32), (1.0, 1.0, 1.0))


class DicomSeries(_VolumeFile):
    """A folder with the slices of one DICOM series; needs SimpleITK, the extra `dicom`."""

    def read(self) -> Volume:
        """Load the series, see `read_dicom_series`. Raises DataFault where SimpleITK is not installed."""
        require_dicom_reader()
        from medcap_core.data.scans.dicom import read_dicom_series

        return read_dicom_series(self.path)

    def fingerprint(self) -> str:
        """Hash name, size and modification time of every file in the folder."""
        with os.scandir(self.path) as listing:
            stamps = sorted(fingerprint_file(Path(entry.path)) for entry in listing if entry.is_file())
        return f"{self.path.name}:{hashlib.sha256('/'.join(stamps).encode('utf-8', 'surrogateescape')).hexdigest()}"


def find_volume(path: Path) -> VolumeReference:
    """Build the reference for `path` by its suffix; a folder is a DICOM series. Raises ValueError."""
    name = path.name.lower()
    if path.is_dir():
        return DicomSeries(path)
    if name.endswith((".nii", ".nii.gz")):
        return NiftiFile(path)
    if name.endswith(".npy"):
        return NpyFile(path)
    raise ValueError(
        f"'{path.name}' is no volume by its name: convert it to .nii.gz, or give .npy or a folder of DICOM slices"
    )


def holds_dicom(folder: Path) -> bool:
    """Check for a DICOM file among the first files of `folder`, by name or by content."""
    try:
        with os.scandir(folder) as listing:
            names = sorted(entry.name for entry in listing if entry.is_file())
        return any(_is_dicom_file(folder / name) for name in names[:_NUM_LOOKED_AT])
    except OSError:
        return False


def _is_dicom_file(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return is_dicom(file)


def require_dicom_reader() -> None:
    """Raise DataFault where SimpleITK, which reads DICOM files, is not installed."""
    if importlib.util.find_spec("SimpleITK") is None:
        raise DataFault("DICOM files are read by SimpleITK, which is not installed: pip install 'medcap-sweep[dicom]'.")
