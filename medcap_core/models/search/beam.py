"""Beam search and greedy search: the captions of transformers' `generate` at less cost for each token.

An image leaves the batch as soon as its caption is final; the caches of beams are never copied, a mask marks the past
tokens of each beam instead; the prompt is read once an image. On an accelerator the host waits only every few tokens,
to drop final images, and shapes stay the same for several tokens.

Shape letters: B images still searched, K beams, P prompt tokens, T tokens a caption, V entries of the vocabulary, S
slots of an image: one for each token its decoder has read, P of the prompt and then K for each generated token.
"""

import torch
from torch import Tensor

from medcap_core.config import TrialConfig
from medcap_core.models.search.decoding import TextDecoder
from medcap_core.models.tokens import round_up

_IMPOSSIBLE = -1e9
"""Minus infinity for sums of log-probabilities, as in transformers."""

_TOKENS_BETWEEN_CHECKS = 8
"""Tokens between checks for final captions on an accelerator, where a check makes the host wait; on a CPU 1."""

_SLOTS_AT_ONCE = 32
"""On an accelerator attention covers a multiple of this, with unused slots masked: few distinct shapes, and rows that
its attention kernels need not pad."""


@torch.no_grad()
def search_captions(decoder: TextDecoder, prompt: Tensor, config: TrialConfig, *, end_id: int, pad_id: int) -> Tensor:
    """Search one caption an image: ids (images, T) of the prompt (P,), generated tokens, end token and padding.

    The settings are `config`'s; one beam is greedy search. As in transformers, a repetition penalty applies to the
    log-probabilities of beams but to the logits of greedy search, and the search of an image ends when its best beam,
    at its present length, is no better than the worst of K finished captions, or with `early_stopping` at the Kth.
    """
    search_class = _GreedySearch if config.num_beams == 1 else _BeamSearch
    search = search_class(prompt, decoder.num_images, config, end_id, pad_id)
    search.run(decoder)
    ends = search.captions[:, len(prompt) :] == end_id
    num_new = torch.where(ends.any(1), ends.int().argmax(1) + 1, ends.shape[1])
    return search.captions[:, : len(prompt) + int(num_new.max())]


class _Search:
    """The state of the search, one row for each image still searched; `images` holds the image index of each row."""

    def __init__(self, prompt: Tensor, num_images: int, config: TrialConfig, end_id: int, pad_id: int) -> None:
        self.prompt, self.config, self.end_id, self.pad_id = prompt, config, end_id, pad_id
        num_given, num_beams, device = len(prompt), config.num_beams, prompt.device
        num_tokens = num_given + config.max_new_tokens
        self.on_cpu = device.type == "cpu"
        num_slots = self._round_up(num_given + (config.max_new_tokens - 1) * num_beams)
        self.captions = prompt.new_full((num_images, num_tokens), pad_id)
        self.captions[:, :num_given] = prompt
        self.best = self.captions.clone()
        self.images = torch.arange(num_images, device=device)
        self.open = torch.ones(num_images, dtype=torch.bool, device=device)
        # Tokens not yet written repeat the first token, which a repetition penalty counts only once.
        self.tokens = prompt[:1].repeat(num_images, num_beams, num_tokens)
        self.tokens[:, :, :num_given] = prompt
        self.scores = torch.full((num_images, num_beams), _IMPOSSIBLE, device=device)
        self.scores[:, 0] = 0.0  # all beams are the same prompt: only the first one counts
        self.finished = torch.full_like(self.scores, _IMPOSSIBLE)
        self.visible = torch.zeros(num_images, num_beams, num_slots, dtype=torch.bool, device=device)
        self.visible[:, :, :num_given] = True
        self.own_slots = torch.eye(num_beams, dtype=torch.bool, device=device)

    def run(self, decoder: TextDecoder) -> None:
        """Search until every caption is final, and write them to `captions`."""
        num_beams, max_new = self.config.num_beams, self.config.max_new_tokens
        logits = decoder.begin(self.prompt)[:, None].expand(-1, num_beams, -1)
        end = len(self.prompt)
        for num_new in range(1, max_new + 1):
            self.choose(logits.float(), num_new)
            is_check_due = self.on_cpu or num_new % _TOKENS_BETWEEN_CHECKS == 0
            if num_new == max_new or (is_check_due and not self._drop_final(decoder)):
                break
            start, end = end, end + num_beams
            self.visible[:, :, start:end] = self.own_slots
            new_tokens = self.tokens[:, :, len(self.prompt) + num_new - 1]
            logits = decoder.step(new_tokens, self.visible[:, :, : self._round_up(end)])
        self.captions[self.images] = self.best

    def choose(self, logits: Tensor, num_new: int) -> None:
        """Choose each beam's new token, number `num_new` from 1, by logits (B, K, V), and update `open`."""
        raise NotImplementedError

    def _penalise(self, scores: Tensor, num_new: int) -> Tensor:
        """Apply the repetition penalty and the least number of tokens to the scores (B, K, V) of the next token."""
        penalty = self.config.repetition_penalty
        if penalty != 1.0:
            used = scores.gather(2, self.tokens)
            scores = scores.scatter(2, self.tokens, torch.where(used < 0, used * penalty, used / penalty))
        if num_new <= self.config.min_new_tokens:
            scores[:, :, self.end_id] = -torch.inf
        return scores

    def _round_up(self, num_slots: int) -> int:
        return num_slots if self.on_cpu else round_up(num_slots, _SLOTS_AT_ONCE)

    def _drop_final(self, decoder: TextDecoder) -> bool:
        """Drop images with a final caption, moving as few rows as possible; returns whether any is left."""
        num_open = int(self.open.sum())
        if num_open in (0, len(self.open)):
            return num_open > 0
        self.captions[self.images] = self.best
        targets = (~self.open[:num_open]).nonzero().flatten()
        origins = self.open[num_open:].nonzero().flatten() + num_open
        for name in ("images", "open", "tokens", "best", "scores", "finished", "visible"):
            rows = getattr(self, name)
            rows[targets] = rows[origins]
            setattr(self, name, rows[:num_open])
        decoder.move_images(targets, origins, num_open)
        return True


class _GreedySearch(_Search):
    def choose(self, logits: Tensor, num_new: int) -> None:
        token = self._penalise(logits, num_new).argmax(2)
        index = len(self.prompt) + num_new - 1
        self.tokens[:, :, index] = token
        self.best[:, index] = torch.where(self.open, token[:, 0], self.pad_id)
        self.open &= token[:, 0] != self.end_id


class _BeamSearch(_Search):
    """Beam search: the K best unfinished captions of each image, best first, and the scores of its K best finished."""

    def choose(self, logits: Tensor, num_new: int) -> None:
        _, num_beams, vocabulary_size = logits.shape
        log_probabilities = self._penalise(logits.log_softmax(2), num_new) + self.scores[:, :, None]
        # Twice the number of beams, so that K unfinished candidates remain even if K end.
        scores, indices = log_probabilities.flatten(1).topk(2 * num_beams)
        parents, new_tokens = indices // vocabulary_size, indices % vocabulary_size
        ends = new_tokens == self.end_id
        if num_new == self.config.max_new_tokens:
            ends = torch.ones_like(ends)
        scale = num_new**self.config.length_penalty
        self._take_finished(scores[:, :num_beams] / scale, parents, new_tokens, ends[:, :num_beams], num_new)

        self.scores, chosen = (scores + ends * _IMPOSSIBLE).topk(num_beams)
        parents = parents.gather(1, chosen)[:, :, None]
        self.tokens = self.tokens.gather(1, parents.expand_as(self.tokens))
        self.tokens[:, :, len(self.prompt) + num_new - 1] = new_tokens.gather(1, chosen)
        self.visible = self.visible.gather(1, parents.expand_as(self.visible))
        lowest = self.finished[:, -1]
        self.open &= lowest == _IMPOSSIBLE if self.config.early_stopping else self.scores[:, 0] / scale > lowest

    def _take_finished(self, scores: Tensor, parents: Tensor, new_tokens: Tensor, ends: Tensor, num_new: int) -> None:
        """Take the captions that end with this token from the K best candidates (B, K) of each open image."""
        scores = torch.where(ends & self.open[:, None], scores, _IMPOSSIBLE)
        best_score, index = scores.max(1, keepdim=True)
        parent = parents.gather(1, index)[:, :, None]
        caption = self.tokens.gather(1, parent.expand(-1, -1, self.tokens.shape[2]))[:, 0]
        end = len(self.prompt) + num_new
        caption[:, end - 1 : end] = new_tokens.gather(1, index)
        caption[:, end:] = self.pad_id
        self.best = torch.where(best_score > self.finished[:, :1], caption, self.best)
        self.finished = torch.cat([self.finished, scores], dim=1).topk(scores.shape[1]).values
