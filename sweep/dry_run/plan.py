"""What can be told of a sweep before it starts: short names for its points, and the text of a dry run."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medcap_core.config import TrialConfig
from medcap_core.errors import ConfigFault
from medcap_core.runtime.cache import format_size
from medcap_core.scoring.options import EXTRA_METRICS
from sweep.space.fields import show_plain
from sweep.space.model_aliases import describe_models
from sweep.space.points import build_config, draw_points, num_trials
from sweep.space.ranges import Range
from sweep.space.schema import SearchSpace
from sweep.study.pruning import build_rungs

if TYPE_CHECKING:
    from sweep.execution.cluster import TrialResources  # for its type only: importing Ray takes seconds

_NUM_SAMPLES = 5
_WIDTH = 110


@dataclass(frozen=True)
class CostPart:
    """Part of a sweep's time, one after the other."""

    what: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """What a sweep is expected to cost; `basis` says in a few words what the estimate rests on.

    `range_seconds` is what the whole takes in all but the shortest and the longest tenth of simulated searches.
    """

    seconds_per_trial: float
    total_seconds: float
    disk_bytes: int
    basis: str = ""
    parts: tuple[CostPart, ...] = ()
    range_seconds: tuple[float, float] | None = None


def describe_plan(
    space: SearchSpace, resources: "TrialResources | None" = None, estimate: CostEstimate | None = None
) -> str:
    """The text of `--dry-run`: the space as resolved, sample configs, trials, resources, and cost where estimated.

    Without `resources` the space's own keys are shown, `auto` unsettled.
    """
    sections = [
        _describe_settings(space),
        _section("Searched", _describe_search(space)),
        _section("Fixed", [f"{field} = {show_plain(value)}" for field, value in space.fixed.items()]),
        _section("By default", _wrap(_list_defaults(space))),
        _section("First points", _describe_points(space.first_points)),
        _section(_samples_title(space), _describe_points(_draw_samples(space))),
        _section("Cost", [*_describe_resources(space, resources), *_describe_estimate(estimate)]),
    ]
    return "\n\n".join(section for section in sections if section)


def format_duration(seconds: float) -> str:
    """`40 s`, `3 min 20 s`, `25 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 595:
        minutes, tens = divmod(round(seconds / 10), 6)
        return f"{minutes} min {10 * tens} s" if tens else f"{minutes} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)]) if lines else ""


def _wrap(items: Sequence[str]) -> list[str]:
    """Items joined by commas, none broken over a line end."""
    text = ", ".join(item.replace(" ", "\0") for item in items)
    return [
        line.replace("\0", " ") for line in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    ]


def _describe_settings(space: SearchSpace) -> str:
    tests = {"best": "the chosen model only", "all": "every trial's best epoch"}
    lines = [
        ("data", space.data),
        ("models" if space.models else "model", describe_models(space)),
        ("trials", _describe_num_trials(space)),
        ("sampler", f"{space.sampler}, seed {space.seed}"),
        ("scheduler", _describe_scheduler(space)),
        ("objective", f"{space.objective.title} of the best epoch on the validation split, maximised"),
        ("test split", tests[space.test] + _describe_scoring(space)),
        ("checkpoints", "all trials' are kept" if space.keep_checkpoints else "the best three trials' are kept"),
    ]
    return _section(f"Sweep '{space.name}'", [f"{name:<12} {text}" for name, text in lines])


def _describe_scoring(space: SearchSpace) -> str:
    """What is unusual about the scores of the test split."""
    extra = [EXTRA_METRICS[name] for name in space.extra_scores]
    parts = [f", with {' and '.join(extra)}"] if extra else []
    if space.caption_preprocessing != "none":
        parts.append(f", captions preprocessed as {space.caption_preprocessing}")
    if space.baseline != "zero_shot":
        parts.append(f", tested against {space.baseline}")
    return "".join(parts)


def _describe_num_trials(space: SearchSpace) -> str:
    count = num_trials(space)
    if not space.search and not space.seeds:
        return f"{count} (nothing is searched)"
    if space.sampler == "grid":
        repeats = f", each row for seeds {', '.join(map(str, space.seeds))}" if space.seeds else ""
        return f"{count}, one for each row of the grid{repeats}"
    given = min(len(space.first_points), count)
    return f"{count}, of which {given} given as first points" if given else str(count)


def _describe_scheduler(space: SearchSpace) -> str:
    if space.scheduler == "none":
        return "none, every trial runs to its end"
    if not space.stops_weak_trials:
        return "asha, but every row of a comparison (grid, test: all) runs to its end"
    rungs = [f"{rung}%" for rung in build_rungs(space.grace_fraction, space.reduction_factor)]
    if not rungs:
        return "asha without a rung below the whole schedule, so every trial runs to its end"
    return f"asha, one in {space.reduction_factor} goes on past {', '.join(rungs)} of its own schedule"


def _describe_search(space: SearchSpace) -> list[str]:
    width = max(map(len, space.search), default=0)
    lines = []
    for knob, branches in space.search.items():
        for index, branch in enumerate(branches):
            name = knob if index == 0 else ""
            lines.append(f"{name:<{width}}  {_describe_range(branch)}{_describe_when(branch)}")
    return lines


def _describe_range(branch: Range) -> str:
    return f"{branch.kind} [{', '.join(map(_exact, branch.values))}]"


def _describe_when(branch: Range) -> str:
    if not branch.when:
        return ""
    return "   when " + " and ".join(
        f"{parent} is {' or '.join(map(show_plain, values))}" for parent, values in branch.when.items()
    )


def _list_defaults(space: SearchSpace) -> list[str]:
    """Fields left at TrialConfig's default everywhere in the space."""
    given = {"data", "model", "metric", "seed", *space.fixed, *space.search}
    defaults = TrialConfig().model_dump(mode="json")
    return [f"{field} = {show_plain(value)}" for field, value in defaults.items() if field not in given]


def _samples_title(space: SearchSpace) -> str:
    if space.sampler == "grid":
        return "First rows of the grid"
    return "Sample configs (drawn at random; the sampler's own will differ)" if space.search else ""


def _draw_samples(space: SearchSpace) -> list[dict[str, Any]]:
    """A few valid points; none where nothing is searched."""
    samples = []
    for point in draw_points(space, 10 * _NUM_SAMPLES, space.seed):
        try:
            build_config(space, point)
        except ConfigFault:
            continue  # the sampler draws another in its place, too
        samples.append(point)
    return [point for point in samples if point][:_NUM_SAMPLES]


def _describe_points(points: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for number, point in enumerate(points, start=1):
        first, *rest = _wrap([f"{knob} = {_exact(value)}" for knob, value in point.items()])
        lines += [f"{number}. {first}", *(f"   {line}" for line in rest)]
    return lines


def _exact(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else show_plain(value)


def _describe_resources(space: SearchSpace, resources: "TrialResources | None") -> list[str]:
    if resources is None:
        given = space.resources
        shares = (given.workers_per_trial, given.cpus_per_trial, given.gpus_per_trial, given.max_concurrent)
        workers, cpus, gpus, at_once = (_amount(share) for share in shares)
        return [f"each trial   workers: {workers}, CPUs: {cpus}, GPUs: {gpus}", f"at once      {at_once}"]
    workers = _amount(resources.num_workers)
    cpus, gpus = _amount(resources.cpus_per_worker), _amount(resources.gpus_per_worker)
    return [
        f"each trial   workers: {workers}, for each of them CPUs: {cpus}, GPUs: {gpus}",
        f"at once      {resources.max_concurrent} of {num_trials(space)} trials",
    ]


def _amount(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _describe_estimate(estimate: CostEstimate | None) -> list[str]:
    if estimate is None:
        return ["time, disk   not estimated"]
    basis = f" ({estimate.basis})" if estimate.basis else ""
    lines = [
        f"time         about {format_duration(estimate.total_seconds)} in all, "
        f"{format_duration(estimate.seconds_per_trial)} a trial{basis}"
    ]
    if estimate.range_seconds and len(set(map(format_duration, estimate.range_seconds))) == 2:
        least, most = map(format_duration, estimate.range_seconds)
        lines.append(f"             {least} to {most} in eight of ten simulated searches")
    width = max((len(format_duration(part.seconds)) for part in estimate.parts), default=0)
    lines += [f"             {format_duration(part.seconds):>{width}}  {part.what}" for part in estimate.parts]
    return [*lines, f"disk         about {format_size(estimate.disk_bytes)}"]
