"""The models of a sweep over several: short names for them, and what each stands for."""

from collections.abc import Callable, Sequence
from typing import Any

from medcap_core.config import TrialConfig
from sweep.space.faults import FaultList
from sweep.space.schema import SearchSpace


def check_models(space: SearchSpace, broken: set[str], faults: FaultList) -> None:
    """Note what of `models` and the knob `model` does not go together. `broken` are knobs that could not be read."""
    if space.models and "model" in space.model_fields_set:
        faults.add("model", "the sweep has several models already", "remove this key or the section 'models'")
    ranges = space.search.get("model")
    if ranges is None:
        if space.models and "model" not in broken:
            aliases = ", ".join(space.models)
            faults.add("models", "no knob chooses among them", f"add 'model: {{grid: [{aliases}]}}' to 'search'")
        return
    if not space.models:
        remedy = "add a section 'models' with one 'alias: name' a line"
        faults.add("search.model", "there are no aliases to choose from", remedy)
        return
    for index, item in enumerate(ranges):
        key = "search.model" if len(ranges) == 1 else f"search.model[{index}]"
        if item.when:
            faults.add(f"{key}.when", "every trial has a model", "remove the condition; let others depend on the model")
        for value in item.values:
            if value not in space.models:
                faults.add_unknown(key, value, space.models, noun="model")
    for alias in space.models:
        if not any(item.contains(alias) for item in ranges):
            faults.add(f"models.{alias}", "no trial uses it", "list it in search.model or remove it")


def describe_models(space: SearchSpace) -> str:
    """Write the sweep's models in one line: a name, or aliases with what they stand for."""
    return ", ".join(f"{alias} = {name}" for alias, name in space.models.items()) or space.model


def identify_models(
    space: SearchSpace, configs: Sequence[TrialConfig], progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Identify the base models by names and weights, for the run's provenance.

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
