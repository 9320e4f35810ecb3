"""Micro-batches: rows of a split as tensors on the device, ordered and augmented by seed and epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medcap_core.config import TrialConfig
from medcap_core.runtime.transfer import move

Positions = NDArray[np.int64]
Rows = Sequence[int] | Positions


class TokenizedTexts(Protocol):
    """The texts of a split as token ids, tokenized once and batched by position."""

    def count_labels(self, positions: Rows) -> int:
        """Count the tokens with a loss at these positions: the denominator of the mean loss."""

    def batch(
        self, positions: Rows, pad_to_multiple: int = 1, *, unlabelled: bool = False, alike: Sequence[Positions] = ()
    ) -> tuple[Tensor, ...]:
        """Return the texts as `Captioner.forward` takes them; `unlabelled` ones have no token with a loss.

        `alike` holds the positions of every batch of one step; families with recorded steps pad batches of equal row
        count to one shape.
        """

    def for_epoch(self, epoch: int) -> "TokenizedTexts":
        """Return the texts of `epoch`, for families whose texts differ by epoch."""


class DrawnCaptions:
    """Texts of images with several captions each: the first of each image, and in an epoch one drawn by the seed.

    `captions` holds the captions of all images in a row, `counts[i]` of them of image i.
    """

    def __init__(self, captions: TokenizedTexts, counts: Positions, seed: int, epoch: int | None = None) -> None:
        self._captions, self._counts, self._seed = captions, counts, seed
        self._rows = np.cumsum(counts) - counts
        if epoch is not None:
            self._rows += np.random.default_rng(derive_seed(seed, epoch, 3)).integers(counts)

    def count_labels(self, positions: Rows) -> int:
        """Count the tokens with a loss, see `TokenizedTexts.count_labels`."""
        return self._captions.count_labels(self._rows[positions])

    def batch(
        self, positions: Rows, pad_to_multiple: int = 1, *, unlabelled: bool = False, alike: Sequence[Positions] = ()
    ) -> tuple[Tensor, ...]:
        """Return the texts, see `TokenizedTexts.batch`."""
        rows = [self._rows[part] for part in alike]
        return self._captions.batch(self._rows[positions], pad_to_multiple, unlabelled=unlabelled, alike=rows)

    def for_epoch(self, epoch: int) -> "DrawnCaptions":
        """Draw one caption of each image for `epoch`."""
        return DrawnCaptions(self._captions, self._counts, self._seed, epoch)


class ImageSource(Protocol):
    """The images of one split, by position in the split."""

    encoded: bool
    """Whether `fetch` returns encoder hidden states (B, N, D) rather than uint8 pixels (B, 3, S, S)."""

    def __len__(self) -> int: ...

    def fetch(self, positions: Positions) -> Tensor:
        """Return the images at `positions`, on the CPU or the device."""


class Split(Protocol):
    """The part of `PreparedSplit` used here."""

    def __len__(self) -> int: ...
    def pixels(self, positions: Positions, /) -> NDArray[np.uint8]:
        """Return the images at `positions`, uint8 (B, 3, S, S)."""


class PixelSource:
    """Images as pixels, from the store of decoded images."""

    encoded = False

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def fetch(self, positions: Positions) -> Tensor:
        """Return uint8 pixels (B, 3, S, S) on the CPU."""
        return torch.from_numpy(self.split.pixels(positions))


class SourcePart:
    """The images of `whole` at `positions`, in that order."""

    def __init__(self, whole: ImageSource, positions: Positions) -> None:
        self.whole, self.positions, self.encoded = whole, positions, whole.encoded

    def __len__(self) -> int:
        return len(self.positions)

    def fetch(self, positions: Positions) -> Tensor:
        """Return the images at these positions of the part."""
        return self.whole.fetch(self.positions[positions])


@dataclass(frozen=True)
class MicroBatch:
    """The input of one forward pass: images, and texts in the family's layout (BLIP: input ids and labels).

    A worker without rows gets one row without labels, which adds nothing to the loss.
    """

    positions: Positions
    images: Tensor
    texts: tuple[Tensor, ...]
    encoded: bool

    def copy(self) -> "MicroBatch":
        """Return a copy with cloned tensors."""
        return replace(self, images=self.images.clone(), texts=tuple(text.clone() for text in self.texts))


def derive_seed(*parts: int) -> int:
    """Derive one 63-bit seed from several numbers; neighbouring numbers give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def order_of_epoch(num_images: int, seed: int, epoch: int) -> Positions:
    """Draw the order in which `epoch` visits all images, as positions."""
    return np.random.default_rng(derive_seed(seed, epoch)).permutation(num_images)


def split_step(positions: Positions, num_parts: int) -> list[Positions]:
    """Deal the positions of one optimizer step to `num_parts` micro-batches (accumulation x workers).

    Parts differ by at most one row; at the end of an epoch some may be empty.
    """
    return [positions[part::num_parts] for part in range(num_parts)]


class BatchMaker:
    """Builds the micro-batches of a split on `device`."""

    def __init__(self, images: ImageSource, texts: TokenizedTexts, device: torch.device) -> None:
        self.images, self.texts, self.device = images, texts, device
        # Few distinct shapes let CUDA reuse its memory and kernels; a CPU gains nothing from padding.
        self.pad_to_multiple = 8 if device.type == "cuda" else 1

    def make(self, positions: Positions, step: Sequence[Positions] = ()) -> MicroBatch:
        """Build the micro-batch at `positions`; without any, one row without labels.

        `step` holds the positions of all micro-batches of the step, so that they are padded to few shapes.
        """
        is_empty = len(positions) == 0
        rows = np.zeros(1, dtype=np.int64) if is_empty else positions
        alike = step if self.pad_to_multiple > 1 else ()
        texts = self.texts.batch(rows, self.pad_to_multiple, unlabelled=is_empty, alike=alike)
        images = move(self.images.fetch(rows), self.device)
        return MicroBatch(rows, images, tuple(move(text, self.device) for text in texts), self.images.encoded)

    def for_epoch(self, epoch: int) -> "BatchMaker":
        """Return a maker with the same images and the texts of `epoch`."""
        return BatchMaker(self.images, self.texts.for_epoch(epoch), self.device)


class Augmenter:
    """The augmentation of one epoch: an angle and a brightness for each image, independent of the number of workers.

    There are no flips, which would swap left and right in the image but not in the caption, and no crops, which could
    remove a finding.
    """

    def __init__(self, config: TrialConfig, num_images: int, epoch: int) -> None:
        generator = np.random.default_rng(derive_seed(config.seed, epoch, 1))
        bound, change = config.max_rotation_degrees, config.max_brightness_change
        self.angles = np.radians(generator.uniform(-bound, bound, num_images))
        self.brightness = 1.0 + generator.uniform(-change, change, num_images)

    def apply(self, pixels: Tensor, positions: Positions) -> Tensor:
        """Rotate about the centre, with black corners, and scale: uint8 (B, 3, S, S) -> float32 in 0..255."""
        angles = self.angles[positions]
        rotations = np.zeros((len(positions), 2, 3), dtype=np.float32)
        rotations[:, 0, 0] = rotations[:, 1, 1] = np.cos(angles)
        rotations[:, 1, 0] = np.sin(angles)
        rotations[:, 0, 1] = -rotations[:, 1, 0]
        matrices = move(torch.from_numpy(rotations), pixels.device)
        grid = nn.functional.affine_grid(matrices, list(pixels.shape), align_corners=False)
        rotated = nn.functional.grid_sample(pixels.float(), grid, mode="bilinear", align_corners=False)
        scale = move(torch.from_numpy(self.brightness[positions].astype(np.float32)), pixels.device)
        return (rotated * scale.view(-1, 1, 1, 1)).clamp_(0.0, 255.0)
