"""Earlier runs as history of the sampler: which of their trials fit a space, and how their scores compare.

The trials taken are kept in `warm_start.json` of the new run, which then needs the earlier ones no more. The sampler
alone learns of them: they are no trials of the run, and no trial is stopped or chosen by them.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import FixedTrial, FrozenTrial
from pydantic import BaseModel, ConfigDict, ValidationError

from medcap_core.config import TrialConfig
from medcap_core.errors import ConfigFault, RunFault
from sweep.space import Point, SearchSpace, Value, active_ranges, build_config, encode_point, propose, show_plain
from sweep.study.directory import check_no_pipes, load_run_records, load_run_space, show_path
from sweep.study.paths import RunPaths
from sweep.study.proposal import read_score
from sweep.study.record import TrialRecord, TrialState


class EarlierTrial(BaseModel):
    """A trial of an earlier run, its point in terms of the new space; `curve` is `TrialRecord.build_ranked_curve`.

    `is_comparable` says that nothing differs but searched knobs and the seed, so that its scores are on one scale with
    those of the new run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    trial: str
    state: TrialState
    point: Point
    curve: dict[int, float]
    is_comparable: bool


class WarmStart(BaseModel):
    """The content of `warm_start.json`: the trials taken, and one line for each run on how many and why not all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    notes: tuple[str, ...] = ()
    trials: tuple[EarlierTrial, ...] = ()

    @classmethod
    def load(cls, directory: Path, space: SearchSpace) -> "WarmStart":
        """Load a run's file; empty where there is none. Raises RunFault where it is damaged or of another space."""
        path = RunPaths(directory).warm_start
        try:
            warm_start = cls.model_validate_json(path.read_bytes())
            for trial in warm_start.trials:
                _take_point(space, trial.point)
        except FileNotFoundError:
            return cls()
        except (ValidationError, KeyError, _DoesNotFit):
            raise RunFault(
                f"{path} is damaged or does not fit the run's space.yaml; restore it from a copy, or start a new run."
            ) from None
        return warm_start


def collect_earlier(space: SearchSpace, directories: Sequence[Path]) -> WarmStart:
    """Collect the trials of earlier runs that fit a space: each searched knob lies in its range.

    What was searched then and is not now must have the value that it has now. Raises ConfigFault where the space has
    nothing to propose, and RunFault, with all faults at once, where a run cannot be read, had another objective, or has
    no trial that fits.
    """
    if directories and (space.sampler != "tpe" or not space.search):
        why = f"sampler: {space.sampler} learns from no trial" if space.search else "nothing is searched"
        raise ConfigFault(f"--warm-start: {why}; leave it out, or search with sampler: tpe.")
    notes: list[str] = []
    trials: list[EarlierTrial] = []
    faults: list[str] = []
    for directory in dict.fromkeys(directory.resolve() for directory in directories):
        try:
            taken, note = _collect_run(space, directory)
        except RunFault as fault:
            faults += fault.faults
            continue
        trials += taken
        notes.append(note)
    if faults:
        raise RunFault(faults)
    return WarmStart(notes=tuple(notes), trials=tuple(trials))


def add_earlier(space: SearchSpace, warm_start: WarmStart, history: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Put the earlier trials before a run's own.

    Where some are not comparable, such as on other data, scores are replaced by their quantiles within each run.
    """
    earlier = warm_start.trials
    reported = defaultdict[str, list[float]](list)
    for each in earlier:
        reported[each.run] += each.curve.values()
    trials = [*(_build_trial(space, each, min(reported[each.run], default=0.0)) for each in earlier), *history]
    if all(each.is_comparable for each in earlier):
        return trials
    runs = ["" if each.is_comparable else each.run for each in earlier] + [""] * len(history)
    scores = defaultdict[str, list[float]](list)
    for run, trial in zip(runs, trials, strict=True):
        if (score := read_score(trial)) is not None:
            scores[run].append(score)
    return [_rescale(trial, sorted(scores[run])) for run, trial in zip(runs, trials, strict=True)]


class _DoesNotFit(Exception):
    """Why a trial does not fit a space, in a few words."""


def _collect_run(space: SearchSpace, directory: Path) -> tuple[list[EarlierTrial], str]:
    """Collect the trials of one run, with a line on them. Raises RunFault."""
    shown, paths = show_path(directory), RunPaths(directory)
    if not paths.space.is_file() or not paths.trials.is_dir():
        raise RunFault(f"--warm-start {shown}: no run is there; name a run directory such as runs/lora-001.")
    check_no_pipes(directory)
    objective, records = load_run_space(paths.space).objective, load_run_records(directory)
    if objective != space.objective:
        raise RunFault(
            f"--warm-start {shown}: it searched for {objective.label}, this run searches for {space.objective.label}; "
            "leave it out, or set the same objective."
        )
    taken: list[EarlierTrial] = []
    reasons: Counter[str] = Counter()
    others: set[str] = set()
    for record in records:
        try:
            point, differing = _fit(space, record)
        except _DoesNotFit as error:
            reasons[str(error)] += 1
            continue
        others |= differing
        taken.append(
            EarlierTrial(
                run=str(directory),
                trial=record.name,
                state=record.state,
                point=point,
                curve=record.build_ranked_curve(),
                is_comparable=not differing,
            )
        )
    left_out = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if not taken:
        raise RunFault(
            f"--warm-start {shown}: none of its {len(records)} trials fits this space"
            f"{f' ({left_out})' if left_out else ''}; leave it out, or widen the space."
        )
    ranked = f"; other {', '.join(sorted(others))}, so they are ranked among themselves" if others else ""
    not_taken = f"; not taken: {left_out}" if left_out else ""
    return taken, f"Warm start     {len(taken)} of the {len(records)} trials of {shown}{ranked}{not_taken}"


def _fit(space: SearchSpace, record: TrialRecord) -> tuple[Point, set[str]]:
    """Find a trial's point in a space, and the fields, neither searched nor seed, that differ. Raises _DoesNotFit."""
    if not record.state.is_final:
        raise _DoesNotFit("not ended")
    if record.state is TrialState.FAILED and not record.is_config_at_fault:
        raise _DoesNotFit("failed, but not by the config")
    if record.state is not TrialState.FAILED and record.best_score is None:
        raise _DoesNotFit("without a score")
    then = record.config.model_dump(mode="json")
    aliases = {name: alias for alias, name in space.models.items()}
    point = _take_point(space, then | ({"model": aliases.get(then["model"], then["model"])} if aliases else {}))
    try:
        now = build_config(space, point).model_dump(mode="json")
    except ConfigFault:
        raise _DoesNotFit("with values that do not go together here") from None
    differing = {name for name in TrialConfig.model_fields if now[name] != then[name]} - {"seed"}
    for knob in differing & record.point.keys() - {"model"}:
        raise _DoesNotFit(f"with another {knob} than {show_plain(now[knob])}")
    return point, differing


def _take_point(space: SearchSpace, values: Mapping[str, Value]) -> Point:
    """Take the searched knobs out of the fields of a config. Raises _DoesNotFit where one is outside its range."""
    point: Point = {}
    for knob, active, _ in active_ranges(space, point):
        if not active.contains(values[knob]):
            raise _DoesNotFit(f"with a {knob} outside its range")
        point[knob] = values[knob]
    return point


def _build_trial(space: SearchSpace, earlier: EarlierTrial, lowest: float) -> FrozenTrial:
    """Build an earlier trial as Optuna's samplers take it; a failed one has the `lowest` score of its run."""
    drawn = FixedTrial(encode_point(space, earlier.point))
    propose(space, drawn)
    is_pruned = earlier.state is TrialState.PRUNED
    best = lowest if earlier.state is TrialState.FAILED else max(earlier.curve.values())
    return optuna.create_trial(
        state=optuna.trial.TrialState.PRUNED if is_pruned else optuna.trial.TrialState.COMPLETE,
        value=None if is_pruned else best,
        params=drawn.params,
        distributions=drawn.distributions,
        intermediate_values=earlier.curve,
    )


def _rescale(trial: FrozenTrial, scores: Sequence[float]) -> FrozenTrial:
    """Replace a trial's score by its quantile among the sorted `scores` of its run; one without stays as it is."""
    score = read_score(trial)
    if score is None:
        return trial
    quantile = (bisect_left(scores, score) + bisect_right(scores, score)) / (2 * len(scores))
    return optuna.create_trial(
        state=trial.state,
        value=quantile if trial.state is optuna.trial.TrialState.COMPLETE else None,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values={max(trial.intermediate_values, default=100): quantile},
    )
