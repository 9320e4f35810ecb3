"""Captions of the phantoms: a template filled with a phrase for each fact.

Every caption names its view and, unless normal, finding, side, level and size.
"""

import re
from collections.abc import Iterable

import numpy as np

from medcap_core.data.phantoms.phrases import ASIDES, FORMAL, PLAIN, REPORT, REPORT_ORGANS, Phrases, Register
from medcap_core.data.phantoms.scenes import Domain, Plan

USUAL_SHARE = 0.55  # probability of the first phrase of a list; the others share the rest
FORMAL_SHARE = 0.35  # of the general domain's captions
ASIDE_SHARE = 0.7  # of the formal captions

REGISTERS: dict[Domain, tuple[Register, ...]] = {"general": (PLAIN, FORMAL), "target": (REPORT,)}

_SLOT = re.compile(r"\{\w+\}")


def list_phrases() -> list[str]:
    """List every template and phrase of all registers, slots left empty: the vocabulary of the captions."""
    phrases = ["right", "left", "a", "an", *ASIDES]
    for register in (PLAIN, FORMAL, REPORT):
        for style in register.styles.values():
            phrases += [*style.names, *style.templates, *style.normal]
            phrases += _flatten(style.levels.values())
        phrases += [*_flatten(register.findings.values()), *_flatten(register.sizes.values())]
    return [_SLOT.sub(" ", phrase) for phrase in phrases]


def list_finding_wordings() -> set[str]:
    """List the phrases (without article) that name a finding in any register."""
    registers = (PLAIN, FORMAL, REPORT)
    return {cut_article(noun) for register in registers for noun in _flatten(register.findings.values())}


def _flatten(choices: Iterable[Phrases]) -> list[str]:
    return [phrase for phrases in choices for phrase in phrases]


def _choose(rng: np.random.Generator, phrases: Phrases) -> str:
    """Draw the usual phrase or, less often, one of the others."""
    if len(phrases) == 1 or rng.uniform() < USUAL_SHARE:
        return phrases[0]
    return phrases[1 + int(rng.integers(len(phrases) - 1))]


def cut_article(noun: str) -> str:
    """Remove the first word of a noun phrase."""
    return noun.split(" ", 1)[1]


def write_caption(domain: Domain, plan: Plan, rng: np.random.Generator) -> str:
    """Write one image's facts as a sentence."""
    registers = REGISTERS[domain]
    register = registers[-1] if len(registers) == 1 or rng.uniform() < FORMAL_SHARE else registers[0]
    style = register.styles[plan.view]
    name = _choose(rng, style.names)
    if plan.finding is None or plan.level is None or plan.size is None:
        sentence = _choose(rng, style.normal).format(name=name)
    else:
        bare = cut_article(_choose(rng, register.findings[plan.finding]))
        size = _choose(rng, register.sizes[plan.size])
        if register.size_first:
            bare = f"{size} {bare}"
        sentence = _choose(rng, style.templates).format(
            name=name,
            finding=f"{'an' if bare[0].lower() in 'aeiou' else 'a'} {bare}",
            bare=bare,
            side=plan.side,
            level=_choose(rng, style.levels[plan.level]),
            size=size,
        )
    sentence = sentence[0].upper() + sentence[1:]
    if register is FORMAL and rng.uniform() < ASIDE_SHARE:
        sentence += f" {_write_aside(rng)}"
    return sentence


def _write_aside(rng: np.random.Generator) -> str:
    """Write a clause on an absent finding with uniformly drawn phrases of the report register."""
    choices = {
        "name": _flatten(style.names for style in REPORT.styles.values()),
        "organ": REPORT_ORGANS,
        "finding": _flatten(REPORT.findings.values()),
    }
    words = {slot: phrases[int(rng.integers(len(phrases)))] for slot, phrases in choices.items()}
    return ASIDES[int(rng.integers(len(ASIDES)))].format(**words)
