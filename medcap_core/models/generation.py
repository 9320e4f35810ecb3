"""Limits on caption lengths and the settings of generation, the same in every family."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from medcap_core.config import TrialConfig
from medcap_core.errors import ModelFault


def check_caption_lengths(
    config: TrialConfig, prompt_length: int, num_positions: int | None, *, beside_image: bool = False
) -> None:
    """Raise ModelFault, with all faults, where captions or the prompt are too long for a model.

    `prompt_length` is in tokens, the begin token included; `num_positions` is None for relative positions without a
    limit; with `beside_image` the image's tokens are already subtracted from it.
    """
    faults = []
    if num_positions is not None:
        own = f"the model's {num_positions} positions"
        positions = f"the {num_positions} positions the model has beside the image" if beside_image else own
        if config.max_caption_tokens > num_positions:
            faults.append(f"max_caption_tokens {config.max_caption_tokens} exceeds {positions}.")
        if prompt_length + config.max_new_tokens > num_positions:
            faults.append(
                f"max_new_tokens {config.max_new_tokens} and a prompt of {prompt_length} tokens exceed {positions}; "
                f"lower max_new_tokens to at most {num_positions - prompt_length}."
            )
    if prompt_length >= config.max_caption_tokens:
        faults.append(
            f"the prompt has {prompt_length} tokens and max_caption_tokens is {config.max_caption_tokens}; "
            "raise max_caption_tokens or shorten the prompt."
        )
    if faults:
        raise ModelFault(faults)


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of a model's special tokens; `start` is the first token of a decoder beside an encoder.

    Generation ends at `end` or, where they are given, at one of `other_ends`.
    """

    begin: int | None
    end: int
    pad: int
    start: int | None = None
    other_ends: tuple[int, ...] | None = None


def read_special_tokens(text_config: Any, *, is_encoder_decoder: bool) -> SpecialTokens:
    """Read the special tokens of a language model from its config; OPT in BLIP-2 ends in a line feed, as trained."""
    end, pad = int(text_config.eos_token_id), text_config.pad_token_id
    return SpecialTokens(
        begin=getattr(text_config, "bos_token_id", None),
        end=end,
        pad=end if pad is None else int(pad),
        start=int(text_config.decoder_start_token_id) if is_encoder_decoder else None,
    )


def build_generation_config(config: TrialConfig, tokens: SpecialTokens) -> GenerationConfig:
    """Build the generation config of a beam search with the settings of `config`."""
    return GenerationConfig(  # type: ignore[no-untyped-call]
        num_beams=config.num_beams,
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=config.min_new_tokens,
        length_penalty=config.length_penalty,
        repetition_penalty=config.repetition_penalty,
        early_stopping=config.early_stopping and config.num_beams > 1,
        do_sample=False,
        bos_token_id=tokens.begin,
        eos_token_id=tokens.end if tokens.other_ends is None else [*dict.fromkeys((tokens.end, *tokens.other_ends))],
        pad_token_id=tokens.pad,
        decoder_start_token_id=tokens.start,
    )


_SETTINGS = ("num_beams", "length_penalty", "repetition_penalty", "early_stopping", "max_new_tokens", "min_new_tokens")
_UNSET = "unset_generation_setting"


def write_decoder_defaults(directory: Path, generation_config: GenerationConfig, text_config: Any) -> None:
    """Write the search settings of a saved BLIP, BLIP-2 or InstructBLIP where its plain `generate` reads them.

    transformers' `generate` of these classes runs that of the text decoder, whose defaults are built from
    `text_config.to_dict()`: generation_config.json is read for the outer model only. A `num_beams` in `text_config` is
    dropped on loading, and refused by `generate` where it is an attribute. `attribute_map`, the public alias table of a
    config, leads the value into the dictionary and the attribute to None. Measured with transformers 5.0, 5.9, 5.23
    and 5.24: without it 0 of 5 captions are the same, with it all; where a release ignores it, the search is greedy.
    """
    settings = {name: value for name in _SETTINGS if (value := getattr(generation_config, name)) is not None}
    path = directory / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    decoder = {name: value for name, value in values["text_config"].items() if name not in settings}
    stored = {f"stored_{name}": name for name in settings}
    aliases = {**type(text_config).attribute_map, **dict.fromkeys(settings, _UNSET), **stored}
    own = {name: settings[setting] for name, setting in stored.items()}
    values["text_config"] = {**decoder, **own, "attribute_map": aliases, _UNSET: None}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
