"""The plots of a report that plotly draws: learning curves, score against each knob, test scores, classes named."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sweep.report.style import (
    FREEZE_COLOURS,
    GREY,
    LOG_AXIS,
    MIN_TRIALS_TO_COMPARE,
    PALETTE,
    NothingToShow,
    add_trials,
    begin,
    escape,
    finish,
    is_log,
)
from sweep.space import short_label, show_plain
from sweep.study.record import TrialRecord, TrialState
from sweep.study.results import RunResults
from sweep.tables.blocks import Plot, Table
from sweep.tables.caption_tables import describe_row
from sweep.tables.trial_tables import is_numeric_knob, title_knob

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NUM_NAMED_CURVES = 6
MAX_TEST_ROWS = 40

_DASHES = ("solid", "dash", "dot")


def plot_learning_curves(results: RunResults) -> Plot:
    """Draw the score on validation after each epoch: the best trials by name, all others in grey."""
    records = [record for record in results.records if record.best_score is not None]
    if not records:
        raise NothingToShow("No trial has a score of an epoch yet.")
    named = [record for record in results.ranked if record in records][:NUM_NAMED_CURVES] or records[:NUM_NAMED_CURVES]
    others = [record for record in records if record not in named]
    figure = begin()
    if others:
        points = [point for record in others for point in [*_score_curve(record), (None, None)]]
        _add_lines(figure, points, f"{len(others)} other trials", {"color": GREY, "width": 1}, opacity=0.6)
    for index, record in enumerate(named):
        line = {"color": PALETTE[index % len(PALETTE)], "dash": _DASHES[index % 3], "width": 4 if index == 0 else 2}
        label = short_label(record.point)
        label = label if len(label) <= 40 else f"{label[:39]}…"
        _add_lines(figure, _score_curve(record), f"{record.name} {label}", line)
    _count_epochs(figure, max(record.epochs_done for record in records))
    objective, top = results.space.objective, named[0]
    figure.update_yaxes(title=objective.axis_title)
    summary = (
        f"Line chart of {objective.label} on validation after each epoch of {len(records)} trials. The best is "
        f"{top.name} with {objective.show(top.best_score)} at epoch {top.best_epoch}."
    )
    title = f"{objective.title} after each epoch"
    return finish("curves", title, figure, summary, data_in="learning_curves", height=460)


def plot_losses(results: RunResults) -> Plot:
    """Draw training and validation loss of the best trial."""
    best = results.best
    if best is None or len(best.epochs) < 2:
        raise NothingToShow("The best trial has fewer than two epochs, so there is no curve of its losses.")
    figure = begin()
    for index, name in enumerate(("training_loss", "validation_loss")):
        points = [(epoch.epoch, getattr(epoch, name)) for epoch in best.epochs]
        _add_lines(figure, points, name.replace("_", " "), {"color": PALETTE[index], "dash": _DASHES[index]})
    _count_epochs(figure, best.epochs_done)
    figure.update_yaxes(title="Loss")
    summary = f"Line chart of training and validation loss of {best.name} over {best.epochs_done} epochs."
    return finish("losses", f"Losses of the best trial, {best.name}", figure, summary, data_in="learning_curves")


def plot_knob(results: RunResults, knob: str) -> Plot:
    """Draw the score against one searched knob; stopped trials are hollow, with the best of what they ran."""
    points = [(record, record.point[knob]) for record in results.ranked if knob in record.point]
    if len({repr(value) for _, value in points}) < MIN_TRIALS_TO_COMPARE:
        raise NothingToShow(f"{title_knob(knob)} has one value only among the trials that gave a score.")
    numeric, objective = is_numeric_knob(knob), results.space.objective
    figure = begin()
    drawn = [(record, value if numeric else escape(show_plain(value))) for record, value in points]
    for mode in dict.fromkeys(record.config.freeze for record, _ in points):
        members = [(record, value) for record, value in drawn if record.config.freeze is mode]
        symbols = ["circle-open" if record.state is TrialState.PRUNED else "circle" for record, _ in members]
        add_trials(figure, objective, members, mode.value, FREEZE_COLOURS[mode], symbols)
    if any(record.state is TrialState.PRUNED for record, _ in points):
        marker = {"color": GREY, "size": 9, "line": {"width": 2, "color": GREY}, "symbol": "circle-open"}
        figure.add_scatter(x=[None], y=[None], mode="markers", name="hollow: stopped early", marker=marker)
    figure.update_layout(showlegend=True)
    shown, (best, value) = title_knob(knob), points[0]
    figure.update_xaxes(title=shown, type=None if numeric else "category")
    if numeric and is_log(results, knob):
        figure.update_xaxes(**LOG_AXIS)
    figure.update_yaxes(title=objective.axis_title)
    summary = (
        f"Scatter chart of {objective.label} on validation against {shown.lower()} for {len(points)} trials. The best "
        f"is {objective.show(best.best_score)} at {show_plain(value).rstrip('.')}."
    )
    title = f"{objective.title} against {shown[0].lower()}{shown[1:]}".replace("loRA", "LoRA")
    return finish(f"knob-{knob}", title, figure, summary, data_in="leaderboard", height=360)


def plot_test_scores(results: RunResults) -> Plot:
    """Draw CIDEr of each row of the test table, with its 95% interval where there is one."""
    rows = {row: scores["CIDEr"] for row, scores in results.test_rows.items() if "CIDEr" in scores}
    if len(rows) < 2:
        raise NothingToShow("Fewer than two rows are scored on the test split, so there is nothing to compare.")
    if len(rows) > MAX_TEST_ROWS:
        raise NothingToShow(f"More than {MAX_TEST_ROWS} rows are scored on the test split; see the table.")
    intervals = results.metrics.intervals
    ordered = sorted(rows, key=lambda row: rows[row])
    known = [intervals.get(row, {}).get("CIDEr", (rows[row], rows[row])) for row in ordered]
    ciders, (low, high) = np.array([rows[row] for row in ordered]), np.array(known).T
    whiskers = {"array": (high - ciders).tolist(), "arrayminus": (ciders - low).tolist()}
    figure = begin()
    figure.add_scatter(
        x=ciders.tolist(),
        y=[escape(str(describe_row(results, row))) for row in ordered],
        mode="markers",
        marker={"size": 10, "color": PALETTE[0]},
        error_x={"symmetric": False, "color": PALETTE[0]} | whiskers,
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    figure.update_xaxes(title="CIDEr, test", rangemode="tozero")
    figure.update_yaxes(type="category")
    said, top = "with 95% intervals " if intervals else "", describe_row(results, ordered[-1])
    summary = f"Dot chart of CIDEr on the test split {said}for {len(rows)} rows; the highest is {top}."
    height = 110 + 34 * len(rows)
    return finish("test-scores", "CIDEr on the test split", figure, summary, data_in="test", height=height)


def plot_confusion(table: Table) -> Plot:
    """Draw the best model's confusion matrix; darker is a larger share of the true class."""
    named = [column for column in table.columns if column.name.startswith("named_") or column.name == "other"]
    counts = np.array([[int(str(row[column.name])) for column in named] for row in table.rows])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    truths = [str(row["truth"]) for row in table.rows]
    cells = zip(counts.flat, shares.flat, strict=True)
    texts = np.array([f"{count}<br>{share:.0%}" for count, share in cells]).reshape(counts.shape).tolist()
    figure = begin()
    figure.add_heatmap(
        z=shares.tolist(),
        x=[escape(column.title) for column in named],
        y=[escape(truth) for truth in truths],
        text=texts,
        texttemplate="%{text}",
        hovertemplate="true: %{y}<br>named: %{x}<br>%{text}<extra></extra>",
        zmin=0,
        zmax=1,
        colorscale=[[0, "rgba(0,119,187,0)"], [1, "rgba(0,119,187,0.75)"]],
        showscale=False,
        xgap=2,
        ygap=2,
    )
    figure.update_xaxes(title="Class named", type="category", showgrid=False)
    figure.update_yaxes(title="True class", autorange="reversed", type="category", automargin=True, showgrid=False)
    rightly = "; ".join(
        f"of {num} {truth} {share:.0%} were named so"
        for num, truth, share in zip(counts.sum(axis=1), truths, shares.diagonal(), strict=True)
    )
    summary = f"Heat map of the confusion matrix, {table.title.partition(', ')[2]}: {rightly}."
    title = f"{table.title} (best model, generated answers)"
    return finish("confusion", title, figure, summary, height=140 + 70 * len(counts), table=table)


def _add_lines(figure: "Figure", points: Sequence[tuple[Any, Any]], name: str, line: Any, **more: Any) -> None:
    figure.add_scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        name=escape(name),
        mode="lines+markers",
        line=line,
        marker={"size": 7, "color": line["color"]},
        hovertemplate="epoch %{x}: %{y:.3f}<extra>%{fullData.name}</extra>",
        **more,
    )


def _count_epochs(figure: "Figure", num_epochs: int) -> None:
    figure.update_xaxes(title="Epoch", dtick=1 if num_epochs <= 20 else None)


def _score_curve(record: TrialRecord) -> list[tuple[Any, Any]]:
    return [(epoch.epoch, epoch.score) for epoch in record.epochs]
