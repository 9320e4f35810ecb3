"""Make the embedded language model: train a small GPT-2 from nothing on texts of a synthetic world, no scans.

python -m medcap_core.pretraining.brain_gpt2 OUT_DIR

Each text is in the order in which 3D MedBLIP uses the model: a prompt, a bag of words in the place of the image
tokens, the answer or report that belongs to it. Words come in any order, alone or two melted into one embedding,
between fillers and noise, in any number; so later embeddings that are only near those words will do.

The one in `medcap_core/assets/brain-gpt2` came from this command on one core of a busy machine: 12 minutes. Then it
was right about 400 of 400 new subjects: 244 questions, and 156 reports to the letter.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from medcap_core.data.brain_phantoms.texts import FILLERS, TextExample, draw_example
from medcap_core.data.brain_phantoms.wording import write_report
from medcap_core.models.embedded.brain_gpt2 import build_brain_gpt2, save_brain_gpt2
from medcap_core.models.medblip3d.captioner import REPORT_PROMPT, format_question

_IGNORED = -100
_MAX_WORDS_IN_SLOT = 3
_MELT_SHARE, _BLEND_SHARE = 0.15, 0.3
_LONGEST_CONTEXT = 48
_BATCHES_SORTED = 8  # at once, by length
_CALM_SHARE = 0.5  # of the steps: until then the context is disturbed more and more
_EVALUATION_SEED = 1_000_003

Slot = tuple[list[int], list[float]]
"""Token ids that share one embedding, and their weights in it."""


class Row(NamedTuple):
    """One text: token ids, but slots where image tokens will be."""

    prompt: list[int]
    context: list[Slot]
    answer: list[int]

    @property
    def length(self) -> int:
        """In tokens."""
        return len(self.prompt) + len(self.context) + len(self.answer)


class Batch(NamedTuple):
    """Texts of T tokens, the shorter ones filled up with zeros at the end.

    `ids` and `weights` are (B, T, 3), `labels` (B, T) tokens to be said, `is_context` and `is_answer` (B, T) of bool.
    """

    ids: Tensor
    weights: Tensor
    labels: Tensor
    is_context: Tensor
    is_answer: Tensor


def word_prompt(question: str | None) -> str:
    """What stands before the image: a question, or None for a report."""
    return REPORT_PROMPT if question is None else format_question(question)


class BagWriter:
    """Examples as token ids, slots of the context, and labels."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.fillers: list[int] = [ids[0] for ids in tokenizer(list(FILLERS), add_special_tokens=False).input_ids]
        self._known: dict[str, list[int]] = {}

    def split(self, text: str) -> list[int]:
        """Token ids of a text."""
        if text not in self._known:
            self._known[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._known[text]

    def fill_context(self, bag: Sequence[str], rng: np.random.Generator) -> list[Slot]:
        """The slots of one bag: its words, sometimes two of them in one slot, and fillers between them."""
        slots: list[Slot] = []
        for word in bag:
            weight = float(rng.uniform(0.6, 1.2))
            if slots and len(slots[-1][0]) < _MAX_WORDS_IN_SLOT - 1 and rng.uniform() < _MELT_SHARE:
                ids, weights = slots.pop()
                slots.append(([*ids, *self.split(word)], [*weights, weight]))
            else:
                slots.append((self.split(word), [weight]))
        for _ in range(int(rng.uniform() ** 2 * max(_LONGEST_CONTEXT - len(slots), 0))):
            filler = ([self._draw_filler(rng)], [float(rng.uniform(0, 1.2))])
            slots.insert(int(rng.integers(len(slots) + 1)), filler)
        return [self._blend(slot, rng) for slot in slots]

    def _draw_filler(self, rng: np.random.Generator) -> int:
        return self.fillers[int(rng.integers(len(self.fillers)))]

    def _blend(self, slot: Slot, rng: np.random.Generator) -> Slot:
        """Sometimes another word shines through."""
        ids, weights = slot
        if len(ids) < _MAX_WORDS_IN_SLOT and rng.uniform() < _BLEND_SHARE:
            return [*ids, self._draw_filler(rng)], [*weights, float(rng.uniform(0, 0.5))]
        return slot


def build_batches(writer: BagWriter, rng: np.random.Generator, batch_size: int, num_batches: int) -> list[Batch]:
    """Batches of fresh examples, each of texts about as long as each other, in random order."""
    rows: list[Row] = []
    for _ in range(batch_size * num_batches):
        example = draw_example(rng)
        answer = [*writer.split(example.answer), writer.tokenizer.eos_token_id]
        rows.append(Row(writer.split(word_prompt(example.question)), writer.fill_context(example.bag, rng), answer))
    rows.sort(key=lambda row: row.length)
    order = rng.permutation(num_batches) * batch_size
    return [build_batch(rows[start : start + batch_size]) for start in order.tolist()]


def build_batch(rows: Sequence[Row]) -> Batch:
    """Texts side by side; the first word of a prompt has nothing to be foretold from."""
    shape = (len(rows), max(row.length for row in rows))
    ids = np.zeros((*shape, _MAX_WORDS_IN_SLOT), np.int64)
    weights = np.zeros((*shape, _MAX_WORDS_IN_SLOT), np.float32)
    labels = np.full(shape, _IGNORED, np.int64)
    is_context, is_answer = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for place, (prompt, context, answer) in enumerate(rows):
        start, end = len(prompt), len(prompt) + len(context)
        said = slice(end, end + len(answer))
        ids[place, :start, 0], labels[place, 1:start] = prompt, prompt[1:]
        for slot, (words, shares) in enumerate(context, start):
            ids[place, slot, : len(words)], weights[place, slot, : len(words)] = words, shares
        ids[place, said, 0] = labels[place, said] = answer
        weights[place, :start, 0] = weights[place, said, 0] = 1
        is_context[place, start:end] = is_answer[place, said] = True
    return Batch(*(torch.from_numpy(values) for values in (ids, weights, labels, is_context, is_answer)))


def disturb(embedded: Tensor, is_context: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Scale the context (B, T, D) of each row and add noise to it.

    At `strength` 1 by 0.5 to 2, and up to 0.6 times its own size.
    """
    num_rows = len(embedded)
    spread = strength * 0.6 * embedded.detach().std()
    scale = torch.exp2(strength * (torch.rand((num_rows, 1, 1), generator=generator) * 2 - 1))
    noise = torch.randn(embedded.shape, generator=generator) * torch.rand((num_rows, 1, 1), generator=generator)
    return torch.where(is_context[..., None], scale * (embedded + spread * noise), embedded)


def compute_loss(model: Any, batch: Batch, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mean loss over the words of prompts and answers, and the share of the answers' words that would be said rightly.

    `strength` 0 disturbs nothing.
    """
    ids, weights, labels, is_context, is_answer = batch
    embedded = disturb((model.transformer.wte(ids) * weights[..., None]).sum(2), is_context, strength, generator)
    # Padding stands at the end, where a causal model does not look.
    hidden = model.transformer(inputs_embeds=embedded, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != _IGNORED
    logits, targets = model.lm_head(hidden[:, :-1][wanted]), labels[:, 1:][wanted]
    right = (logits.argmax(-1) == targets)[is_answer[:, 1:][wanted]]
    return nn.functional.cross_entropy(logits, targets), right.float().mean()


@torch.no_grad()
def speak(model: Any, tokenizer: Any, example: TextExample, max_new_tokens: int = 64) -> str:
    """What the model says to an undisturbed bag, word by word in the context, the likeliest token each time."""
    prompt, bag = word_prompt(example.question), " ".join(example.bag)
    ids = [token for text in (prompt, bag) for token in tokenizer(text, add_special_tokens=False).input_ids]
    prompt_ids = torch.tensor([ids])
    said = model.generate(
        prompt_ids, attention_mask=torch.ones_like(prompt_ids), do_sample=False, max_new_tokens=max_new_tokens
    )
    words: str = tokenizer.decode(said[0, len(ids) :], skip_special_tokens=True).strip()
    return words


def is_right(example: TextExample, said: str) -> bool:
    """Whether an answer is the right one, or a report one of those that its cohort would write."""
    if example.question is not None:
        return said == example.answer.lower()
    rng = np.random.default_rng(0)
    return said in {write_report(example.cohort, example.facts, rng).lower() for _ in range(40)}


def evaluate(model: Any, tokenizer: Any, num_examples: int, seed: int = _EVALUATION_SEED) -> dict[str, tuple[int, int]]:
    """For each kind of question, and for reports, how many were right and how many there were."""
    rng = np.random.default_rng(seed)
    counts: dict[str, tuple[int, int]] = {}
    for _ in range(num_examples):
        example = draw_example(rng, whole=True)
        right, total = counts.get(example.kind, (0, 0))
        counts[example.kind] = (right + is_right(example, speak(model, tokenizer, example)), total + 1)
    return dict(sorted(counts.items()))


def pretrain(
    out: Annotated[Path, typer.Argument(help="Folder to write the model to, in Hub format.")],
    steps: Annotated[int, typer.Option(min=1)] = 2000,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: Annotated[float, typer.Option()] = 2e-3,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Build, train and write brain-gpt2, then ask it about subjects it has not met."""
    console = Console()
    started = time.monotonic()
    model, tokenizer = build_brain_gpt2(seed)
    writer, rng = BagWriter(tokenizer), np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    model.train()
    batches: list[Batch] = []
    with Progress(console=console) as progress:
        task = progress.add_task("training", total=steps)
        for step in range(1, steps + 1):
            batches = batches or build_batches(writer, rng, batch_size, _BATCHES_SORTED)
            batch = batches.pop()
            loss, share = compute_loss(model, batch, min(1.0, step / (_CALM_SHARE * steps)), generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.advance(task)
            if step % 100 == 0:
                console.print(
                    f"step {step}/{steps}: loss {loss:.3f}, {share:.1%} of the answers' words right, "
                    f"{time.monotonic() - started:.0f} s"
                )
    model.eval()  # type: ignore[no-untyped-call]
    save_brain_gpt2(model, tokenizer, out)
    for kind, (right, total) in evaluate(model, tokenizer, 400).items():
        console.print(f"{kind}: {right} of {total} right")
    console.print(f"Written to {out}")


if __name__ == "__main__":
    typer.run(pretrain)
