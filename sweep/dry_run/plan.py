"""The text of `--dry-run`: what a space would run, with which resources, and what that costs."""

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from medcap_core.config import TrialConfig
from medcap_core.errors import ConfigFault
from medcap_core.runtime.cache import format_size
from medcap_core.scoring.registry import load_scores
from sweep.execution.cluster import TrialResources
from sweep.space import TOP_LEVEL_FIELDS, Point, Range, SearchSpace, build_config, draw_points, num_trials, show_plain
from sweep.study.stopping import describe_scheduler

_NUM_SAMPLES, _WIDTH = 5, 110


@dataclass(frozen=True)
class CostEstimate:
    """What a sweep is expected to cost: seconds by what they are for, one after the other, and of the mean trial."""

    seconds: Mapping[str, float]
    seconds_per_trial: float
    disk_bytes: int
    epochs_bytes: int = 0  # of those, the checkpoints of every epoch


def describe_plan(space: SearchSpace, resources: TrialResources, estimate: CostEstimate) -> str:
    """Write the text of `--dry-run`: the space as resolved, a few points of it, resources and cost."""
    is_grid = space.sampler == "grid"
    samples = "First rows of the grid" if is_grid else "Sample configs (drawn at random; the sampler's own will differ)"
    sections = {
        f"Sweep '{space.name}'": _describe_settings(space),
        "Searched": _describe_search(space),
        "Fixed": [f"{field} = {show_plain(value)}" for field, value in space.fixed.items()],
        "By default": _wrap(_list_defaults(space)),
        "First points": _describe_points(space.first_points),
        samples: _describe_points(_draw_samples(space)),
        "Cost": _describe_cost(space, resources, estimate),
    }
    return "\n\n".join("\n  ".join([title, *lines]) for title, lines in sections.items() if lines)


def format_duration(seconds: float) -> str:
    """Write a duration as `40 s`, `3 min 20 s`, `25 min` or `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 595:
        minutes, tens = divmod(round(seconds / 10), 6)
        return f"{minutes} min {10 * tens} s" if tens else f"{minutes} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _wrap(items: Sequence[str]) -> list[str]:
    """Join items by commas, none broken over a line end."""
    text = ", ".join(item.replace(" ", "\0") for item in items)
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def _describe_settings(space: SearchSpace) -> list[str]:
    epoch = str(space.fixed.get("evaluate", "best"))
    kept = ", with model and optimizer of every epoch" if space.fixed.get("checkpoint_every_epoch") else ""
    verb = "minimised" if space.objective.direction == "minimize" else "maximised"
    ends = "hours at most; then no epoch begins any more, and the best model so far is tested"
    tested = f"every trial's {epoch} epoch" if space.test == "all" else "the chosen model only"
    lines = {
        "data": space.data,
        "models" if space.models else "model": space.model_names,
        "trials": _describe_num_trials(space),
        "sampler": f"{space.sampler}, seed {space.seed}",
        "scheduler": describe_scheduler(space),
        "objective": f"{space.objective.title} of the {epoch} epoch on the validation split, {verb}",
        "ends after": f"{space.max_hours:g} {ends}" if space.max_hours else "",
        "test split": tested + _describe_scoring(space),
        "checkpoints": ("all trials'" if space.keep_checkpoints else "the best three trials'") + " are kept" + kept,
    }
    return [f"{name:<12} {text}" for name, text in lines.items() if text]


def _describe_scoring(space: SearchSpace) -> str:
    extra = [score.name for key in space.extra_scores for score in load_scores(key)]
    text = f", with {' and '.join(extra)}" if extra else ""
    if space.caption_preprocessing != "none":
        text += f", captions preprocessed as {space.caption_preprocessing}"
    return text + (f", tested against {space.baseline}" if space.baseline != "zero_shot" else "")


def _describe_num_trials(space: SearchSpace) -> str:
    count = num_trials(space)
    if not space.search and not space.seeds:
        return f"{count} (nothing is searched)"
    if space.sampler == "grid":
        repeats = f", each row for seeds {', '.join(map(str, space.seeds))}" if space.seeds else ""
        return f"{count}, one for each row of the grid{repeats}"
    given = min(len(space.first_points), count)
    return f"{count}, of which {given} given as first points" if given else str(count)


def _describe_search(space: SearchSpace) -> list[str]:
    width = max(map(len, space.search), default=0)
    return [
        f"{'' if index else knob:<{width}}  {_describe_branch(branch)}"
        for knob, branches in space.search.items()
        for index, branch in enumerate(branches)
    ]


def _describe_branch(branch: Range) -> str:
    text = f"{branch.kind} [{', '.join(map(_exact, branch.values))}]"
    conditions = [f"{parent} is {' or '.join(map(show_plain, values))}" for parent, values in branch.when.items()]
    return text + ("   when " + " and ".join(conditions) if conditions else "")


def _list_defaults(space: SearchSpace) -> list[str]:
    """List the fields left at TrialConfig's default everywhere in the space."""
    given = {*TOP_LEVEL_FIELDS, "seed", *space.fixed, *space.search}
    defaults = TrialConfig().model_dump(mode="json")
    return [f"{field} = {show_plain(value)}" for field, value in defaults.items() if field not in given]


def _draw_samples(space: SearchSpace) -> list[Point]:
    """Draw a few valid points; none where nothing is searched."""
    samples = []
    for point in filter(None, draw_points(space, 10 * _NUM_SAMPLES, space.seed)):
        with suppress(ConfigFault):  # the sampler draws another in its place, too
            build_config(space, point)
            samples.append(point)
    return samples[:_NUM_SAMPLES]


def _describe_points(points: Sequence[Point]) -> list[str]:
    lines = []
    for number, point in enumerate(points, start=1):
        first, *rest = _wrap([f"{knob} = {_exact(value)}" for knob, value in point.items()])
        lines += [f"{number}. {first}", *(f"   {line}" for line in rest)]
    return lines


def _exact(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else show_plain(value)


def _describe_cost(space: SearchSpace, resources: TrialResources, estimate: CostEstimate) -> list[str]:
    width = max(len(format_duration(seconds)) for seconds in estimate.seconds.values())
    return [
        f"each trial   workers: {resources.num_workers}, for each of them CPUs: {resources.cpus_per_worker:g}, "
        f"GPUs: {resources.gpus_per_worker:g}",
        f"at once      {resources.max_concurrent} of {num_trials(space)} trials",
        f"time         about {format_duration(sum(estimate.seconds.values()))} in all, "
        f"{format_duration(estimate.seconds_per_trial)} a trial (from a few measured steps of each kind of trial here)",
        *(f"             {format_duration(seconds):>{width}}  {what}" for what, seconds in estimate.seconds.items()),
        f"disk         about {format_size(estimate.disk_bytes)}"
        + (f", of which checkpoints of every epoch {format_size(estimate.epochs_bytes)}" * bool(estimate.epochs_bytes)),
    ]
