"""Images that two splits share: found exactly and nearly, listed, kept for the next time, and dropped from train."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from medcap_core.config import TrialConfig
from medcap_core.data.images import ImageGeometry, resize, to_rgb
from medcap_core.data.phantoms import load_phantoms
from medcap_core.data.prepare import find_duplicate_images, prepare_data
from medcap_core.data.stores.duplicates import (
    HASH_SIDE,
    MAX_NEAR_BITS,
    DuplicateImages,
    DuplicatePair,
    ImageHashes,
    compute_hashes,
    match_hashes,
    write_duplicates,
)

GEOMETRY = ImageGeometry(96)


def count_bits(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.unpackbits(first ^ second, axis=1).sum(1).astype(np.int64)


def compress(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer).convert("RGB")


@pytest.fixture(scope="module")
def phantoms() -> list[Image.Image]:
    return [to_rgb(record.image.open()) for record in load_phantoms(sizes={"train": 40}).splits["train"]]


def to_pixels(images: list[Image.Image], size: int = 96) -> NDArray[np.uint8]:
    return np.stack([resize(image, size, GEOMETRY.resample) for image in images])


def test_bits_are_low_frequencies_above_their_median() -> None:
    # One cosine along x, of frequency 3: only that coefficient is far from zero, so its bit is set.
    wave = np.cos(np.pi / 64 * 3 * (np.arange(64) + 0.5)) * 100 + 128
    pixels = np.broadcast_to(wave.astype(np.uint8), (1, 3, 64, 64))
    bits = np.unpackbits(compute_hashes(pixels).bits).reshape(HASH_SIDE, HASH_SIDE)
    assert bits[0, 3] == 1
    assert bits[0, 0] == 0  # the mean takes no part
    negative = np.unpackbits(compute_hashes(255 - pixels).bits).reshape(HASH_SIDE, HASH_SIDE)
    assert negative[0, 3] == 0


def test_copies_are_near_and_other_images_are_not(phantoms: list[Image.Image]) -> None:
    whole = compute_hashes(to_pixels(phantoms))
    copies = {
        "compressed": [compress(image) for image in phantoms],
        "halved": [image.resize((64, 64)) for image in phantoms],
        "less contrast": [ImageEnhance.Contrast(image).enhance(0.8) for image in phantoms],
    }
    for name, changed in copies.items():
        distances = count_bits(compute_hashes(to_pixels(changed)).bits, whole.bits)
        assert distances.max() <= MAX_NEAR_BITS, name
    larger = compute_hashes(to_pixels(phantoms, 130))
    assert count_bits(larger.bits, whole.bits).max() <= MAX_NEAR_BITS
    apart = [count_bits(whole.bits, np.roll(whole.bits, shift, axis=0)).min() for shift in range(1, 40)]
    assert min(apart) > MAX_NEAR_BITS


def test_real_images_of_other_cases_are_not_near(sample_data: Path) -> None:
    folder = str(sample_data / "data" / "medpix2")
    config = TrialConfig(data=folder, max_train_images=150, max_validation_images=60, max_test_images=60)
    splits = prepare_data(config, GEOMETRY, splits=("train", "test")).splits
    hashes = {name: compute_hashes(split.pixels(slice(0, None))) for name, split in splits.items()}
    assert match_hashes(hashes["train"], hashes["test"]) == []


def make_hashes(bits: list[list[int]], digests: list[int], blank: list[bool]) -> ImageHashes:
    """Hashes whose set bits are given by number."""
    rows = np.zeros((len(bits), HASH_SIDE**2), np.uint8)
    for row, places in enumerate(bits):
        rows[row, places] = 1
    tags = np.zeros((len(bits), 16), np.uint8)
    tags[:, 0] = digests
    return ImageHashes(np.packbits(rows, axis=1), tags, np.array(blank, bool))


def test_the_nearest_duplicate_of_each_image_by_hand() -> None:
    mine = make_hashes([[1, 2, 3], [*range(40, 60)], [7], [1, 2], [9]], [1, 2, 3, 4, 5], [False] * 3 + [True, False])
    theirs = make_hashes(
        [[*range(40, 71)], [*range(40, 70)], [1, 2], [5], [7], [1, 2, 3, 4]], [11, 12, 13, 3, 3, 5], [False] * 6
    )
    steps: list[tuple[int, int]] = []
    matches = match_hashes(mine, theirs, lambda _what, done, total: steps.append((done, total)))
    assert matches == [
        (0, 2, 1),  # of two at 1 bit the first
        (1, 1, 10),  # at the limit; the other is at 11
        (2, 3, -1),  # the same pixels, the first of two
        (4, 5, -1),
    ]
    assert steps == [(5, 5)]


def test_blank_images_are_near_to_nothing() -> None:
    mine = make_hashes([[1], [1]], [1, 2], [True, False])
    assert match_hashes(mine, make_hashes([[1], [1]], [2, 3], [True, True])) == [(1, 0, -1)]
    assert match_hashes(mine, make_hashes([], [], [])) == []
    shades = np.stack([np.full((3, 64, 64), level, np.uint8) for level in (0, 90, 255)])
    assert compute_hashes(shades).blank.all()
    assert not compute_hashes(np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)).blank.any()


def test_many_images_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medcap_core.data.stores.duplicates._TABLE_BYTES", 4 * 31 * 7)
    generator = np.random.default_rng(3)
    bits = [sorted(generator.choice(256, 128, replace=False).tolist()) for _ in range(40)]
    everyone = make_hashes(bits, list(range(40)), [False] * 40)
    some = make_hashes(bits[:31], list(range(100, 131)), [False] * 31)
    assert match_hashes(everyone, some) == [(position, position, 0) for position in range(31)]


def test_the_list_and_the_line(tmp_path: Path) -> None:
    pairs = [
        DuplicatePair("train", "a,1", "test", "t", "exact", 0),
        DuplicatePair("train", "b", "validation", "v", "near", 4),
        DuplicatePair("train", "b", "test", "w", "near", 6),
    ]
    write_duplicates(pairs, tmp_path / "duplicate_images.csv")
    with (tmp_path / "duplicate_images.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[:2] == [
        ["split", "id", "other_split", "other_id", "kind", "distance"],
        ["train", "a,1", "test", "t", "exact", "0"],
    ]
    assert len(rows) == 4
    assert DuplicateImages(pairs, 0).describe(dropped=False) == (
        "Duplicate images: 2 train images are also in validation or test (1 exact, 2 near); "
        "drop_duplicate_train_images: true would remove them"
    )
    assert DuplicateImages(pairs[:1], 3).describe(dropped=True) == (
        "Duplicate images: 1 train images are also in test (1 exact, 0 near), removed from train; "
        "3 blank images were compared exactly only"
    )
    assert DuplicateImages([], 0).describe(dropped=True) == "Duplicate images: none of train in validation or test"


@pytest.fixture
def folder(tmp_path: Path, phantoms: list[Image.Image]) -> Path:
    """Train images 0 to 9 and a blank one; in validation 4 again as JPEG, in test 7 and the blank one again."""
    blank = Image.new("RGB", (50, 50), (7, 7, 7))
    content = {
        "train": [*phantoms[:10], blank],
        "validation": [phantoms[20], compress(phantoms[4]), phantoms[21]],
        "test": [phantoms[7], phantoms[22], blank, Image.new("RGB", (50, 50), (9, 9, 9))],
    }
    for split, images in content.items():
        (tmp_path / "data" / split).mkdir(parents=True)
        rows = ["file_name,text"]
        for index, image in enumerate(images):
            image.save(tmp_path / "data" / split / f"{split}-{index}.png")
            rows.append(f"{split}-{index}.png,image {index}")
        (tmp_path / "data" / split / "metadata.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "data"


EXPECTED = [
    ("train-4.png", "validation", "validation-1.png", "near"),
    ("train-7.png", "test", "test-0.png", "exact"),
    ("train-10.png", "test", "test-2.png", "exact"),
]


def test_duplicates_of_a_data_set_are_found_and_kept(folder: Path, cache: Path) -> None:
    config = TrialConfig(data=str(folder), max_validation_images=2)
    steps: list[str] = []
    found = find_duplicate_images(config, GEOMETRY, lambda what, done, total: steps.append(what))
    assert [(pair.id, pair.other_split, pair.other_id, pair.kind) for pair in found.pairs] == EXPECTED
    assert found.num_blank == 1
    assert found.pairs[0].distance > 0
    assert {"hashing train images", "comparing train with validation", "comparing train with test"} <= set(steps)
    steps.clear()
    assert find_duplicate_images(config, GEOMETRY, lambda what, done, total: steps.append(what)) == found
    assert steps == []
    for path in [*cache.rglob("hashes.u8"), *cache.rglob("duplicates-*.json")]:
        path.write_text("damaged")
    assert find_duplicate_images(config, GEOMETRY) == found


def test_duplicates_are_dropped_from_train_where_asked(folder: Path) -> None:
    config = TrialConfig(data=str(folder), max_bad_record_share=0.0)
    asked = config.model_copy(update={"drop_duplicate_train_images": True})
    kept = prepare_data(config, GEOMETRY).splits["train"]
    data = prepare_data(asked, GEOMETRY, splits=("train", "validation", "test"))
    assert len(kept) == 11
    assert data.splits["train"].ids == [f"train-{index}.png" for index in (0, 1, 2, 3, 5, 6, 8, 9)]
    assert data.splits["train"].captions == [f"image {index}" for index in (0, 1, 2, 3, 5, 6, 8, 9)]
    np.testing.assert_array_equal(data.splits["train"].pixels([4]), kept.pixels([5]))
    assert [len(data.splits[name]) for name in ("validation", "test")] == [3, 4]
    assert {(record.split, record.id): record.reason for record in data.skipped} == {
        ("train", "train-4.png"): "near duplicate of validation validation-1.png",
        ("train", "train-7.png"): "exact duplicate of test test-0.png",
        ("train", "train-10.png"): "exact duplicate of test test-2.png",
    }
    assert prepare_data(asked, GEOMETRY).splits["train"].ids == data.splits["train"].ids
    assert find_duplicate_images(asked, GEOMETRY) == find_duplicate_images(config, GEOMETRY)
