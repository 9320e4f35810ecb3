"""Train the embedded language model: a small GPT-2 from random weights on synthetic texts, without scans.

python -m medcap_core.pretraining.brain_gpt2 OUT_DIR

Each text has the order of MedBLIP in 3D: a prompt, a bag of words in place of the image tokens, and the matching answer
or report. The words are mixed, between fillers and with noise, as image tokens are only near their embeddings.

`medcap_core/assets/brain-gpt2` was made by this command in 12 minutes on one core of a busy machine. It was right on
400 of 400 new subjects: 244 answers, and 156 reports word for word.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from medcap_core.data.brain_phantoms.texts import FILLERS, TextExample, draw_example, list_words
from medcap_core.data.brain_phantoms.wording import write_report
from medcap_core.models.medblip3d.captioner import REPORT_PROMPT, format_question

PAD, BEGIN, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
NUM_POSITIONS = 256
_WORD = re.compile(r"\w+|[^\w\s]")
_IGNORED = -100
_MAX_WORDS_IN_SLOT, _LONGEST_CONTEXT = 3, 48
_MIX_SHARE, _BLEND_SHARE = 0.15, 0.3
_BATCHES_SORTED = 8  # batches sorted by length at once
_NOISE_RISE_SHARE = 0.5  # share of the steps over which the noise of the context rises


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer with a token for each word of the synthetic texts."""
    backend = Tokenizer(models.BPE(unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    words = sorted({word for text in list_words() for word in _WORD.findall(text.lower())})
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,  # never reached, so that each word is merged to one token
        min_frequency=1,
        special_tokens=[PAD, BEGIN, END, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(words, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=NUM_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_brain_gpt2(seed: int) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """Build a model with random weights and its tokenizer; the caller's random state is unchanged."""
    tokenizer = build_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=NUM_POSITIONS,
        n_embd=128,
        n_layer=4,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.06,  # GPT-2's 0.02 suits a width of 768
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config), tokenizer


def save_brain_gpt2(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write model and tokenizer in Hub format, weights in float16 with dtype float32 in config.json."""
    model.half().save_pretrained(directory)  # type: ignore[no-untyped-call]
    model.float()  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(directory)
    config_file = directory / "config.json"
    values = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps({**values, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


Slot = tuple[list[int], list[float]]
"""Token ids that share one embedding, and their weights in it."""


class Row(NamedTuple):
    """One text: token ids, with slots in place of image tokens."""

    prompt: list[int]
    context: list[Slot]
    answer: list[int]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.prompt) + len(self.context) + len(self.answer)


class Batch(NamedTuple):
    """Texts of T tokens, padded with zeros at the end."""

    ids: Tensor  # (B, T, 3)
    weights: Tensor  # (B, T, 3)
    labels: Tensor  # (B, T), the target tokens
    is_context: Tensor  # (B, T), bool


def build_prompt(question: str | None) -> str:
    """Build the prompt before the image: of a question, or of a report for None."""
    return REPORT_PROMPT if question is None else format_question(question)


class BagTokenizer:
    """Tokenizes texts, and bags of words to the slots of a context."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.fillers: list[int] = [ids[0] for ids in tokenizer(list(FILLERS), add_special_tokens=False).input_ids]
        self.tokenize = cache(lambda text: tokenizer(text, add_special_tokens=False).input_ids)

    def fill_context(self, bag: Sequence[str], rng: np.random.Generator) -> list[Slot]:
        """Build the slots of one bag: its words, sometimes two in one slot, with fillers between them."""
        slots: list[Slot] = []
        for word in bag:
            weight = float(rng.uniform(0.6, 1.2))
            if slots and len(slots[-1][0]) < _MAX_WORDS_IN_SLOT - 1 and rng.uniform() < _MIX_SHARE:
                ids, weights = slots.pop()
                slots.append(([*ids, *self.tokenize(word)], [*weights, weight]))
            else:
                slots.append(([*self.tokenize(word)], [weight]))
        for _ in range(int(rng.uniform() ** 2 * max(_LONGEST_CONTEXT - len(slots), 0))):
            filler = ([self.fillers[int(rng.integers(len(self.fillers)))]], [float(rng.uniform(0, 1.2))])
            slots.insert(int(rng.integers(len(slots) + 1)), filler)
        for ids, weights in slots:
            if len(ids) < _MAX_WORDS_IN_SLOT and rng.uniform() < _BLEND_SHARE:  # a filler at low weight
                ids.append(self.fillers[int(rng.integers(len(self.fillers)))])
                weights.append(float(rng.uniform(0, 0.5)))
        return slots


def build_batches(writer: BagTokenizer, rng: np.random.Generator, batch_size: int, num_batches: int) -> list[Batch]:
    """Build batches of new examples, each of texts of similar length, in random order."""
    rows: list[Row] = []
    for _ in range(batch_size * num_batches):
        example = draw_example(rng)
        answer = [*writer.tokenize(example.answer), writer.tokenizer.eos_token_id]
        rows.append(Row(writer.tokenize(build_prompt(example.question)), writer.fill_context(example.bag, rng), answer))
    rows.sort(key=lambda row: row.length)
    order = rng.permutation(num_batches) * batch_size
    return [build_batch(rows[start : start + batch_size]) for start in order.tolist()]


def build_batch(rows: Sequence[Row]) -> Batch:
    """Pad texts to a batch; the first token of a prompt has no label."""
    shape = (len(rows), max(row.length for row in rows))
    ids = np.zeros((*shape, _MAX_WORDS_IN_SLOT), np.int64)
    weights = np.zeros((*shape, _MAX_WORDS_IN_SLOT), np.float32)
    labels = np.full(shape, _IGNORED, np.int64)
    is_context = np.zeros(shape, np.bool_)
    for index, (prompt, context, answer) in enumerate(rows):
        start, end = len(prompt), len(prompt) + len(context)
        target = slice(end, end + len(answer))
        ids[index, :start, 0], labels[index, 1:start] = prompt, prompt[1:]
        for slot, (tokens, shares) in enumerate(context, start):
            ids[index, slot, : len(tokens)], weights[index, slot, : len(tokens)] = tokens, shares
        ids[index, target, 0] = labels[index, target] = answer
        weights[index, :start, 0] = weights[index, target, 0] = 1
        is_context[index, start:end] = True
    return Batch(*(torch.from_numpy(values) for values in (ids, weights, labels, is_context)))


def disturb(embedded: Tensor, is_context: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Scale the context of each row of (B, T, D) and add noise to it.

    At `strength` 1 the scale is 0.5 to 2 and the noise up to 0.6 standard deviations.
    """
    num_rows = len(embedded)
    spread = strength * 0.6 * embedded.detach().std()
    scale = torch.exp2(strength * (torch.rand((num_rows, 1, 1), generator=generator) * 2 - 1))
    noise = torch.randn(embedded.shape, generator=generator) * torch.rand((num_rows, 1, 1), generator=generator)
    return torch.where(is_context[..., None], scale * (embedded + spread * noise), embedded)


def compute_loss(model: Any, batch: Batch, strength: float, generator: torch.Generator) -> Tensor:
    """Compute the mean token loss over prompts and answers; `strength` is of `disturb`, and 0 changes nothing."""
    ids, weights, labels, is_context = batch
    embedded = disturb((model.transformer.wte(ids) * weights[..., None]).sum(2), is_context, strength, generator)
    # Padding is at the end, which causal attention ignores.
    hidden = model.transformer(inputs_embeds=embedded, use_cache=False).last_hidden_state
    has_label = labels[:, 1:] != _IGNORED
    return nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][has_label]), labels[:, 1:][has_label])


@torch.no_grad()
def generate_text(model: Any, tokenizer: Any, example: TextExample) -> str:
    """Generate the text for an undisturbed bag greedily, with one slot for each token of the bag."""
    texts = [build_prompt(example.question), " ".join(example.bag)]
    ids = torch.tensor([[*chain(*tokenizer(texts, add_special_tokens=False).input_ids)]])
    generated = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64)
    return str(tokenizer.decode(generated[0, ids.shape[1] :], skip_special_tokens=True).strip())


def is_correct(example: TextExample, text: str) -> bool:
    """Check for the correct answer, or for one of the cohort's possible reports."""
    if example.question is not None:
        return text == example.answer.lower()
    rng = np.random.default_rng(0)
    return text in {write_report(example.cohort, example.facts, rng).lower() for _ in range(40)}


def evaluate(model: Any, tokenizer: Any, num_examples: int, seed: int = 1_000_003) -> dict[str, tuple[int, int]]:
    """Count the correct texts and all texts, by kind of question, and for reports."""
    rng = np.random.default_rng(seed)
    examples = [draw_example(rng, whole=True) for _ in range(num_examples)]
    right = Counter(ex.kind for ex in examples if is_correct(ex, generate_text(model, tokenizer, ex)))
    return {kind: (right[kind], total) for kind, total in sorted(Counter(ex.kind for ex in examples).items())}


def pretrain(
    out: Annotated[Path, typer.Argument(help="Folder to write the model to, in Hub format.")],
    steps: Annotated[int, typer.Option(min=1)] = 2000,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    learning_rate: Annotated[float, typer.Option()] = 2e-3,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Build, train and write brain-gpt2, then evaluate it on new subjects."""
    started = time.monotonic()
    model, tokenizer = build_brain_gpt2(seed)
    writer, rng = BagTokenizer(tokenizer), np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    model.train()
    batches: list[Batch] = []
    for step in range(1, steps + 1):
        batches = batches or build_batches(writer, rng, batch_size, _BATCHES_SORTED)
        loss = compute_loss(model, batches.pop(), min(1.0, step / (_NOISE_RISE_SHARE * steps)), generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            typer.echo(f"step {step}/{steps}: loss {loss:.3f}, {time.monotonic() - started:.0f} s")
    model.eval()  # type: ignore[no-untyped-call]
    save_brain_gpt2(model, tokenizer, out)
    for kind, (right, total) in evaluate(model, tokenizer, 400).items():
        typer.echo(f"{kind}: {right} of {total} right")
    typer.echo(f"Written to {out}")


if __name__ == "__main__":
    typer.run(pretrain)
