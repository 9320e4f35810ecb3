"""What Optuna finds in a run's trials: parallel coordinates, importances, Pareto fronts.

It looks at a study in memory made from the trials' records, which hold what `study.db` holds, without its lock,
and joined: a knob with several branches is several parameters to the sampler, but one axis to a reader.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from sweep.report.style import (
    GREY,
    LOG_AXIS,
    MIN_TRIALS_TO_COMPARE,
    PALETTE,
    NothingToShow,
    add_trials,
    begin,
    finish,
    is_log,
)
from sweep.space import show_plain
from sweep.study.record import TrialRecord, TrialState
from sweep.study.results import RunResults
from sweep.tables.blocks import Column, Plot, Row, Table
from sweep.tables.trial_tables import is_numeric_knob, title_knob

if TYPE_CHECKING:
    import optuna

MIN_TRIALS_FOR_IMPORTANCE = 10
"""Fewer whole trials are mostly of one kind, and a knob that ruined trials early seems to be of no importance."""
NUM_NAMED = 8
LOG_SPREAD = 30
"""Costs that differ by more than this factor are drawn on a logarithmic axis."""

_SCALE = [[0.0, GREY], [1.0, PALETTE[1]]]


def plot_parallel(results: RunResults, searched: Sequence[str]) -> Plot:
    """Draw Optuna's parallel coordinates over the trials that ran to their end."""
    from optuna.visualization import plot_parallel_coordinate
    from plotly.colors import sample_colorscale

    study, done = _build_study(results, searched)
    objective = results.space.objective
    if len(searched) < 2:
        raise NothingToShow("Fewer than two knobs were searched, so there are no parallel coordinates.")
    if len(done) < MIN_TRIALS_TO_COMPARE:
        raise NothingToShow("Fewer than two trials ran to their end, so there are no parallel coordinates.")
    figure = plot_parallel_coordinate(study, params=list(searched), target_name=objective.validation_title)
    scores = [objective.rank(record.best_score) for record in done]
    low, high = min(scores), max(scores)
    shares = [(score - low) / (high - low) if high > low else 1.0 for score in scores]
    *lines, colour_bar = figure.data
    for line, share, colour in zip(lines, shares, sample_colorscale(_SCALE, shares), strict=True):
        line.update(line={"color": colour, "width": 1.5 + 2 * share}, opacity=0.9)
    colour_bar.marker.update(
        colorscale=_SCALE, reversescale=False, colorbar={"title": objective.title, "thickness": 14}
    )
    figure.update_annotations(bgcolor="rgba(255,255,255,0.9)")
    figure.update_xaxes(ticktext=[objective.title, *(title_knob(name) for name in sorted(searched))])
    summary = (
        f"Parallel coordinates: one line for each of the {len(done)} trials that ran to their end, through its "
        f"values of {', '.join(title_knob(name) for name in searched)}, coloured by {objective.label} on validation."
    )
    return finish(
        "parallel", "Parallel coordinates", figure, summary, height=440, margin=60, data_in="leaderboard",
        min_width=110 * (len(searched) + 2),
    )  # fmt: skip


def plot_importances(results: RunResults, searched: Sequence[str]) -> Plot:
    """Draw Optuna's importances (PED-ANOVA) of the knobs that differ between the trials that ran to their end."""
    from optuna.visualization import plot_param_importances

    study, done = _build_study(results, searched)
    values, objective = {record.best_score for record in done}, results.space.objective
    varied = [knob for knob in searched if len({repr(record.point.get(knob)) for record in done}) > 1]
    if len(varied) < 2 or len(done) < MIN_TRIALS_FOR_IMPORTANCE or len(values) < 2:
        raise NothingToShow(
            f"Importances need at least {MIN_TRIALS_FOR_IMPORTANCE} trials that ran to their end, with different "
            f"scores and values of two knobs; here are {len(done)}, with different values of {len(varied)}. Trials "
            "that were stopped early do not count."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that few trials say little is seen from the leaderboard
        figure = plot_param_importances(study, params=varied, target_name=objective.validation_title)
    bars = figure.data[0]  # from the smallest up
    shares = {name: float(share) for name, share in reversed(list(zip(bars.y, bars.x, strict=True)))}
    figure.update_traces(marker_color=PALETTE[0], y=[title_knob(name) for name in bars.y])
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title="Importance")
    figure.update_yaxes(title=None)
    columns = (Column("knob", "Knob"), Column("importance", "Importance", "score"))
    rows: tuple[Row, ...] = tuple({"knob": title_knob(name), "importance": share} for name, share in shares.items())
    top = next(iter(shares))
    rests_on = f"the {len(done)} of {len(results.records)} trials that ran to their end"
    summary = (
        f"Bar chart of the knobs' importance for {objective.label}; the largest is {title_knob(top)} with "
        f"{shares[top]:.2f}. It rests on {rests_on}."
    )
    table = Table("importances", "Importance of each knob", columns, rows)
    title = f"Importance of the knobs, from {rests_on}"
    return finish("importances", title, figure, summary, table=table, height=120 + 40 * len(shares))


def plot_pareto(
    results: RunResults, name: str, title: str, cost: Literal["training_seconds", "trainable_parameters"]
) -> Plot:
    """Draw the score against a cost of the trials that ran to their end, of which Optuna finds the Pareto front.

    Those that were stopped early are drawn beside it: they cost less because they did less.
    """
    import optuna

    found = [(record, getattr(record.figures, cost)) for record in results.ranked]
    known = [(record, float(value)) for record, value in found if value is not None]
    costs = [(record, value) for record, value in known if record.state is TrialState.SUCCEEDED]
    stopped = [(record, value) for record, value in known if record.state is not TrialState.SUCCEEDED]
    if len(costs) < MIN_TRIALS_TO_COMPARE:
        raise NothingToShow(f"Fewer than two whole trials have a {title.lower()}, so there is no front.")
    if len({value for _, value in costs}) < 2:
        raise NothingToShow(f"All whole trials have the same {title.lower()}, so there is no front.")
    objective = results.space.objective
    study = optuna.create_study(directions=["minimize", objective.direction])
    study.add_trials([optuna.create_trial(values=[value, record.best_score or 0.0]) for record, value in costs])
    front = sorted(trial.number for trial in study.best_trials)
    figure = begin()
    others = [point for number, point in enumerate(costs) if number not in front]
    add_trials(figure, objective, others, "other trials", GREY, "circle-open")
    add_trials(figure, objective, [costs[number] for number in front], "Pareto front", PALETTE[1], "diamond")
    if stopped:
        add_trials(figure, objective, stopped, "stopped early, not compared", GREY, "x-thin")
    figure.update_xaxes(title=title)
    figure.update_yaxes(title=objective.axis_title)
    figure.update_layout(showlegend=True)
    values = [value for _, value in known]
    if max(values) / max(min(values), 1e-9) > LOG_SPREAD:
        figure.update_xaxes(**LOG_AXIS)
    named = ", ".join(costs[number][0].name for number in front[:NUM_NAMED])
    named += " and others" if len(front) > NUM_NAMED else ""
    beside = f", with {len(stopped)} stopped early beside them" if stopped else ""
    summary = (
        f"Scatter chart of {objective.label} on validation against {title.lower()} for the {len(costs)} trials that "
        f"ran to their end{beside}. No other trial is better in both than {named}."
    )
    against = f"{objective.title} against {title.lower()}"
    return finish(f"pareto-{name}", against, figure, summary, data_in="leaderboard")


def _build_study(results: RunResults, searched: Sequence[str]) -> "tuple[optuna.Study, list[TrialRecord]]":
    """Build a study of the trials that ran to their end, one parameter a knob, absent where the knob is inactive."""
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    done = [
        record for record in results.records if record.state is TrialState.SUCCEEDED and record.best_score is not None
    ]
    distributions: dict[str, optuna.distributions.BaseDistribution] = {}
    for knob in searched:
        values = [value for record in done if (value := record.point.get(knob)) is not None]
        if is_numeric_knob(knob) and values:
            numbers = [float(value) for value in values]
            distributions[knob] = FloatDistribution(min(numbers), max(numbers), log=is_log(results, knob))
        else:
            distributions[knob] = CategoricalDistribution(list(dict.fromkeys(map(show_plain, values))) or ["unused"])
    study = optuna.create_study(direction=results.space.objective.direction)
    for record in done:
        active = {knob: value for knob in searched if (value := record.point.get(knob)) is not None}
        params = {knob: float(value) if is_numeric_knob(knob) else show_plain(value) for knob, value in active.items()}
        ranges = {knob: distributions[knob] for knob in params}
        study.add_trial(optuna.create_trial(value=record.best_score, params=params, distributions=ranges))
    return study, done
