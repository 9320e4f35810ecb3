import numpy as np

from medcap_core.data.scans.slices import cut_slices, find_in_slices, lay_out_slices

NOSE, LEFT_EAR, CROWN = 1, 2, 3


def build_head() -> np.ndarray:
    """A cube of 5 voxels a side, nose in front, left ear on the left, crown on top; RAS: x runs to the right."""
    cube = np.zeros((5, 5, 5), dtype=np.uint8)
    cube[2, 4, 2], cube[0, 2, 2], cube[2, 2, 4] = NOSE, LEFT_EAR, CROWN
    return cube


def where(plane: np.ndarray) -> dict[int, list[int]]:
    """(row, column) of each landmark."""
    return {int(plane[row, column]): [int(row), int(column)] for row, column in np.argwhere(plane)}


def test_slices_are_as_radiologists_see_them() -> None:
    sagittal, coronal, axial = cut_slices(build_head())
    assert where(sagittal) == {CROWN: [0, 2], NOSE: [2, 0]}  # the face looks to the left
    assert where(coronal) == {CROWN: [0, 2], LEFT_EAR: [2, 4]}  # the left ear on the right
    assert where(axial) == {NOSE: [0, 2], LEFT_EAR: [2, 4]}


def test_slices_go_through_any_place() -> None:
    sagittal, coronal, axial = cut_slices(build_head(), (0, 4, 2))
    assert where(sagittal) == {LEFT_EAR: [2, 2]}
    assert where(coronal) == {NOSE: [2, 2]}
    assert where(axial) == {NOSE: [0, 2], LEFT_EAR: [2, 4]}


def test_three_slices_make_one_picture() -> None:
    slices = cut_slices(build_head())
    sheet = lay_out_slices(slices)
    assert sheet.shape == (10, 10)
    assert np.array_equal(sheet[:5, :5], slices[1])
    assert np.array_equal(sheet[:5, 5:], slices[0])
    assert np.array_equal(sheet[5:, :5], slices[2])
    assert not sheet[5:, 5:].any()


def test_points_are_found_in_each_slice() -> None:
    """The middle of the voxel at (1, 4, 2) of 5, where all three slices through it cross."""
    cube = np.zeros((5, 5, 5), dtype=np.uint8)
    cube[1, 4, 2] = NOSE
    for plane, (across, down) in zip(cut_slices(cube, (1, 4, 2)), find_in_slices((0.3, 0.9, 0.5)), strict=True):
        assert where(plane) == {NOSE: [int(down * 5), int(across * 5)]}
