"""From rows of a split to tensors on the device, in an order that seed and epoch decide."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcap_core.runtime.transfer import move


class TokenizedTexts(Protocol):
    """The texts of a split as token ids, tokenized once and batched by position."""

    def count_labels(self, positions: Sequence[int] | NDArray[np.int64]) -> int:
        """Number of tokens with a loss at these positions: what a mean over tokens divides by."""

    def batch(
        self,
        positions: Sequence[int] | NDArray[np.int64],
        pad_to_multiple: int = 1,
        *,
        unlabelled: bool = False,
        alike: Sequence[NDArray[np.int64]] = (),
    ) -> tuple[Tensor, ...]:
        """The texts as `Captioner.forward` takes them; `unlabelled` ones add nothing to a loss.

        Of a family whose steps are recorded, batches at `alike` of as many texts get the same shape if each is given
        all.
        """

    def for_epoch(self, epoch: int) -> "TokenizedTexts":
        """What `epoch` shows, where epochs differ."""


Positions = NDArray[np.int64]


class ImageSource(Protocol):
    """Where the images of one split come from, by position in the split."""

    encoded: bool
    """Whether `fetch` gives encoder hidden states (B, N, D) rather than uint8 pixels (B, 3, S, S)."""

    def __len__(self) -> int: ...

    def fetch(self, positions: Positions) -> Tensor:
        """The images at `positions`, on the CPU or already on the device."""


class Split(Protocol):
    """What this module needs of a prepared split."""

    def __len__(self) -> int: ...

    def pixels(self, positions: Positions) -> NDArray[np.uint8]:
        """uint8 (B, 3, S, S)."""


class PixelSource:
    """Images as pixels, from the decode-once store."""

    encoded = False

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def fetch(self, positions: Positions) -> Tensor:
        """uint8 pixels (B, 3, S, S) on the CPU."""
        return torch.from_numpy(self.split.pixels(positions))


class SourcePart:
    """Some of the images of another source, in the order given."""

    def __init__(self, whole: ImageSource, positions: Positions) -> None:
        self.whole = whole
        self.positions = positions
        self.encoded = whole.encoded

    def __len__(self) -> int:
        return len(self.positions)

    def fetch(self, positions: Positions) -> Tensor:
        """See `ImageSource.fetch`."""
        return self.whole.fetch(self.positions[positions])


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes: images and, in the family's own layout, texts (for BLIP input ids and labels).

    An empty share of a step is one row without labels: it adds nothing to the loss.
    """

    positions: Positions
    images: Tensor
    texts: tuple[Tensor, ...]
    encoded: bool

    def copy(self) -> "MicroBatch":
        """The same values in tensors of its own."""
        return replace(self, images=self.images.clone(), texts=tuple(text.clone() for text in self.texts))


def derive_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers, so that neighbours such as (seed, epoch) do not run alike."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def order_of_epoch(num_images: int, seed: int, epoch: int) -> Positions:
    """The positions of all images in the order in which `epoch` visits them."""
    return np.random.default_rng(derive_seed(seed, epoch)).permutation(num_images)


def split_step(positions: Positions, num_parts: int) -> list[Positions]:
    """Deal the positions of one optimizer step to `num_parts` micro-batches (accumulation x workers).

    Parts may differ by one row and be empty at the end of an epoch.
    """
    return [positions[part::num_parts] for part in range(num_parts)]


class BatchMaker:
    """Makes the micro-batches of a split, ready for `device`."""

    def __init__(self, images: ImageSource, texts: TokenizedTexts, device: torch.device) -> None:
        self.images = images
        self.texts = texts
        self.device = device
        # Few distinct shapes let CUDA reuse its memory and kernels; a CPU gains nothing from padding.
        self.pad_to_multiple = 8 if device.type == "cuda" else 1

    def make(self, positions: Positions, step: Sequence[Positions] = ()) -> MicroBatch:
        """The images and texts at `positions`; an empty share becomes one row without labels.

        `step` are all micro-batches of its step, which shall have few shapes together.
        """
        is_empty = len(positions) == 0
        rows = np.zeros(1, dtype=np.int64) if is_empty else positions
        alike = step if self.pad_to_multiple > 1 else ()
        texts = self.texts.batch(rows, self.pad_to_multiple, unlabelled=is_empty, alike=alike)
        images = move(self.images.fetch(rows), self.device)
        return MicroBatch(rows, images, tuple(move(text, self.device) for text in texts), self.images.encoded)

    def for_epoch(self, epoch: int) -> "BatchMaker":
        """The same images with the texts that `epoch` shows."""
        return BatchMaker(self.images, self.texts.for_epoch(epoch), self.device)
