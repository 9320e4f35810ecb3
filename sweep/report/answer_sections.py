"""The sections of a report on answers: the diagnosis, and the questions with examples."""

from sweep.report.pictures import build_answer_samples
from sweep.report.style import escape, finish, show_or_say
from sweep.study.results import RunResults
from sweep.study.test_results import TEXT_ONLY_ROWS
from sweep.tables import answer_tables
from sweep.tables.blocks import Block, Plot, Section, Table
from sweep.tables.caption_tables import build_tables, estimate
from sweep.tables.formats import describe_score, format_score


def build_diagnosis(results: RunResults) -> Section:
    """Build the section on classification by row, cohort and class; without blocks where no diagnosis is known."""
    tables = answer_tables.build_diagnosis_tables(results)
    blocks: list[Block] = [plot_confusion(table) if table.name == "confusion" else table for table in tables]
    return Section("diagnosis", "Diagnosis", blocks)


def build_questions(results: RunResults, with_images: bool) -> Section:
    """Build the section on answers by kind of question, with examples; without blocks where no question was asked."""
    built = answer_tables.build_question_table, answer_tables.build_question_rows
    blocks: list[Block] = [*build_tables(results, *built)]
    if blocks:
        blocks += show_or_say(build_answer_samples, results, with_images=with_images)
    return Section("questions", "Questions", blocks)


def plot_confusion(table: Table) -> Plot:
    """Draw the best model's confusion matrix; darker is a larger share of the true class."""
    from plotly import graph_objects as go

    named = [column for column in table.columns if column.name.startswith("named_") or column.name == "other"]
    counts = [[int(str(row[column.name])) for column in named] for row in table.rows]
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


def describe_answers(results: RunResults) -> str:
    """Describe the headline figures in a sentence or two; empty where nothing was asked."""
    said = []
    classified, answering = results.metrics.classification, results.metrics.question_answering
    rows = classified.rows if classified else {}
    if rows:
        scope = rows["best"].by_answer.headline
        others = [
            f"{format_score(score.balanced_accuracy)} {name}"
            for row, name in (("zero_shot", "zero-shot"), ("shuffled_images", "with shuffled scans"))
            if row in rows and (score := rows[row].by_answer.of(scope))
        ]
        score = rows["best"].by_answer.of(scope)
        assert score is not None
        accuracy = estimate(score.balanced_accuracy, score.intervals.get("balanced_accuracy"))
        said.append(
            f"On {score.num_scans:,} {'scans of unseen cohorts' if scope == 'unseen' else 'test scans'} the diagnosis "
            f"has balanced accuracy {describe_score(accuracy)}"
            + (f", against {' and '.join(others)}." if others else ".")
        )
    if answering and answering.rows:
        scope = answering.rows["best"].headline
        scores = {row: answering.rows[row].of(scope) for row in ("best", *TEXT_ONLY_ROWS)}
        exact = {row: score.overall.exact_match for row, score in scores.items() if score}
        num_questions = next(score.overall.num_questions for score in scores.values() if score)
        said.append(
            f"Of {num_questions:,} questions{' on them' if said and scope == 'unseen' else ''} {exact.pop('best'):.1%} "
            f"are answered in the words of the truth; without a look at the scan {max(exact.values()):.1%} are."
        )
    return " ".join(said)
