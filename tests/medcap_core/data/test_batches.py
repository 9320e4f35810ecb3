import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcap_core.data.batches import (
    BatchMaker,
    DrawnCaptions,
    PixelSource,
    Positions,
    SourcePart,
    derive_seed,
    order_of_epoch,
    split_step,
)
from medcap_core.models import TokenizedCaptions
from medcap_core.runtime.transfer import move, prefetch

CPU = torch.device("cpu")


class NumberedSplit:
    """Image i is filled with the number i."""

    def __len__(self) -> int:
        return 7

    def pixels(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([np.full((3, 2, 2), position, np.uint8) for position in positions])


def numbers(images: Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


@pytest.fixture
def maker() -> BatchMaker:
    captions = TokenizedCaptions([np.array([5, *[10 + i] * i, 3]) for i in range(7)], prompt_length=1, pad_token_id=0)
    return BatchMaker(PixelSource(NumberedSplit()), captions, CPU)


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own() -> None:
    orders = [order_of_epoch(23, seed, epoch).tolist() for seed, epoch in [(0, 1), (0, 2), (1, 0), (1, 1), (2, 1)]]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    assert order_of_epoch(23, 0, 2).tolist() == orders[1]


def test_seeds_from_neighbouring_numbers_differ() -> None:
    seeds = {derive_seed(seed, epoch, use) for seed in range(5) for epoch in range(5) for use in range(3)}
    assert len(seeds) == 75
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(3, 4) == derive_seed(3, 4) != derive_seed(4, 3)


@pytest.mark.parametrize(("num_images", "num_parts"), [(12, 4), (13, 4), (3, 4), (1, 1), (16, 3)])
def test_the_parts_of_a_step_cover_it_evenly(num_images: int, num_parts: int) -> None:
    step = order_of_epoch(num_images, 0, 1)
    parts = split_step(step, num_parts)
    assert len(parts) == num_parts
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_images))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_the_shares_of_workers_interleave() -> None:
    parts = split_step(np.array([10, 11, 12, 13, 14, 15, 16]), 4)  # 2 workers x 2 micro-batches
    shares = [[part.tolist() for part in parts[rank::2]] for rank in (0, 1)]
    assert shares == [[[10, 14], [12, 16]], [[11, 15], [13]]]


def test_a_batch_holds_the_images_and_captions_of_its_positions(maker: BatchMaker) -> None:
    batch = maker.make(np.array([3, 0, 5]))
    assert batch.positions.tolist() == [3, 0, 5]
    assert batch.images.dtype == torch.uint8
    assert numbers(batch.images) == [3, 0, 5]
    input_ids, labels = batch.texts
    assert input_ids.tolist() == [[5, 13, 13, 13, 3, 0, 0], [5, 3, 0, 0, 0, 0, 0], [5, 15, 15, 15, 15, 15, 3]]
    ignored = -100
    assert labels.tolist() == [
        [ignored, 13, 13, 13, 3, ignored, ignored],
        [ignored, 3, *[ignored] * 5],
        [ignored, 15, 15, 15, 15, 15, 3],
    ]


def test_an_empty_share_is_one_row_without_labels(maker: BatchMaker) -> None:
    batch = maker.make(np.array([], dtype=np.int64))
    input_ids, labels = batch.texts
    assert len(batch.images) == len(input_ids) == 1
    assert (labels == -100).all()


def test_part_of_a_source_keeps_its_own_order() -> None:
    part = SourcePart(PixelSource(NumberedSplit()), np.array([6, 2, 4]))
    assert len(part) == 3
    assert part.encoded is False
    assert numbers(part.fetch(np.array([2, 0]))) == [4, 6]


def test_batches_are_made_in_order_and_only_when_asked_for_on_a_cpu() -> None:
    made: list[int] = []

    def make(positions: Positions) -> int:
        made.append(int(positions[0]))
        return made[-1] * 10

    batches = prefetch(make, [np.array([index]) for index in (4, 1, 3)], CPU)
    assert next(batches) == 40
    assert made == [4]
    assert list(batches) == [10, 30]
    tensor = torch.zeros(1)
    assert move(tensor, CPU) is tensor


def test_one_of_several_captions_is_drawn_in_each_epoch() -> None:
    counts = np.array([1, 3, 2])
    ids = [np.array([5, 10 + row, 3] + [4] * row) for row in range(6)]  # image 1 has rows 1, 2, 3; image 2 has 4, 5
    texts = DrawnCaptions(TokenizedCaptions(ids, prompt_length=1, pad_token_id=0), counts, seed=7)

    def rows(of: DrawnCaptions) -> list[int]:
        return (of.batch([2, 0, 1])[0][:, 1] - 10).tolist()

    assert rows(texts) == [4, 0, 1]  # not of an epoch: the first of each
    epochs = [rows(texts.for_epoch(epoch)) for epoch in range(30)]
    assert {third for third, _, _ in epochs} == {4, 5}
    assert {first for _, first, _ in epochs} == {0}
    assert {second for _, _, second in epochs} == {1, 2, 3}
    drawn = texts.for_epoch(4)
    assert drawn.count_labels([0, 1, 2]) == sum(len(ids[row]) - 1 for row in rows(drawn))
    assert rows(texts.for_epoch(4)) == rows(drawn)
    assert drawn.batch([0], alike=[np.array([2])])[0].shape[1] == len(ids[rows(drawn)[0]])
    other = DrawnCaptions(TokenizedCaptions(ids, prompt_length=1, pad_token_id=0), counts, seed=8)
    assert [rows(other.for_epoch(epoch)) for epoch in range(30)] != epochs
