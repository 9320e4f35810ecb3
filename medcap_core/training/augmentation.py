"""Light augmentation of training images, drawn by image and epoch and so independent of the number of workers.

Only a small rotation and a change of brightness: a flip would swap left and right, which captions name, and a crop
could remove a finding.
"""

import numpy as np
import torch
from torch import Tensor, nn

from medcap_core.config import TrialConfig
from medcap_core.data.batches import Positions, derive_seed
from medcap_core.runtime.transfer import move


class Augmenter:
    """The augmentation of one epoch: an angle and a brightness for each image."""

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
        grid = nn.functional.affine_grid(
            move(torch.from_numpy(rotations), pixels.device), list(pixels.shape), align_corners=False
        )
        rotated = nn.functional.grid_sample(pixels.float(), grid, mode="bilinear", align_corners=False)
        scale = move(torch.from_numpy(self.brightness[positions].astype(np.float32)), pixels.device)
        return (rotated * scale.view(-1, 1, 1, 1)).clamp_(0.0, 255.0)
