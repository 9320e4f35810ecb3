"""The sections of a report on answers: the diagnosis, and the questions with examples."""

from sweep.report.pictures import NoPictures, build_answer_samples
from sweep.report.style import escape, finish
from sweep.study.results import RunResults
from sweep.study.scored_rows import TEXT_ONLY_ROWS, UNSEEN
from sweep.tables.answer_console import find_headline
from sweep.tables.answer_tables import (
    build_classification_table,
    build_cohort_table,
    build_confusion_table,
    build_question_rows,
    build_question_table,
)
from sweep.tables.blocks import Block, Estimate, Plot, Section, Text, format_uncertainty, format_value


def build_diagnosis(results: RunResults) -> Section:
    """Classification by row, by cohort and by class; without blocks where no diagnosis is known."""
    if not results.section("classification").get("rows"):
        return Section("diagnosis", "Diagnosis", [])
    blocks: list[Block] = [build_classification_table(results), Text(_explain_diagnosis(results), "note")]
    cohorts = build_cohort_table(results)
    if cohorts is not None:
        blocks.append(cohorts)
    blocks.append(plot_confusion(results))
    return Section("diagnosis", "Diagnosis", blocks)


def build_questions(results: RunResults, with_images: bool) -> Section:
    """Answers by kind of question, and examples; without blocks where no question was asked."""
    if not results.section("question_answering").get("rows"):
        return Section("questions", "Questions", [])
    blocks: list[Block] = [build_question_table(results), Text(_explain_questions(results), "note")]
    rows = build_question_rows(results)
    if rows is not None:
        blocks.append(rows)
    try:
        said, galleries = build_answer_samples(results, with_images=with_images)
    except NoPictures as reason:
        return Section("questions", "Questions", [*blocks, Text(str(reason), "note")])
    return Section("questions", "Questions", [*blocks, Text(said, "note"), *galleries])


def plot_confusion(results: RunResults) -> Plot:
    """The best model's confusion matrix; darker is a larger share of the true class."""
    from plotly import graph_objects as go

    table = build_confusion_table(results)
    named = [column for column in table.columns if column.name.startswith("named_") or column.name == "other"]
    counts = [[row[column.name] for column in named] for row in table.rows]
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    texts = [
        [f"{count}<br>{share:.0%}" for count, share in zip(*pair, strict=True)]
        for pair in zip(counts, shares, strict=True)
    ]
    figure = go.Figure()
    figure.add_heatmap(
        z=shares,
        x=[escape(column.title) for column in named],
        y=[escape(str(row["truth"])) for row in table.rows],
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
    summary = (
        f"Heat map of the confusion matrix, {table.title.partition(', ')[2]}: "
        + "; ".join(
            f"of {sum(row)} {truth['truth']} {share[place]:.0%} were named so"
            for place, (row, share, truth) in enumerate(zip(counts, shares, table.rows, strict=True))
        )
        + "."
    )
    title = f"{table.title} (best model, generated answers)"
    return finish("confusion", title, figure, summary, height=140 + 70 * len(counts), table=table)


def build_answer_blocks(results: RunResults) -> list[Block]:
    """What is told of the answers without plots, pictures and examples; empty where nothing was asked."""
    blocks: list[Block] = []
    if results.section("classification").get("rows"):
        cohorts = build_cohort_table(results)
        blocks = [build_classification_table(results), *([cohorts] if cohorts else []), build_confusion_table(results)]
        blocks.append(Text(_explain_diagnosis(results)))
    if results.section("question_answering").get("rows"):
        blocks += [build_question_table(results), Text(_explain_questions(results))]
    return blocks


def describe_answers(results: RunResults) -> str:
    """The headline figures in a sentence or two; empty where nothing was asked."""
    said = []
    rows = results.section("classification").get("rows")
    if rows:
        figures = rows["best"]["by_answer"]
        scope = find_headline(figures)
        told = figures[scope]
        of = f"On {told['num_scans']:,} {'scans of unseen cohorts' if scope == UNSEEN else 'test scans'}"
        cell = Estimate(told["balanced_accuracy"], *(told["intervals"].get("balanced_accuracy") or ()))
        interval = format_uncertainty(cell, "score")
        others = [
            f"{rows[row]['by_answer'][scope]['balanced_accuracy']:.3f} {name}"
            for row, name in (("zero_shot", "zero-shot"), ("shuffled_images", "with shuffled scans"))
            if row in rows
        ]
        said.append(
            f"{of} the diagnosis has balanced accuracy {format_value(cell, 'score')}"
            + (f" (95% interval {interval})" if interval else "")
            + (f", against {' and '.join(others)}." if others else ".")
        )
    answering = results.section("question_answering")
    if answering.get("rows"):
        figures = answering["rows"]["best"]
        scope = find_headline(figures)
        told = figures[scope]["overall"]
        text_only = [answering["rows"][row][scope]["overall"]["exact_match"] for row in TEXT_ONLY_ROWS]
        said.append(
            f"Of {told['num_questions']:,} questions{' on them' if said and scope == UNSEEN else ''} "
            f"{told['exact_match']:.1%} are answered in the words of the truth; without a look at the scan "
            f"{max(text_only):.1%} are."
        )
    return " ".join(said)


def _explain_diagnosis(results: RunResults) -> str:
    classified = results.section("classification")
    unseen = classified.get("unseen_cohorts") or []
    said = "Balanced accuracy is the mean recall over the classes and macro F1 the mean of their F1, both 0 to 1; "
    said += f"always naming one of {len(classified['classes'])} classes gives {1 / len(classified['classes']):.3f}. "
    said += (
        "The class is what the generated answer names (one that names none, or several, is wrong), or whose words lie "
        "nearest to the scan. "
    )
    if unseen:
        said += f"Unseen cohorts, without any scan in training: {', '.join(unseen)}. "
    return said + _ABOUT_ROWS + _explain_intervals(results)


def _explain_questions(results: RunResults) -> str:
    said = (
        "Exact match is the share of answers that read like the truth, case, punctuation and articles aside; F1 also "
        "counts single words. The gain is over the better of the two rows that do not see the scan, found anew for "
        "each kind; p: paired sign-flip test, corrected by Holm for the number of kinds. "
    )
    return said + _ABOUT_ROWS + _explain_intervals(results)


_ABOUT_ROWS = (
    "Shuffled scans are the best model asked about other subjects' scans, most frequent answers those of the training "
    "split: what can be had without a look at the scan. "
)


def _explain_intervals(results: RunResults) -> str:
    drawn = results.section("question_answering").get("resampling")
    if not drawn or drawn["num_units"] < 2:
        return ""
    return f"Ranges are 95% bootstrap intervals over {drawn['unit']}s, {drawn['num_resamples']:,} resamples."
