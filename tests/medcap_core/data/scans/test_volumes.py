"""Volumes of every kind reach one orientation, one size and eight bits; broken ones reach one sentence."""

import gzip
import hashlib
import io
import json
import os
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medcap_core.config import TrialConfig
from medcap_core.data.decoding import UnreadableImage
from medcap_core.data.images import ImageGeometry
from medcap_core.data.prepare import describe_doubtful_inputs, find_duplicate_images, prepare_data, write_skipped
from medcap_core.data.records import SPLITS, ImageFile, Record, Volume
from medcap_core.data.scans.files import DicomSeries, NiftiFile, NpyFile, find_volume
from medcap_core.data.scans.records import ScanRecord
from medcap_core.data.scans.volumes import VolumeGeometry, compute_shape, to_cube
from medcap_core.data.stores.duplicates import DuplicatePair
from medcap_core.data.stores.images import ImageStore, compute_store_key
from medcap_core.errors import DataFault
from medcap_core.scoring.baselines import describe_pixels, find_nearest_captions
from tests.medcap_core.data.conftest import DrawImage
from tests.support.volume_writing import number_voxels, write_nifti

GEOMETRY = VolumeGeometry(8)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "LSP", "PIR", "SAL"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_every_orientation_comes_out_as_ras(tmp_path: Path, axes: str, suffix: str) -> None:
    """The same head stored in another way gives the same array."""
    head, sizes = number_voxels((3, 5, 7)), (1.0, 2.0, 4.0)
    ras, own = (nibabel.orientations.axcodes2ornt(tuple(codes)) for codes in ("RAS", axes))
    orientation = nibabel.orientations.ornt_transform(ras, own)
    stored = nibabel.apply_orientation(head, orientation)
    stored_sizes = [sizes[int(axis)] for axis in np.argsort(orientation[:, 0])]
    volume = NiftiFile(write_nifti(tmp_path / f"a{suffix}", stored, axes, stored_sizes)).read()
    np.testing.assert_array_equal(volume.voxels, head)
    assert volume.voxels.dtype == np.float32
    assert volume.voxel_size_mm == sizes


def test_lps_is_flipped_on_two_axes_by_hand(tmp_path: Path) -> None:
    stored = np.array([[[0, 1], [2, 3]], [[4, 5], [6, 7]]], np.int16)
    reference = NiftiFile(write_nifti(tmp_path / "lps.nii", stored, "LPS"))
    assert reference.open().tolist() == [[[6, 7], [4, 5]], [[2, 3], [0, 1]]]
    nibabel.save(nibabel.as_closest_canonical(nibabel.load(reference.path)), tmp_path / "ras.nii")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "ras.nii").get_fdata(), reference.open())


def test_slope_units_second_version_and_fourth_axis(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(30, dtype=np.int16).reshape(2, 3, 5), np.diag([2.0, 3.0, 5.0, 1.0]))
    image.header.set_slope_inter(0.5, 10)
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "a.nii")
    volume = NiftiFile(tmp_path / "a.nii").read()
    np.testing.assert_array_equal(volume.voxels, 0.5 * np.arange(30).reshape(2, 3, 5) + 10)
    assert volume.voxel_size_mm == (2000.0, 3000.0, 5000.0)
    voxels = number_voxels((2, 3, 5, 1))
    nibabel.save(nibabel.Nifti2Image(voxels, np.eye(4)), tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(NiftiFile(tmp_path / "b.nii.gz").open(), voxels[..., 0])
    (tmp_path / "b.nii.gz").rename(tmp_path / "c.nii")  # compressed, whatever its name says
    np.testing.assert_array_equal(NiftiFile(tmp_path / "c.nii").open(), voxels[..., 0])


def test_the_affine_wins_over_the_zooms_and_the_file_is_named(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", number_voxels((6, 6, 6)), "LSP", (2.0, 3.0, 5.0))
    whole = bytearray((tmp_path / "a.nii").read_bytes())
    whole[80:92] = struct.pack("<3f", 1, 1, 1)
    (tmp_path / "b.nii").write_bytes(whole)
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(bytes(whole)))
    expected = NiftiFile(tmp_path / "a.nii").read()
    assert expected.voxel_size_mm == (2.0, 5.0, 3.0)
    for name in ("b.nii", "c.nii.gz"):
        volume = NiftiFile(tmp_path / name).read()
        assert volume.voxel_size_mm == expected.voxel_size_mm
        np.testing.assert_array_equal(volume.voxels, expected.voxels)
    names = ["b.nii", "c.nii.gz", *(f"{number}.nii" for number in range(8))]
    for name in names[2:]:
        (tmp_path / name).write_bytes((tmp_path / "a.nii").read_bytes())
    (tmp_path / "t.csv").write_text("path,report,subject\n" + "\n".join(f"{name},r,{name}" for name in names))
    (said,) = describe_doubtful_inputs(TrialConfig(data=str(tmp_path / "t.csv")), GEOMETRY)
    assert said.startswith("2 NIfTI files state two voxel sizes, of which the affine's is used (")
    assert f"{tmp_path / 'c.nii.gz'} (2 x 3 x 5 mm by its affine, 1 x 1 x 1 mm by pixdim)" in said


def test_npy_is_taken_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", number_voxels((2, 3, 5, 1)).astype(np.uint16))
    volume = NpyFile(tmp_path / "a.npy").read()
    np.testing.assert_array_equal(volume.voxels, number_voxels((2, 3, 5)))
    assert (volume.voxels.dtype, volume.voxel_size_mm) == (np.float32, (1.0, 1.0, 1.0))


def test_names_tell_the_kind(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    kinds = {name: type(find_volume(tmp_path / name)) for name in ("a.nii", "A.NII.GZ", "b.npy", "series")}
    assert kinds == {"a.nii": NiftiFile, "A.NII.GZ": NiftiFile, "b.npy": NpyFile, "series": DicomSeries}
    with pytest.raises(ValueError, match=r"'scan.mgz' is no volume by its name: convert it to .nii.gz, or"):
        find_volume(tmp_path / "scan.mgz")
    assert GEOMETRY.refer_to(tmp_path / "b.npy") == NpyFile(tmp_path / "b.npy")


def test_values_by_hand_without_resizing() -> None:
    """2 x 2 x 3 voxels in a cube of 3: scaled by minimum and maximum, padded behind on the short axes."""
    voxels = np.array([[[-100, 0, 3], [-100, -100, -100]], [[np.nan, 155, -49], [-100, -100, -100]]], np.float32)
    cube = to_cube(Volume(voxels, (1, 1, 1)), 3)
    assert cube.shape == (1, 3, 3, 3)
    assert cube.dtype == np.uint8
    assert cube[0, :, 0].tolist() == [[0, 100, 103], [0, 255, 51], [0, 0, 0]]
    assert cube[0, :, 1:].max() == 0
    widest = np.broadcast_to(np.array([-3e38, 0.0, 3e38], np.float32), (2, 2, 3))
    assert to_cube(Volume(widest, (1, 1, 1)), 3)[0, 1, 1].tolist() == [0, 128, 255]
    infinite = np.broadcast_to(np.array([0.0, 51.0, np.inf, -np.inf, 255.0], np.float32), (3, 3, 5))
    assert to_cube(Volume(infinite, (1, 1, 1)), 5)[0, 2, 2].tolist() == [0, 51, 0, 0, 255]


@pytest.mark.parametrize(
    ("shape", "voxel_size_mm", "expected"),
    [
        ((10, 10, 10), (1, 1, 1), (8, 8, 8)),
        ((20, 10, 5), (1, 1, 1), (8, 4, 2)),
        ((20, 20, 5), (1, 1, 4), (8, 8, 8)),  # thick slices: the head is as tall as it is wide
        ((10, 10, 10), (0.5, 1, 2), (2, 4, 8)),
        ((400, 400, 2), (1, 1, 0.1), (8, 8, 1)),
    ],
)
def test_proportions_follow_millimetres(
    shape: tuple[int, int, int], voxel_size_mm: tuple[float, float, float], expected: tuple[int, int, int]
) -> None:
    volume = Volume(number_voxels(shape), voxel_size_mm)
    assert compute_shape(volume, 8) == expected
    filled = np.argwhere(to_cube(volume, 8)[0])
    starts = [(8 - length) // 2 for length in expected]
    assert (filled.min(0) >= starts).all()
    assert (filled.max(0) < [start + length for start, length in zip(starts, expected, strict=True)]).all()


def test_anisotropic_voxels_draw_the_same_ball() -> None:
    """One ball sampled on two grids gives nearly the same cube; by numbers of voxels it would be flattened."""

    def sample(shape: tuple[int, int, int]) -> Volume:
        centres = [(np.arange(count) + 0.5) * (60 / count) - 30 for count in shape]
        x, y, z = np.meshgrid(*centres, indexing="ij")
        radius = np.sqrt(x**2 + y**2 + z**2)
        return Volume((1 / (1 + np.exp(radius - 20))).astype(np.float32), tuple(60 / count for count in shape))

    fine, coarse = to_cube(sample((60, 60, 60)), 15), to_cube(sample((60, 60, 20)), 15)
    assert np.abs(fine.astype(int) - coarse.astype(int)).max() < 40
    assert np.abs(fine.astype(int) - coarse.astype(int)).mean() < 3


def test_shrinking_by_much_skips_no_voxel() -> None:
    """A grid of single bright voxels, a fifth of each axis: plain trilinear sampling would miss or double them."""
    voxels = np.zeros((40, 40, 40), np.float32)
    voxels[::5, ::5, ::5] = 1
    cube = to_cube(Volume(voxels, (1, 1, 1)), 4)
    assert cube.mean() == pytest.approx(255 / 125, abs=0.5)
    assert cube.std() < 0.6
    exact = np.kron(np.arange(8).reshape(2, 2, 2), np.ones((4, 4, 4))).astype(np.float32)
    assert to_cube(Volume(exact, (1, 1, 1)), 2)[0].ravel().tolist() == [round(255 * n / 7) for n in range(8)]


def test_a_smooth_ramp_keeps_its_ends_and_its_line() -> None:
    ramp = np.broadcast_to(np.arange(50, dtype=np.float32)[:, None, None], (50, 50, 50))
    line = to_cube(Volume(np.ascontiguousarray(ramp), (1, 1, 1)), 5)[0, :, 2, 2]
    assert line.tolist() == [round(255 * (10 * cell + 4.5) / 49) for cell in range(5)]


def break_header(offset: int, content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        whole = bytearray(write_nifti(path, number_voxels().astype(np.int16)).read_bytes())
        whole[offset : offset + len(content)] = content
        path.write_bytes(whole)

    return write


def cut(name: str, share: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 999, (11, 13, 17)).astype(np.int16)
        whole = write_nifti(path.with_name(name), noise).read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])

    return write


def spoil_middle(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (11, 13, 17)).astype(np.int16)
    whole = bytearray(write_nifti(path, noise).read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def save_npy(values: object) -> Callable[[Path], None]:
    return lambda path: np.save(path, values)  # type: ignore[arg-type]


def save_npy_header(shape: tuple[int, ...]) -> Callable[[Path], None]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return lambda path: path.write_bytes(header.getvalue())


def save_nii(shape: tuple[int, ...], dtype: str = "f4", value: float = 1) -> Callable[[Path], None]:
    return lambda path: nibabel.save(nibabel.Nifti1Image(np.full(shape, value, dtype), np.eye(4)), path)


NAN = float("nan")
HEADER = "its NIfTI header is broken"
BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("cut.nii.gz", cut("whole.nii.gz", 0.6), "its gzip stream ends too early: the file was cut off"),
    ("spoilt.nii.gz", spoil_middle, "its gzip stream is damaged ("),
    ("cut.nii", cut("whole.nii", 0.6), "it is shorter than its header says (Expected 4862 bytes, got "),
    ("header.nii", cut("whole.nii", 0.04), "no NIfTI file, or damaged in its header"),
    ("empty.nii", lambda path: path.touch(), "the file is empty"),
    ("text.nii.gz", lambda path: path.write_text("no volume " * 99), "no NIfTI file, or damaged in its header"),
    ("gzip_of_text.nii.gz", lambda path: path.write_bytes(gzip.compress(b"text")), "no NIfTI file, or damaged"),
    ("nan.nii.gz", save_nii((2, 3, 5), value=NAN), "it has no finite voxel (all are NaN or infinite)"),
    ("constant.nii.gz", save_nii((2, 3, 5), value=7), "it is constant: every voxel is 7"),
    ("flat.nii.gz", save_nii((3, 5)), "it is 2D (3 x 5); give one volume with three axes"),
    ("slice.nii.gz", save_nii((3, 5, 1)), "it is flat (3 x 5 x 1); give a volume of several slices"),
    ("moving.nii.gz", save_nii((2, 3, 5, 7)), "it is 4D (2 x 3 x 5 x 7); give one volume with three axes"),
    ("complex.nii", save_nii((2, 3, 5), "c8"), "its voxels are complex64, not single real numbers"),
    ("size.nii", break_header(0, b"\x63\0\0\0"), "no NIfTI file, or damaged in its header"),
    ("magic.nii", break_header(344, b"what"), HEADER),
    ("axes.nii", break_header(40, struct.pack("<h", 0)), HEADER),
    ("negative.nii", break_header(42, struct.pack("<h", -3)), f"{HEADER} (it says that the shape is -3 x 5 x 7)"),
    ("huge.nii", break_header(42, struct.pack("<3h", 9999, 9999, 9999)), f"{HEADER} (it says that the shape is 9999"),
    ("type.nii", break_header(70, struct.pack("<h", 9999)), f"{HEADER} (there is no data type 9999)"),
    ("zoom.nii", break_header(80, struct.pack("<f", 0)), f"{HEADER} (it says that voxels measure 0 x 1 x 1 mm)"),
    ("nan_zoom.nii", break_header(84, struct.pack("<f", NAN)), f"{HEADER} (it says that voxels measure 1 x nan x"),
    ("affine.nii", break_header(280, struct.pack("<4f", *[0] * 4)), f"{HEADER} (its affine does not say where"),
    ("offset.nii", break_header(108, struct.pack("<f", 1e9)), "it is shorter than its header says"),
    ("far.nii", break_header(108, struct.pack("<f", NAN)), f"{HEADER} (it says that voxels begin at byte nan)"),
    ("objects.npy", save_npy(np.array([{"a": 1}], dtype=object)), "it holds Python objects or is no .npy file"),
    ("text.npy", lambda path: path.write_text("no volume"), "it holds Python objects or is no .npy file"),
    ("empty.npy", lambda path: path.touch(), "it is no whole .npy file (No data left in file)"),
    ("vast.npy", save_npy_header((9999, 9999, 9999)), "it is no whole .npy file (mmap length is greater"),
    ("words.npy", save_npy(np.array([[["a"]]])), "its values are <U1, not real numbers"),
    ("flat.npy", save_npy(np.ones((3, 5))), "a volume has three axes, but this has shape 3 x 5"),
    ("moving.npy", save_npy(np.ones((2, 3, 5, 7))), "a volume has three axes, but this has shape 2 x 3 x 5 x 7"),
    ("none.npy", save_npy(np.ones((0, 3, 5))), "a volume has three axes, but this has shape 0 x 3 x 5"),
    ("nan.npy", save_npy(np.full((2, 3, 5), NAN)), "it has no finite voxel (all are NaN or infinite)"),
    ("constant.npy", save_npy(np.zeros((2, 3, 5))), "it is constant: every voxel is 0"),
    ("absent.nii", lambda path: None, "No such file or directory"),
]


@pytest.mark.parametrize(("name", "write", "reason"), BROKEN, ids=[name for name, *_ in BROKEN])
def test_broken_volumes_have_one_clear_line(
    tmp_path: Path, name: str, write: Callable[[Path], object], reason: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(UnreadableImage) as caught:
        GEOMETRY.decode(find_volume(tmp_path / name))
    assert caught.value.reason.startswith(reason)
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 160
    assert caught.value.lasting is (name != "absent.nii")


def test_images_and_volumes_are_not_taken_for_each_other(tmp_path: Path, draw_image: DrawImage) -> None:
    image = ImageFile(draw_image(tmp_path / "a.png", 3))
    with pytest.raises(UnreadableImage, match=r"^an image, where a volume is needed$"):
        GEOMETRY.decode(image)
    np.save(tmp_path / "a.npy", number_voxels())
    with pytest.raises(UnreadableImage, match=r"^a volume, where an image is needed$"):
        ImageGeometry(8).decode(NpyFile(tmp_path / "a.npy"))
    rows = [f"{draw_image(tmp_path / f'{number}.png', number).name},x\n" for number in range(30)]
    (tmp_path / "t.csv").write_text("path,caption\n" + "".join(rows))
    with pytest.raises(DataFault, match=r"t.csv holds flat images, but the model phantom-blip takes scans"):
        prepare_data(TrialConfig(data=str(tmp_path / "t.csv")), GEOMETRY)


def test_the_key_of_images_holds_nothing_of_volumes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    os.utime(tmp_path / "a.png", ns=(5, 5))
    records = [Record("one", ImageFile(tmp_path / "a.png"), "text")]
    described = json.dumps([2, {"resample": 3, "size": 5}]).encode()
    assert compute_store_key(records, ImageGeometry(5)) == hashlib.sha256(described + b"one\0a.png:7:5\n").hexdigest()
    assert ImageGeometry(5).described == asdict(ImageGeometry(5))
    assert compute_store_key(records, VolumeGeometry(5)) != compute_store_key(records, ImageGeometry(5))
    assert compute_store_key(records, VolumeGeometry(5)) != compute_store_key(records, VolumeGeometry(6))


def build_table(folder: Path, num_subjects: int = 23) -> Path:
    """Two scans a subject, by `.npy`, whose ramp points along another axis for odd subjects; one is broken."""
    rows = ["path,report,subject"]
    for subject in range(num_subjects):
        for visit in range(2):
            name = f"s{subject}_{visit}.npy"
            ramp = np.arange(6, dtype=np.float32)
            voxels = np.zeros((6, 6, 6)) + (ramp[:, None, None] if subject % 2 else ramp)
            voxels += 0.01 * subject + visit * 0.001
            voxels[0, 0, 0] -= subject + visit / 2
            np.save(folder / name, voxels)
            rows.append(f"{name},report of subject {subject} {'x' if subject % 2 else 'z'},p{subject}")
    np.save(folder / "s0_1.npy", np.ones((6, 6, 6)))
    (folder / "scans.csv").write_text("\n".join(rows))
    return folder / "scans.csv"


def test_scans_are_prepared_as_images_are(tmp_path: Path) -> None:
    config = TrialConfig(data=str(build_table(tmp_path)))
    told: list[str] = []
    data = prepare_data(config, GEOMETRY, splits=SPLITS, progress=lambda *step: told.append(step[0]))
    assert data.kind == "table of scans and reports"
    assert [record.reason for record in data.skipped] == ["unreadable scan: it is constant: every voxel is 1"]
    write_skipped(data.skipped, tmp_path / "skipped_records.csv")
    assert (tmp_path / "skipped_records.csv").read_text().splitlines()[1].endswith("it is constant: every voxel is 1")
    train = data.splits["train"]
    assert train.pixels([0, 2, 1]).shape == (3, 1, 8, 8, 8)
    np.testing.assert_array_equal(train.pixels([2])[0], GEOMETRY.decode(train.records[2].image))
    cases = {split: {record.case for record in part.records} for split, part in data.splits.items()}
    assert not cases["train"] & (cases["validation"] | cases["test"])
    assert "There is no test split: 6 scans were cut from train, by whole subjects, by seed 0." in data.notes
    assert "decoding train scans at 8 voxels a side" in told
    with pytest.raises(DataFault, match=r"scans.csv holds scans, but the model phantom-blip takes flat images: use"):
        prepare_data(config, ImageGeometry(8))
    nearest = find_nearest_captions(data.splits["test"], train)
    assert [caption[-1] for caption in nearest] == [record.caption[-1] for record in data.splits["test"].records]


def test_the_store_takes_volumes_of_all_kinds(tmp_path: Path) -> None:
    voxels = number_voxels((5, 7, 3))
    np.save(tmp_path / "a.npy", voxels)
    references = [
        NpyFile(tmp_path / "a.npy"),
        NiftiFile(write_nifti(tmp_path / "b.nii.gz", voxels[::-1], "LAS")),
        NiftiFile(tmp_path / "absent.nii"),
    ]
    store = ImageStore([ScanRecord(f"r{n}", reference, "x") for n, reference in enumerate(references)], GEOMETRY)
    store.ensure(np.arange(3))
    first, second = store.pixels(np.arange(2))
    np.testing.assert_array_equal(first, second)
    assert store.unreadable == {2: "No such file or directory"}
    assert store.folder.name == store.key[:32]


def test_descriptors_of_volumes_ignore_brightness() -> None:
    generator = np.random.default_rng(3)
    volume = generator.integers(20, 100, (16, 16, 16), dtype=np.uint8).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    other = volume[::-1]
    first, brighter, flipped = describe_pixels(np.stack([volume, 2 * volume + 30, other])[:, None])
    assert first.shape == (16**3,)
    assert first @ brighter == pytest.approx(1, abs=1e-4)
    assert abs(first @ flipped) < 0.1
    assert not describe_pixels(np.full((1, 1, 17, 17, 17), 9, np.uint8)).any()


def test_duplicates_of_scans_are_found_exactly_whatever_their_file(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    heads = [generator.random((5, 7, 3)).astype(np.float32) for _ in range(6)]
    rows = ["path,report,subject,split"]
    for number, head in enumerate(heads):
        np.save(tmp_path / f"{number}.npy", head)
        rows.append(f"{number}.npy,one,p{number},{('train', 'validation', 'test')[number % 3]}")
    write_nifti(tmp_path / "again.nii.gz", heads[2][::-1], "LAS")
    rows.append("again.nii.gz,one,p9,train")
    np.save(tmp_path / "nearly.npy", heads[1] + np.float32(0.02) * generator.random((5, 7, 3)).astype(np.float32))
    rows.append("nearly.npy,one,p10,train")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    config = TrialConfig(data=str(tmp_path / "scans.csv"))
    found = find_duplicate_images(config, GEOMETRY)
    assert found.pairs == [DuplicatePair("train", "again.nii.gz", "test", "2.npy", "exact", 0)]
    assert found.describe(dropped=False) == (
        "Duplicate scans: 1 train scans are also in test (1 exact); drop_duplicate_train_images: true would remove "
        "them; scans are compared exactly only"
    )
    dropping = config.model_copy(update={"drop_duplicate_train_images": True})
    assert prepare_data(dropping, GEOMETRY).splits["train"].ids == ["0.npy", "3.npy", "nearly.npy"]


def test_a_real_template_of_the_head(head_template: Path, tmp_path: Path) -> None:
    """The whole way from NIfTI to the cube."""
    volume = find_volume(head_template).read()
    assert volume.voxels.shape == (197, 233, 189)
    assert volume.voxel_size_mm == (1.0, 1.0, 1.0)
    cube = to_cube(volume, 32)[0]
    assert not cube[:2].any()
    assert not cube[29:].any()  # 27 of 32 voxels from side to side
    head = cube[2:29, :, 3:29].astype(float)
    filled = np.argwhere(head > 25)
    assert (filled.max(0) - filled.min(0) + 1).tolist() == [21, 26, 22]
    assert np.corrcoef(head.flat, head[::-1].flat)[0, 1] > 0.99  # the same on both sides, and along no other axis
    assert np.corrcoef(head.flat, head[:, ::-1].flat)[0, 1] < 0.9
    assert np.corrcoef(head.flat, head[:, :, ::-1].flat)[0, 1] < 0.9
    coarse = volume.voxels[::3, ::3, ::3]
    flipped = write_nifti(tmp_path / "lps.nii", coarse[::-1, ::-1], "LPS")
    np.testing.assert_array_equal(GEOMETRY.decode(NiftiFile(flipped)), to_cube(Volume(coarse, (1, 1, 1)), 8))
