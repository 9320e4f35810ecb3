"""What MedBLIP in 3D reads beside a scan: its report, and questions with answers, as token ids.

Shape letters: B scans, R rows for the language model, T tokens, Q queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcap_core.models.captioner import IGNORED_LABEL

Ids = list[int]


@dataclass(frozen=True)
class Row:
    """What the language model is to say of a scan: `prompt` stands before the image's tokens, `answer` after them."""

    prompt: Ids
    answer: Ids


@dataclass(frozen=True)
class ScanTexts:
    """The texts of one scan: what the Q-Former reads for the contrastive losses, and rows for the language model.

    Of `answer_ids` the first `question_length` are the question. The first question of `questions` is asked in every
    epoch, and one of the others by turns.
    """

    report_ids: Ids
    answer_ids: Ids
    question_length: int
    report: Row
    questions: tuple[Row, ...]

    def rows(self, turn: int) -> list[Row]:
        """The rows of one epoch."""
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
        """See `TokenizedTexts.for_epoch`."""
        return replace(self, epoch=epoch)

    def _rows(self, position: int) -> list[Row]:
        return self.scans[position].rows(self.epoch + position)

    def count_labels(self, positions: Sequence[int] | NDArray[np.int64]) -> int:
        """See `TokenizedTexts.count_labels`."""
        prompts_count = self.decoder_start_id is None
        return sum(
            len(row.answer) + (max(len(row.prompt) - 1, 0) if prompts_count else 0)
            for position in positions
            for row in self._rows(int(position))
        )

    def batch(
        self,
        positions: Sequence[int] | NDArray[np.int64],
        pad_to_multiple: int = 1,
        *,
        unlabelled: bool = False,
        alike: Sequence[NDArray[np.int64]] = (),
    ) -> tuple[Tensor, ...]:
        """Padded on the right, all int64; what `MedBlip3dCaptioner.forward` takes.

        For the Q-Former the report as ids (B, T) and mask (B, T), and the question with its answer as ids, mask, and 1
        at the answer's words (at all words where there is no answer). For the language model: ids (R, T) with
        Q free places for the image, mask (R, T), where the image starts (R,), which scan it is (R,), and labels, -100
        where there is no loss. Those are (R, T) with the prompt's own words in them, but for its first, which nothing
        foretells; an encoder-decoder has labels (R, T') of the answer alone, and reads the answer's ids (R, T').
        """
        places = [int(position) for position in positions]
        rows = [(scan, row) for scan, position in enumerate(places) for row in self._rows(position)]
        report_ids, report_mask = self.pad([self.scans[place].report_ids for place in places], pad_to_multiple)
        answer_ids, answer_mask = self.pad([self.scans[place].answer_ids for place in places], pad_to_multiple)
        telling = answer_mask.clone()
        for row, place in enumerate(places):
            if self.scans[place].question_length < len(self.scans[place].answer_ids):
                telling[row, : self.scans[place].question_length] = 0
        room = [self.pad_id] * self.num_queries
        starts = torch.tensor([len(row.prompt) for _, row in rows])
        scan_of_row = torch.tensor([scan for scan, _ in rows])
        decoder_ids: tuple[Tensor, ...] = ()
        if self.decoder_start_id is None:
            read = [row.prompt + room + row.answer for _, row in rows]
            no_loss = [IGNORED_LABEL] * self.num_queries
            told = [[IGNORED_LABEL, *row.prompt[1:]][: len(row.prompt)] + no_loss + row.answer for _, row in rows]
        else:
            read = [row.prompt + room for _, row in rows]
            told = [row.answer for _, row in rows]
            decoder_ids = self.pad([[self.decoder_start_id, *row.answer[:-1]] for _, row in rows], pad_to_multiple)[:1]
        ids, mask = self.pad(read, pad_to_multiple)
        labels, has_label = self.pad(told, pad_to_multiple)
        labels[has_label == 0] = IGNORED_LABEL
        if unlabelled:
            labels.fill_(IGNORED_LABEL)
        return (
            report_ids, report_mask, answer_ids, answer_mask, telling, ids, mask, starts, scan_of_row, labels,
            *decoder_ids,
        )  # fmt: skip

    def pad(self, texts: list[Ids], pad_to_multiple: int = 1) -> tuple[Tensor, Tensor]:
        """(ids, mask): both int64 (len(texts), T)."""
        length = -(-max(map(len, texts)) // pad_to_multiple) * pad_to_multiple
        ids = np.full((len(texts), length), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(texts), length), dtype=np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)
