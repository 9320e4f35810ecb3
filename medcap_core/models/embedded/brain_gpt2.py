"""The starting point of the embedded language model: a small GPT-2 with random weights, in Hub format.

Its tokenizer is lower-casing byte-level BPE, which covers any text; every word of the synthetic reports, questions and
answers is one token. Training on such texts gives `brain-gpt2`, the frozen language model of MedBLIP in 3D.
"""

import json
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from medcap_core.data.brain_phantoms.texts import list_words

PAD, BEGIN, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
_SPECIAL_TOKENS = (PAD, BEGIN, END, UNKNOWN)
NUM_POSITIONS = 256
_HIDDEN_SIZE = 128
_NUM_LAYERS = 4
_NUM_HEADS = 4
_INITIALIZER_RANGE = 0.06  # GPT-2's 0.02 suits a width of 768
_MAX_VOCABULARY = 10_000  # never reached, so that each word is merged to one token
_WORD = re.compile(r"\w+|[^\w\s]")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer with a token for each word of the synthetic texts."""
    backend = Tokenizer(models.BPE(unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    words = sorted({word for text in list_words() for word in _WORD.findall(text.lower())})
    trainer = trainers.BpeTrainer(
        vocab_size=_MAX_VOCABULARY,
        min_frequency=1,
        special_tokens=list(_SPECIAL_TOKENS),
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
        n_embd=_HIDDEN_SIZE,
        n_layer=_NUM_LAYERS,
        n_head=_NUM_HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=_INITIALIZER_RANGE,
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
