"""The nearest training image by descriptor, and images of other cases in place of an image's own."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from medcap_core.data.images import ImageGeometry
from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.records import Record
from medcap_core.data.stores.images import ImageStore
from medcap_core.scoring import baselines
from medcap_core.scoring.baselines import (
    compute_descriptors,
    describe_pixels,
    draw_wrong_images,
    find_nearest,
    find_nearest_captions,
)


def draw(seed, size=48):
    """A coarse pattern of grey blocks, uint8 (3, S, S)."""
    blocks = np.random.default_rng(seed).integers(40, 180, (8, 8), dtype=np.uint8)
    return np.broadcast_to(blocks.repeat(size // 8, 0).repeat(size // 8, 1), (3, size, size)).copy()


def test_descriptors_ignore_brightness_and_contrast():
    pixels = draw(1)
    brighter, flatter = pixels + 60, pixels // 2 + 7
    first, second, third, other = describe_pixels(np.stack([pixels, brighter, flatter, draw(2)]))
    assert first.shape == (256,)
    assert first.dtype == np.float32
    assert first @ first == pytest.approx(1, abs=1e-5)
    assert first @ second == pytest.approx(1, abs=1e-5)
    assert first @ third > 0.999
    assert abs(first @ other) < 0.5


def test_descriptor_by_hand():
    """16 px: each pixel is its own cell. One pixel of 256 at 255, the rest 0."""
    pixels = np.zeros((1, 3, 16, 16), np.uint8)
    pixels[0, :, 0, 3] = 255
    (descriptor,) = describe_pixels(pixels)
    mean = 1 / 256
    length = np.sqrt((1 - mean) ** 2 + 255 * mean**2)
    expected = np.full(256, -mean / length)
    expected[3] = (1 - mean) / length
    np.testing.assert_allclose(descriptor, expected, atol=1e-6)


def test_a_plain_image_is_near_to_nothing():
    descriptors = describe_pixels(np.stack([np.full((3, 32, 32), 77, np.uint8), draw(1, 32)]))
    assert not descriptors[0].any()
    assert np.isfinite(descriptors).all()


def test_blocks_change_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    candidates = generator.normal(size=(53, 7)).astype(np.float32)
    queries = generator.normal(size=(29, 7)).astype(np.float32)
    expected = [int(np.argmax([query @ other for other in candidates])) for query in queries]
    assert find_nearest(queries, candidates).tolist() == expected
    monkeypatch.setattr(baselines, "_CHUNK_QUERIES", 11)
    monkeypatch.setattr(baselines, "_CHUNK_CANDIDATES", 13)
    assert find_nearest(queries, candidates).tolist() == expected


def test_of_equals_the_first_is_taken_in_whatever_block(monkeypatch):
    monkeypatch.setattr(baselines, "_CHUNK_CANDIDATES", 2)
    same = np.array([0.6, 0.8], np.float32)
    other = np.array([0.8, -0.6], np.float32)
    candidates = np.stack([other, same, same, other, same])
    assert find_nearest(np.stack([same, other, np.zeros(2, np.float32)]), candidates).tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="no candidates"):
        find_nearest(candidates, candidates[:0])


@dataclass(frozen=True)
class DrawnImage:
    seed: int
    shift: int = field(default=0)

    def open(self):
        return Image.fromarray(np.moveaxis(draw(self.seed) + np.uint8(self.shift), 0, -1))

    def fingerprint(self):
        return f"{self.seed}:{self.shift}"


def prepare(images, split, root):
    records = [Record(str(number), image, f"pattern {image.seed}") for number, image in enumerate(images)]
    store = ImageStore(records, ImageGeometry(size=48), root)
    rows = np.arange(len(records))
    store.ensure(rows)
    return PreparedSplit(split, records, store, rows)


def test_captions_of_the_nearest_with_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "_CHUNK_IMAGES", 2)
    training = prepare([DrawnImage(seed) for seed in (3, 5, 7)], "train", tmp_path)
    images = prepare([DrawnImage(7, 50), DrawnImage(3, 20), DrawnImage(5, 70), DrawnImage(7)], "test", tmp_path)
    told = []
    captions = find_nearest_captions(images, training, lambda *step: told.append(step[1:]))
    assert captions == ["pattern 7", "pattern 3", "pattern 5", "pattern 7"]
    assert told == [(2, 7), (3, 7), (5, 7), (7, 7)]
    np.testing.assert_array_equal(compute_descriptors(images), describe_pixels(images.pixels(slice(None))))


@pytest.mark.parametrize("cases", [list("aabcdeeefg"), [None, "a", "a", None, "b"], ["a", "b"], ["a", "a", "b", "b"]])
@pytest.mark.parametrize("seed", range(7))
def test_each_image_goes_once_to_another_case(cases: list[str | None], seed: int) -> None:
    wrong = draw_wrong_images(cases, seed)
    assert sorted(wrong.tolist()) == list(range(len(cases)))
    for here, there in enumerate(wrong):
        assert here != there
        assert cases[here] is None or cases[here] != cases[there]
    assert wrong.tolist() == draw_wrong_images(cases, seed).tolist()


def test_the_seed_decides() -> None:
    assert len({tuple(draw_wrong_images([None] * 11, seed)) for seed in range(5)}) == 5


def test_a_case_with_most_images_keeps_some_but_no_image_its_own() -> None:
    for cases in (["a"] * 5, ["a", "a", "a", "b"]):
        wrong = draw_wrong_images(cases, 3)
        assert (wrong != np.arange(len(cases))).all()
        assert sorted(wrong.tolist()) == list(range(len(cases)))
