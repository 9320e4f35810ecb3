"""The models of a sweep over several: short names for them, and what each stands for."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medcap_core.config import TrialConfig, absolute_if_path
from sweep.space.fields import FaultList, show
from sweep.space.ranges import Branch, Choice, Grid
from sweep.space.schema import SearchSpace

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def read_models(values: Mapping[Any, Any], faults: FaultList) -> dict[str, str]:
    """The section `models` of a space file: alias -> a name, a Hub model or a path made absolute."""
    raw = values.get("models")
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        faults.add("models", f"{show(raw)} is not a mapping", "write one 'alias: name or path' on each line below it")
        return {}
    models = {}
    for alias, name in raw.items():
        if not isinstance(alias, str) or not _ALIAS.fullmatch(alias):
            faults.add("models", f"{show(alias)} is no alias", "use letters, digits, '_' and '-' only, such as blip2")
        elif not isinstance(name, str) or not name:
            faults.add(f"models.{alias}", f"{show(name)} is no model", "give a name, a Hub model or a path")
        else:
            models[alias] = absolute_if_path(name)
    if raw and "model" in values:
        faults.add("model", "the sweep has several models already", "remove this key or the section 'models'")
    return models


def check_models(
    models: Mapping[str, str], search: Mapping[str, tuple[Branch, ...]], named: set[str], faults: FaultList
) -> None:
    """Note what of `models` and the knob `model` does not go together. `named` are all knobs of the file."""
    branches = search.get("model")
    if branches is None:
        if models and "model" not in named:
            aliases = ", ".join(models)
            faults.add("models", "no knob chooses among them", f"add 'model: {{grid: [{aliases}]}}' to 'search'")
        return
    if not models:
        faults.add(
            "search.model",
            "there are no aliases to choose from",
            "add a section 'models' with one 'alias: name' a line",
        )
        return
    used: set[Any] = set()
    for index, branch in enumerate(branches):
        key = "search.model" if len(branches) == 1 else f"search.model[{index}]"
        if branch.when:
            faults.add(f"{key}.when", "every trial has a model", "remove the condition; let others depend on the model")
        assert isinstance(branch.range, Choice | Grid), "text is listed"
        used |= set(branch.range.values)
        for value in branch.range.values:
            if value not in models:
                faults.add_unknown_key(key, value, models, noun="model")
    for alias in models:
        if alias not in used:
            faults.add(f"models.{alias}", "no trial uses it", "list it in search.model or remove it")


def describe_models(space: SearchSpace) -> str:
    """The sweep's models in one line: a name, or aliases with what they stand for."""
    return ", ".join(f"{alias} = {name}" for alias, name in space.models.items()) or space.model


def identify_models(
    space: SearchSpace, configs: Sequence[TrialConfig], progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Names and weights of the base models, for the run's provenance.

    `name` and `sha256` of one, or `name` and `models`, which has both for each alias; `vision_models` has the SHA-256
    of the other vision towers that `configs` name.
    """
    from medcap_core.models import hash_weights  # imports torch, which takes seconds

    towers = sorted({config.vision_model for config in configs if config.vision_model is not None})
    names = [*(space.models.values() or [space.model]), *towers]
    what, hashes = "hashing the weights of the models", dict[str, str | None]()
    for done, name in enumerate(names):
        progress(what, done, len(names))
        hashes[name] = hash_weights(name)
    progress(what, len(names), len(names))
    identity: dict[str, Any] = {"name": describe_models(space)}
    if space.models:
        identity["models"] = {alias: {"name": name, "sha256": hashes[name]} for alias, name in space.models.items()}
    else:
        identity["sha256"] = hashes[space.model]
    if towers:
        identity["vision_models"] = {name: hashes[name] for name in towers}
    return identity
