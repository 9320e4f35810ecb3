"""The texts of MedBLIP in 3D as token ids: a scan's report, and its questions with answers.

Shape letters: B scans, R rows for the language model, T tokens, Q queries.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medcap_core.data.batches import Positions, Rows
from medcap_core.models.tokens import IGNORED_LABEL, round_up

Ids = list[int]


@dataclass(frozen=True)
class Row:
    """One text of the language model: `prompt` before the image tokens, `answer` after them."""

    prompt: Ids
    answer: Ids


@dataclass(frozen=True)
class ScanTexts:
    """The texts of one scan: ids for the Q-Former's contrastive losses, and rows for the language model.

    The first `question_length` of `answer_ids` are the question. Every epoch has the first of `questions` and one of
    the others in turn.
    """

    report_ids: Ids
    answer_ids: Ids
    question_length: int
    report: Row
    questions: tuple[Row, ...]

    def rows(self, turn: int) -> list[Row]:
        """Return the rows of one epoch."""
        first, others = self.questions[:1], self.questions[1:]
        return [self.report, *first, *(others[turn % len(others) :][:1] if others else ())]


@dataclass(frozen=True)
class MedBlip3dTexts:
    """`TokenizedTexts` of scans. `decoder_start_id` is None for a decoder-only language model."""

    scans: list[ScanTexts]
    num_queries: int
    pad_id: int
    decoder_start_id: int | None
    epoch: int = 0

    def for_epoch(self, epoch: int) -> "MedBlip3dTexts":
        """Return the texts of `epoch`, see `TokenizedTexts.for_epoch`."""
        return replace(self, epoch=epoch)

    def _rows(self, position: int) -> list[Row]:
        return self.scans[position].rows(self.epoch + position)

    def count_labels(self, positions: Rows) -> int:
        """Count the tokens with a loss, see `TokenizedTexts.count_labels`."""
        prompts_count = self.decoder_start_id is None
        return sum(
            len(row.answer) + (max(len(row.prompt) - 1, 0) if prompts_count else 0)
            for position in positions
            for row in self._rows(int(position))
        )

    def batch(
        self, positions: Rows, pad_to_multiple: int = 1, *, unlabelled: bool = False, alike: Sequence[Positions] = ()
    ) -> tuple[Tensor, ...]:
        """Pad on the right, all int64, to the texts of `MedBlip3dCaptioner.forward`.

        For the Q-Former: ids (B, T) and mask (B, T) of the report; ids, mask and pooling mask of the question with its
        answer, the latter 1 at the answer (at all tokens without an answer). For the language model: ids (R, T) with Q
        padding tokens in place of the image, mask (R, T), index of the first image token (R,), index of the scan (R,),
        and labels (R, T), -100 without a loss. A decoder-only model has labels at all but the first token of the
        prompt; an encoder-decoder has labels (R, T') of the answer alone, and the answer's ids (R, T') as input.
        """
        pad = functools.partial(pad_texts, pad_id=self.pad_id, pad_to_multiple=pad_to_multiple)
        scans = [self.scans[int(position)] for position in positions]
        rows = [(index, row) for index, position in enumerate(positions) for row in self._rows(int(position))]
        report_ids, report_mask = pad([scan.report_ids for scan in scans])
        answer_ids, answer_mask = pad([scan.answer_ids for scan in scans])
        pooling_mask = answer_mask.clone()
        for index, scan in enumerate(scans):
            if scan.question_length < len(scan.answer_ids):
                pooling_mask[index, : scan.question_length] = 0
        image_ids = [self.pad_id] * self.num_queries
        starts = torch.tensor([len(row.prompt) for _, row in rows])
        scan_of_row = torch.tensor([index for index, _ in rows])
        decoder_ids: tuple[Tensor, ...] = ()
        if self.decoder_start_id is None:
            inputs = [row.prompt + image_ids + row.answer for _, row in rows]
            no_loss = [IGNORED_LABEL] * self.num_queries
            targets = [[IGNORED_LABEL, *row.prompt[1:]][: len(row.prompt)] + no_loss + row.answer for _, row in rows]
        else:
            inputs = [row.prompt + image_ids for _, row in rows]
            targets = [row.answer for _, row in rows]
            decoder_ids = pad([[self.decoder_start_id, *row.answer[:-1]] for _, row in rows])[:1]
        ids, mask = pad(inputs)
        labels, has_label = pad(targets)
        labels[has_label == 0] = IGNORED_LABEL
        if unlabelled:
            labels.fill_(IGNORED_LABEL)
        return (
            report_ids, report_mask, answer_ids, answer_mask, pooling_mask, ids, mask, starts, scan_of_row, labels,
            *decoder_ids,
        )  # fmt: skip


def pad_texts(texts: list[Ids], pad_id: int, pad_to_multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Pad on the right to (ids, mask), both int64 (len(texts), T)."""
    length = round_up(max(map(len, texts)), pad_to_multiple)
    ids = np.full((len(texts), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(texts), length), dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
