"""Captions by beam search or greedily: those of transformers' `generate`, without what it spends on each word.

What is done otherwise: an image leaves the batch as soon as its caption is settled; beams are never copied, each knows
instead which of its image's past tokens it stems from; the prompt is read once an image. An accelerator is waited for
only every few words, to ask which images may leave, and sees the same shapes for several words.

Shape letters: B images still searched, K beams, P prompt tokens, T tokens a caption, V entries of the vocabulary, S
slots of an image: one for each token its decoder is given, the prompt's P and then K for each word.
"""

from typing import Protocol

import torch
from torch import Tensor

from medcap_core.config import TrialConfig

_IMPOSSIBLE = -1e9
"""What transformers takes for minus infinity where log-probabilities are added up."""

_WORDS_BETWEEN_LOOKS = 8
"""On an accelerator, which the host then waits for; on a CPU every word is followed by a look."""

_SLOTS_AT_ONCE = 32
"""On an accelerator attention goes over a multiple of this, slots not yet in use being seen by no beam: few distinct
shapes, and rows that its attention kernels need not pad."""


class Decoder(Protocol):
    """A text decoder in eval mode that remembers its images, and the tokens it was given by slots."""

    def begin(self, prompt: Tensor) -> Tensor:
        """Take the prompt (P,), the same for every image, into the first P slots; logits (B, V) of the next word."""

    def step(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Take a word of each beam (B, K) into the next K slots; logits (B, K, V) of the word after it.

        `visible` is bool (B, K, S): the slots that each beam stems from, its own new one among them. S is at least the
        number of slots in use; a slot not in use is visible to none.
        """

    def move_images(self, places: Tensor, origins: Tensor, num_images: int) -> None:
        """Write images `origins` over images `places`, then keep the first `num_images`."""


@torch.no_grad()
def search_captions(
    decoder: Decoder, prompt: Tensor, num_images: int, config: TrialConfig, *, end_id: int, pad_id: int
) -> Tensor:
    """Ids (images, T) of one caption an image: the prompt (P,), its words, the end token, padding.

    The settings are `config`'s; one beam is greedy search. As in transformers, a repetition penalty weighs the
    log-probabilities of beams but the logits of greedy search, and the search of an image ends when its best beam, at
    the length it has, is no better than the worst of K finished captions.
    """
    search_class = _GreedySearch if config.num_beams == 1 else _BeamSearch
    search = search_class(prompt, num_images, config, end_id, pad_id)
    search.run(decoder)
    ends = search.captions[:, len(prompt) :] == end_id
    num_words = torch.where(ends.any(1), ends.int().argmax(1) + 1, ends.shape[1])
    return search.captions[:, : len(prompt) + int(num_words.max())]


class _Search:
    """What is known of the images still searched, row by row; `images` says which image a row is."""

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
        # Places not yet written hold the first token again, which a repetition penalty counts only once.
        self.tokens = prompt[:1].repeat(num_images, num_beams, num_tokens)
        self.tokens[:, :, :num_given] = prompt
        self.scores = torch.full((num_images, num_beams), _IMPOSSIBLE, device=device)
        self.scores[:, 0] = 0.0  # all beams are the same prompt: the first one stands for them
        self.finished = torch.full_like(self.scores, _IMPOSSIBLE)
        self.visible = torch.zeros(num_images, num_beams, num_slots, dtype=torch.bool, device=device)
        self.visible[:, :, :num_given] = True
        self.own_slots = torch.eye(num_beams, dtype=torch.bool, device=device)

    def run(self, decoder: Decoder) -> None:
        """Search until every caption is settled; they are left in `captions`."""
        num_beams, most_words = self.config.num_beams, self.config.max_new_tokens
        logits = decoder.begin(self.prompt)[:, None].expand(-1, num_beams, -1)
        end = len(self.prompt)
        for num_words in range(1, most_words + 1):
            self.choose(logits.float(), num_words)
            if num_words == most_words or (self._is_time_to_look(num_words) and not self._drop_settled(decoder)):
                break
            start, end = end, end + num_beams
            self.visible[:, :, start:end] = self.own_slots
            words = self.tokens[:, :, len(self.prompt) + num_words - 1]
            logits = decoder.step(words, self.visible[:, :, : self._round_up(end)])
        self.captions[self.images] = self.best

    def choose(self, logits: Tensor, num_words: int) -> None:
        """Choose each beam's word number `num_words`, from 1, by logits (B, K, V); note what is settled."""
        raise NotImplementedError

    def _weigh(self, scores: Tensor, num_words: int) -> Tensor:
        """Scores (B, K, V) of the next word after the repetition penalty and the least number of words."""
        penalty = self.config.repetition_penalty
        if penalty != 1.0:
            used = scores.gather(2, self.tokens)
            scores = scores.scatter(2, self.tokens, torch.where(used < 0, used * penalty, used / penalty))
        if num_words <= self.config.min_new_tokens:
            scores[:, :, self.end_id] = -torch.inf
        return scores

    def _is_time_to_look(self, num_words: int) -> bool:
        return self.on_cpu or num_words % _WORDS_BETWEEN_LOOKS == 0

    def _round_up(self, num_slots: int) -> int:
        return num_slots if self.on_cpu else -(-num_slots // _SLOTS_AT_ONCE) * _SLOTS_AT_ONCE

    def _drop_settled(self, decoder: Decoder) -> bool:
        """Let settled images go, moving no more rows than leave; whether any image is left."""
        num_open = int(self.open.sum())
        if num_open in (0, len(self.open)):
            return num_open > 0
        self.captions[self.images] = self.best
        places = (~self.open[:num_open]).nonzero().flatten()
        origins = self.open[num_open:].nonzero().flatten() + num_open
        for name in ("images", "open", "tokens", "best", "scores", "finished", "visible"):
            rows = getattr(self, name)
            rows[places] = rows[origins]
            setattr(self, name, rows[:num_open])
        decoder.move_images(places, origins, num_open)
        return True


class _GreedySearch(_Search):
    """The likeliest next word, one after another."""

    def choose(self, logits: Tensor, num_words: int) -> None:
        """See `_Search.choose`."""
        word = self._weigh(logits, num_words).argmax(2)
        place = len(self.prompt) + num_words - 1
        self.tokens[:, :, place] = word
        self.best[:, place] = torch.where(self.open, word[:, 0], self.pad_id)
        self.open &= word[:, 0] != self.end_id


class _BeamSearch(_Search):
    """The K likeliest beginnings of each caption, best first, and the scores of its K best ends."""

    def choose(self, logits: Tensor, num_words: int) -> None:
        """See `_Search.choose`."""
        _, num_beams, vocabulary_size = logits.shape
        log_probabilities = self._weigh(logits.log_softmax(2), num_words) + self.scores[:, :, None]
        # Twice as many as there are beams: if half of them end, enough are left to go on.
        scores, indices = log_probabilities.flatten(1).topk(2 * num_beams)
        parents, words = indices // vocabulary_size, indices % vocabulary_size
        ends = words == self.end_id
        if num_words == self.config.max_new_tokens:
            ends = torch.ones_like(ends)
        scale = num_words**self.config.length_penalty
        self._take_finished(scores[:, :num_beams] / scale, parents, words, ends[:, :num_beams], num_words)

        self.scores, chosen = (scores + ends * _IMPOSSIBLE).topk(num_beams)
        parents = parents.gather(1, chosen)[:, :, None]
        self.tokens = self.tokens.gather(1, parents.expand_as(self.tokens))
        self.tokens[:, :, len(self.prompt) + num_words - 1] = words.gather(1, chosen)
        self.visible = self.visible.gather(1, parents.expand_as(self.visible))
        self.open &= self.scores[:, 0] / scale > self.finished[:, -1]

    def _take_finished(self, scores: Tensor, parents: Tensor, words: Tensor, ends: Tensor, num_words: int) -> None:
        """Of the K best candidates (B, K) of each open image, take those that end with this word."""
        scores = torch.where(ends & self.open[:, None], scores, _IMPOSSIBLE)
        best_score, place = scores.max(1, keepdim=True)
        parent = parents.gather(1, place)[:, :, None]
        caption = self.tokens.gather(1, parent.expand(-1, -1, self.tokens.shape[2]))[:, 0]
        end = len(self.prompt) + num_words
        caption[:, end - 1 : end] = words.gather(1, place)
        caption[:, end:] = self.pad_id
        self.best = torch.where(best_score > self.finished[:, :1], caption, self.best)
        self.finished = torch.cat([self.finished, scores], dim=1).topk(scores.shape[1]).values
