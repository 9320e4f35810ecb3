"""Captions as token ids, and the loss over tokens.

Shape letters: B images, T caption tokens (padded), V entries of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medcap_core.data.batches import Positions, Rows

IGNORED_LABEL = -100


@dataclass(frozen=True)
class TokenizedCaptions:
    """Captions as token ids, tokenized once and batched by position.

    `ids[i]` holds the tokens of caption i, from its begin token to its end token; the first `prompt_length` are the
    prompt, without a loss, of which `num_uncounted` are not counted in `max_caption_tokens`.
    """

    ids: list[NDArray[np.int64]]
    prompt_length: int
    pad_token_id: int
    num_uncounted: int = 0

    def count_labels(self, positions: Rows) -> int:
        """Count the tokens with a loss at these positions: the denominator of the mean loss."""
        return sum(max(len(self.ids[position]) - self.prompt_length, 0) for position in positions)

    def for_epoch(self, epoch: int) -> "TokenizedCaptions":
        """Return itself: captions are the same in every epoch."""
        return self

    def batch(
        self, positions: Rows, pad_to_multiple: int = 1, *, unlabelled: bool = False, alike: Sequence[Positions] = ()
    ) -> tuple[Tensor, ...]:
        """Pad on the right to `(input_ids, labels)`, both int64 (B, T); labels are -100 at padding and prompt."""
        length = max(len(self.ids[position]) for part in (positions, *alike) for position in part)
        length = round_up(length, pad_to_multiple)
        input_ids = np.full((len(positions), length), self.pad_token_id, dtype=np.int64)
        labels = np.full((len(positions), length), IGNORED_LABEL, dtype=np.int64)
        for row, position in enumerate(positions):
            ids = self.ids[position]
            input_ids[row, : len(ids)] = ids
            if not unlabelled:
                labels[row, self.prompt_length : len(ids)] = ids[self.prompt_length :]
        return torch.from_numpy(input_ids), torch.from_numpy(labels)


def round_up(number: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-number // multiple) * multiple


def sum_token_losses(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Sum the cross-entropy, () float32, of logits (..., V) and labels (...), of which -100 has no loss."""
    return nn.functional.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
