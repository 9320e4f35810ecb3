"""DICOM radiographs become gray images and series volumes; other DICOM is one line."""

import locale
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medcap_core.config import TrialConfig
from medcap_core.data.decoding import UnreadableImage
from medcap_core.data.images import ImageGeometry, decode_rgb, to_rgb
from medcap_core.data.prepare import describe_doubtful_inputs, prepare_data
from medcap_core.data.records import ImageFile
from medcap_core.data.scans import dicom, files
from medcap_core.data.scans.files import DicomSeries, NiftiFile, find_volume
from medcap_core.data.scans.volumes import VolumeGeometry
from medcap_core.errors import DataFault
from tests.medcap_core.data.conftest import DrawImage
from tests.support.volume_writing import number_voxels

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK, the extra 'dicom', is not installed")

VALUES = np.array([[0, 400, 500], [600, 999, 2000]], np.int16)
CENTER, WIDTH, FUNCTION = "0028|1050", "0028|1051", "0028|1056"
WINDOW = {CENTER: "500", WIDTH: "201"}


def write(
    path: Path, values: np.ndarray, *, is_color: bool = False, is_inverted: bool = False,
    spacing: tuple[float, ...] = (1, 1, 1), **tags: str,
) -> Path:  # fmt: skip
    """A radiograph of one frame, or with a third axis of several."""
    kept = locale.setlocale(locale.LC_ALL)
    stacked = values if is_color or values.ndim == 3 else values[None]
    image: Any = sitk.GetImageFromArray(stacked, isVector=is_color)
    image.SetSpacing([*spacing, *[1] * (image.GetDimension() - 3)])
    for key, value in {"0008|0060": "CR", **tags}.items():
        image.SetMetaData(key, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)
    locale.setlocale(locale.LC_ALL, kept)  # GDCM's writer leaves it at "C"
    if is_inverted:  # which the writer cannot say
        content = path.read_bytes()
        assert content.count(b"MONOCHROME2 ") == 1
        path.write_bytes(content.replace(b"MONOCHROME2 ", b"MONOCHROME1 "))
    return path


def write_series(
    folder: Path, voxels: np.ndarray, spacing: tuple[float, ...], series: str = "1.2.3", **tags: str
) -> None:
    """Slices of an LPS volume (x, y, z), named so that their order by name is not that in space."""
    folder.mkdir(exist_ok=True)
    place = {"0008|0060": "MR", "0020|000e": series, "0020|0037": "1\\0\\0\\0\\1\\0"}
    for number in range(voxels.shape[2]):
        values = np.ascontiguousarray(voxels[:, :, number].T).astype(np.int16)
        own = {"0020|0032": f"0\\0\\{number * spacing[2]}", "0020|0013": str(number + 1)}
        write(folder / f"{series}_{(7 * number) % 10}.dcm", values, spacing=spacing, **place, **own, **tags)


def gray(path: Path) -> list[list[int]]:
    return np.asarray(decode_rgb(ImageFile(path)))[..., 0].tolist()


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        # (x - 499.5) / 200 + 0.5, in units of 255
        (WINDOW, [[0, 1, 128], [255, 255, 255]]),
        ({CENTER: "500\\40", WIDTH: "201\\400"}, [[0, 1, 128], [255, 255, 255]]),
        ({CENTER: "500", WIDTH: "400", FUNCTION: "LINEAR_EXACT"}, [[0, 64, 128], [191, 255, 255]]),
        ({CENTER: "500", WIDTH: "400", FUNCTION: "SIGMOID"}, [[2, 69, 128], [186, 253, 255]]),
        ({CENTER: "500", WIDTH: "1"}, [[0, 0, 255], [255, 255, 255]]),
    ],
)
def test_windows_by_hand(tmp_path: Path, tags: dict[str, str], expected: list[list[int]]) -> None:
    assert gray(write(tmp_path / "a.dcm", VALUES, **tags)) == expected
    inverted = write(tmp_path / "b.dcm", VALUES, **tags, is_inverted=True)
    assert gray(inverted) == [[255 - value for value in row] for row in expected]


def add_lut(path: Path, first: int, entries: list[int], bits: int) -> Path:
    pydicom = pytest.importorskip("pydicom", reason="pydicom, of the extra 'dicom', is not installed")
    dataset, table = pydicom.dcmread(path), pydicom.Dataset()
    table.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    table.add_new("LUTData", "US", entries)
    dataset.VOILUTSequence = [table]
    dataset.save_as(path)
    return path


def test_a_voi_lut_comes_before_a_window(tmp_path: Path) -> None:
    entries = [0, 1023, 512, 256]  # of values 499 and below, 500, 501, 502 and above
    expected = [[0, 0, 255], [64, 64, 64]]
    assert gray(add_lut(write(tmp_path / "a.dcm", VALUES, **WINDOW), 499, entries, 10)) == expected
    inverted = add_lut(write(tmp_path / "b.dcm", VALUES, **WINDOW, is_inverted=True), 499, entries, 10)
    assert gray(inverted) == [[255 - value for value in row] for row in expected]


def test_a_voi_lut_needs_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = add_lut(write(tmp_path / "a.dcm", VALUES), 0, [0, 1], 10)
    monkeypatch.setattr(dicom.importlib.util, "find_spec", lambda name: None if name == "pydicom" else name)
    with pytest.raises(DataFault, match=r"has a VOI LUT, which needs pydicom: pip install"):
        decode_rgb(ImageFile(path))


@pytest.mark.parametrize("tags", [{}, {CENTER: "500", WIDTH: "0"}, {CENTER: "", WIDTH: "x"}])
def test_without_a_window_the_values_are_scaled_as_of_any_16_bit_image(tmp_path: Path, tags: dict[str, str]) -> None:
    like_a_tiff = np.asarray(to_rgb(Image.fromarray(VALUES.astype(np.int32))))[..., 0]
    assert gray(write(tmp_path / "a.dcm", VALUES, **tags)) == like_a_tiff.tolist()
    inverted = gray(write(tmp_path / "b.dcm", VALUES, **tags, is_inverted=True))
    assert inverted == (255 - like_a_tiff.astype(int)).tolist()
    small = np.array([[3, 4], [5, 250]], np.uint8)
    assert gray(write(tmp_path / "c.dcm", small)) == small.tolist()
    assert gray(write(tmp_path / "d.dcm", small, is_inverted=True)) == (255 - small).tolist()


def test_the_window_is_of_rescaled_values(tmp_path: Path) -> None:
    tags = {"0028|1053": "2", "0028|1052": "-1000", CENTER: "0", WIDTH: "401", "0008|0060": "CT"}
    path = write(tmp_path / "a.dcm", np.array([[-1000, -200, 0, 200, 1000]], np.int16), **tags)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    assert reader.GetMetaData("0028|1053").strip() == "2"
    assert gray(path) == [[0, 0, 128, 255, 255]]
    inverted = write(tmp_path / "b.dcm", np.array([[-1000, -200, 0, 200, 1000]], np.int16), is_inverted=True, **tags)
    assert gray(inverted) == [[255, 255, 127, 0, 0]]
    unsigned = write(tmp_path / "c.dcm", np.array([[0, 500, 4095]], np.uint16), is_inverted=True, **WINDOW)
    assert gray(unsigned) == [[255, 127, 0]]
    of_12_bits = unsigned.read_bytes()
    for element, value in ((b"\x01\x01", 16), (b"\x02\x01", 15)):  # bits stored, high bit
        tag = b"\x28\x00" + element + b"\x02\x00\x00\x00"
        assert tag + bytes([value]) in of_12_bits
        of_12_bits = of_12_bits.replace(tag + bytes([value]), tag + bytes([value - 4]))
    unsigned.write_bytes(of_12_bits)
    assert gray(unsigned) == [[255, 127, 0]]


def test_color_and_names_without_a_suffix(tmp_path: Path) -> None:
    color = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    write(tmp_path / "a.dcm", color, is_color=True).rename(tmp_path / "IM0001")
    np.testing.assert_array_equal(np.asarray(decode_rgb(ImageFile(tmp_path / "IM0001"))), color[0])


def test_what_is_no_single_frame_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = write(tmp_path / "frames.dcm", np.zeros((3, 4, 5), np.uint16))
    with pytest.raises(UnreadableImage, match=r"^it holds 3 frames; save the one to be captioned as a file of its"):
        decode_rgb(ImageFile(frames))
    whole = write(tmp_path / "whole.dcm", VALUES)
    (tmp_path / "cut.dcm").write_bytes(whole.read_bytes()[:-5])
    (tmp_path / "mark.dcm").write_bytes(bytes(128) + b"DICM" + b"junk" * 9)
    for name in ("cut", "mark"):
        with pytest.raises(UnreadableImage, match=r"^its DICOM content cannot be read \(") as caught:
            decode_rgb(ImageFile(tmp_path / f"{name}.dcm"))
        assert "\n" not in caught.value.reason
    table = add_lut(write(tmp_path / "table.dcm", VALUES), 0, [], 10)  # without entries
    with pytest.raises(UnreadableImage, match=r"^its VOI LUT is broken \("):
        decode_rgb(ImageFile(table))
    vast = bytearray(whole.read_bytes())
    for element in (b"\x10", b"\x11"):  # rows, columns
        start = vast.index(b"\x28\x00" + element + b"\x00\x02\x00\x00\x00") + 8
        vast[start : start + 2] = b"\xff\xff"
    (tmp_path / "vast.dcm").write_bytes(vast)
    with pytest.raises(UnreadableImage, match=r"^its header says 65535 x 65535 pixels"):
        decode_rgb(ImageFile(tmp_path / "vast.dcm"))
    (tmp_path / "text.dcm").write_text("no image")
    with pytest.raises(UnreadableImage, match=r"^not an image, or damaged"):
        decode_rgb(ImageFile(tmp_path / "text.dcm"))
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataFault, match=r"DICOM files are read by SimpleITK.*pip install 'medcap-sweep\[dicom\]'"):
        decode_rgb(ImageFile(whole))


def test_a_table_of_radiographs_is_prepared_and_blank_ones_are_named(tmp_path: Path, draw_image: DrawImage) -> None:
    generator = np.random.default_rng(0)
    for index in range(31):
        write(tmp_path / f"{index}.dcm", generator.integers(0, 4096, (16, 16)).astype(np.int16))
    draw_image(tmp_path / "white.png", 250)
    Image.fromarray(generator.integers(0, 3, (16, 16)).astype(np.uint8)).save(tmp_path / "dark.png")
    rows = ["path,report,split", *(f"{index}.dcm,report,train" for index in range(28)), "white.png,x,train"]
    rows += ["28.dcm,x,val", "dark.png,x,val", "29.dcm,x,test", "30.dcm,x,test"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    config = TrialConfig(data=str(tmp_path / "t.csv"))
    data = prepare_data(config, ImageGeometry(8))
    assert data.kind == "table of image paths and captions"
    assert not data.skipped
    assert data.splits["train"].pixels([0]).std() > 20
    assert describe_doubtful_inputs(config, ImageGeometry(8)) == [
        "2 images are nearly black or constant and show a model nothing (train white.png, validation dark.png): look "
        "at them, and write those anew that were scaled twice or saved with the wrong depth."
    ]


def test_a_pipe_among_the_images_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(UnreadableImage, match=r"^a pipe or device, not a file$") as caught:
        decode_rgb(ImageFile(tmp_path / "a.png"))
    assert not caught.value.lasting
    with pytest.raises(UnreadableImage, match=r"^a pipe or device, not a file$"):
        VolumeGeometry(8).decode(NiftiFile(tmp_path / "a.nii"))


def test_two_echoes_in_one_series_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    for echo in ("2.5", "80"):
        write_series(tmp_path / echo, number_voxels((3, 5, 4)) + float(echo), (1, 1, 3), **{"0018|0081": echo})
        folder.mkdir(exist_ok=True)
        for file in (tmp_path / echo).iterdir():
            file.rename(folder / f"{echo}_{file.name}")
    with pytest.raises(ValueError, match=r"holds 2 images at one position, echo times 2.5, 80 ms; give a folder for"):
        find_volume(folder).read()


def test_a_dicom_series_comes_out_as_ras(tmp_path: Path) -> None:
    stored = number_voxels((3, 5, 4))
    write_series(tmp_path / "series", stored, (1.0, 2.0, 3.0))
    volume = find_volume(tmp_path / "series").read()
    np.testing.assert_array_equal(volume.voxels, stored[::-1, ::-1])
    assert volume.voxel_size_mm == pytest.approx((1.0, 2.0, 3.0))
    stamp = find_volume(tmp_path / "series").fingerprint()
    os.utime(next((tmp_path / "series").iterdir()), ns=(9, 9))
    assert find_volume(tmp_path / "series").fingerprint() != stamp


def test_damaged_dicom_series(tmp_path: Path) -> None:
    for name in ("gap", "cut"):
        write_series(tmp_path / name, number_voxels((3, 5, 6)), (1.0, 2.0, 3.0))
    (tmp_path / "gap" / "1.2.3_1.dcm").unlink()  # the fourth of six slices
    cut_slice = tmp_path / "cut" / "1.2.3_7.dcm"
    cut_slice.write_bytes(cut_slice.read_bytes()[:-17])
    for name, reason in (
        ("gap", "slices are missing: most lie 3 mm apart, but two of them 6 mm"),
        ("cut", "1 of its .dcm files cannot be read, such as 1.2.3_7.dcm"),
    ):
        with pytest.raises(UnreadableImage) as caught:
            VolumeGeometry(8).decode(find_volume(tmp_path / name))
        assert caught.value.reason.startswith(reason)


def test_dicom_folders_that_hold_no_one_series(tmp_path: Path) -> None:
    write_series(tmp_path / "two", number_voxels((3, 5, 2)), (1, 1, 1), "1.2.3")
    write_series(tmp_path / "two", number_voxels((3, 5, 2)), (1, 1, 1), "1.2.4")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "readme.txt").write_text("x")
    for name, reason in (("two", "the folder holds 2 DICOM series"), ("none", "the folder holds no DICOM series")):
        with pytest.raises(UnreadableImage, match=reason):
            VolumeGeometry(8).decode(find_volume(tmp_path / name))


def test_dicom_without_its_reader_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataFault, match=r"pip install 'medcap-sweep\[dicom\]'"):
        VolumeGeometry(8).decode(DicomSeries(tmp_path))
