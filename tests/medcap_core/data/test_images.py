"""Every kind of image arrives as the right 8-bit RGB pixels."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from medcap_core.data.images import resize, to_rgb
from medcap_core.data.records import ImageFile

RESAMPLINGS = [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS]


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    assert image.mode == "RGB"
    return np.asarray(image)


def reopened(image: Image.Image, file_format: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    buffer.seek(0)
    loaded = Image.open(buffer)
    loaded.load()
    return loaded


def test_gray_becomes_three_equal_channels() -> None:
    values = np.array([[0, 40], [200, 255], [7, 9]], np.uint8)
    assert (pixels(to_rgb(Image.fromarray(values))) == values[..., None]).all()


def test_one_bit_becomes_black_and_white() -> None:
    image = Image.fromarray(np.array([[True, False, True]]))
    assert image.mode == "1"
    assert pixels(to_rgb(image))[0, :, 0].tolist() == [255, 0, 255]


def test_transparency_is_laid_on_black() -> None:
    rgba = Image.new("RGBA", (3, 1))
    for column, value in enumerate([(200, 100, 50, 255), (200, 100, 50, 0), (200, 100, 50, 51)]):
        rgba.putpixel((column, 0), value)
    assert pixels(to_rgb(rgba))[0].tolist() == [[200, 100, 50], [0, 0, 0], [40, 20, 10]]
    gray = Image.fromarray(np.array([[[90, 255], [90, 0]]], np.uint8), "LA")
    assert pixels(to_rgb(gray))[0, :, 0].tolist() == [90, 0]


def test_an_alpha_channel_of_zeros_is_dropped() -> None:
    assert pixels(to_rgb(Image.new("RGBA", (2, 2), (30, 60, 90, 0))))[1, 1].tolist() == [30, 60, 90]


def test_palettes_with_and_without_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 0, 9, 9, 9])
    for column in range(3):
        image.putpixel((column, 0), column)
    opaque = reopened(image, "PNG")
    assert opaque.mode == "P"
    assert pixels(to_rgb(opaque))[0].tolist() == [[10, 20, 30], [200, 100, 0], [9, 9, 9]]
    partly = reopened(image, "PNG", transparency=1)
    assert pixels(to_rgb(partly))[0].tolist() == [[10, 20, 30], [0, 0, 0], [9, 9, 9]]


def test_cmyk_jpeg() -> None:
    jpeg = reopened(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)
    assert jpeg.mode == "CMYK"
    assert pixels(to_rgb(jpeg))[8, 8].tolist() == pytest.approx([255, 0, 0], abs=14)


@pytest.mark.parametrize(("orientation", "expected"), [(1, [[1, 2, 3]]), (3, [[3, 2, 1]]), (6, [[1], [2], [3]])])
def test_exif_orientation_is_applied(orientation: int, expected: list[list[int]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = reopened(Image.fromarray(np.array([[1, 2, 3]], np.uint8)), "PNG", exif=exif)
    assert pixels(to_rgb(image))[:, :, 0].tolist() == expected


@pytest.mark.parametrize(("orientation", "expected"), [(3, [[6, 5, 4], [3, 2, 1]]), (6, [[4, 1], [5, 2], [6, 3]])])
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_rotated_files(tmp_path: Path, suffix: str, orientation: int, expected: list[list[int]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    gray = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    gray.save(tmp_path / f"one.{suffix}", exif=exif)
    gray.save(tmp_path / "pages.tif", exif=exif, save_all=True, append_images=[gray])
    for name in (f"one.{suffix}", "pages.tif"):
        assert pixels(to_rgb(ImageFile(tmp_path / name).open()))[:, :, 0].tolist() == expected


def test_16_bit_is_scaled_by_its_own_range() -> None:
    # Pillow alone turns 1000, 4000 and 40000 all into 255.
    ramp = np.linspace(1000, 40000, 40 * 50).round().astype(np.uint16).reshape(40, 50)
    made = Image.fromarray(ramp)
    for image in (made, reopened(made, "PNG"), reopened(made, "TIFF")):
        assert image.mode == "I;16"
        result = pixels(to_rgb(image))[:, :, 0].astype(float)
        assert (result.min(), result.max()) == (0, 255)
        assert abs(result.mean() - 127.5) < 0.5
        assert abs(result[20, 0] - 127.5) < 1.5


def test_16_bit_ignores_a_few_extreme_pixels() -> None:
    values = np.tile(np.array([100, 200], np.uint16), (40, 50))
    values[0, 0] = 65535  # one of 4,000 pixels: a burnt-in mark
    result = pixels(to_rgb(Image.fromarray(values)))[:, :, 0]
    assert result[1, :2].tolist() == [0, 255]
    assert result[0, 0] == 255


def test_a_small_structure_on_a_constant_ground_is_kept() -> None:
    values = np.zeros((40, 50), np.uint16)
    values[3, 4], values[3, 5] = 500, 1000  # 0.1% of the pixels: both percentiles are 0
    assert pixels(to_rgb(Image.fromarray(values)))[3, 4:6, 0].tolist() == [128, 255]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_constant_images_become_black_without_warning(dtype: type[np.generic]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(to_rgb(Image.fromarray(np.full((3, 5), 700, dtype)))).max() == 0


def test_signed_32_bit_and_float() -> None:
    hounsfield = np.array([[-1000, 0, 1000]], np.int32)
    expected = [[0, 128, 255]]
    assert Image.fromarray(hounsfield).mode == "I"
    for values in (hounsfield, hounsfield.astype(np.float32) / 7):
        assert pixels(to_rgb(Image.fromarray(values)))[:, :, 1].tolist() == expected


def test_nan_and_infinities() -> None:
    values = np.array([[np.nan, 0, 1, np.inf, -np.inf]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 255, 255, 0]
        assert pixels(to_rgb(Image.fromarray(np.full((2, 2), np.nan, np.float32)))).max() == 0
        widest = np.array([[-3e38, 0, 3e38]], np.float32)
        assert pixels(to_rgb(Image.fromarray(widest)))[0, :, 0].tolist() == [0, 128, 255]


def test_16_bit_tiff_in_which_zero_is_white() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    image = reopened(Image.fromarray(np.array([[0, 30000, 60000]], np.uint16)), "TIFF", tiffinfo=tags)
    assert pixels(to_rgb(image))[0, :, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("resample", RESAMPLINGS)
@pytest.mark.parametrize("shape", [(37, 61), (13, 11), (300, 200)])
def test_resize_equals_the_blip_processor(shape: tuple[int, int], resample: Image.Resampling) -> None:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    values = np.random.default_rng(5).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    processor = BlipImageProcessorPil(size={"height": 32, "width": 32}, resample=resample)
    expected = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
    ours = resize(to_rgb(image), 32, int(resample))
    assert ours.shape == (3, 32, 32)
    assert ours.dtype == np.uint8
    mean, std = (np.array(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    assert np.abs((ours / 255 - mean) / std - expected).max() < 1e-5
