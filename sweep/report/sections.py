"""A run's results -> the sections of its report, in reading order; what makes no sense for a run becomes a sentence."""

import shlex
from collections.abc import Callable

from medcap_core.runtime.progress import Progress, ignore_progress
from sweep.report import optuna_plots, plots
from sweep.report.pictures import build_answer_samples, build_samples, load_attention
from sweep.report.side_by_side import build_side_by_side
from sweep.report.style import show_or_say
from sweep.report.summary import describe_results, describe_status, explain_test
from sweep.space import dump_space
from sweep.study.results import RunResults, find_searched
from sweep.tables import answer_tables, caption_tables, trial_tables
from sweep.tables.blocks import Block, Code, Report, Section, Text

MAX_KNOB_PLOTS = 9


def build_report(results: RunResults, *, with_images: bool = True, progress: Progress = ignore_progress) -> Report:
    """Build all sections that have something to show."""
    sections = []
    for done, (name, title, build) in enumerate(_SECTIONS):
        progress("writing the report", done, len(_SECTIONS))
        if blocks := build(results, with_images):
            sections.append(Section(name, title.format(noun=results.noun), blocks))
    progress("writing the report", len(_SECTIONS), len(_SECTIONS))
    return Report(f"Sweep {results.directory.name}", describe_status(results), describe_results(results), sections)


def _build_notes(results: RunResults, _: bool) -> list[Block]:
    return [Text(line, "warning") for line in (*results.faults, caption_tables.describe_blindness(results)) if line]


def _build_test(results: RunResults, _: bool) -> list[Block]:
    if not results.test_rows:
        return [Text("The test split is scored once, when the search is over; there are no scores yet.", "note")]
    test, *others = caption_tables.build_caption_tables(results)
    others += caption_tables.build_tables(results, caption_tables.build_subgroup_table)
    return [test, *explain_test(results), *show_or_say(plots.plot_test_scores, results), *others]


def _build_diagnosis(results: RunResults, _: bool) -> list[Block]:
    tables = answer_tables.build_diagnosis_tables(results)
    return [plots.plot_confusion(table) if table.name == "confusion" else table for table in tables]


def _build_questions(results: RunResults, with_images: bool) -> list[Block]:
    built = answer_tables.build_question_table, answer_tables.build_question_rows
    tables = caption_tables.build_tables(results, *built)
    return [*tables, *show_or_say(build_answer_samples, results, with_images=with_images)] if tables else []


def _build_leaderboard(results: RunResults, _: bool) -> list[Block]:
    if not results.records:
        return [Text("No trial has begun yet.", "note")]
    blocks: list[Block] = [trial_tables.build_leaderboard(results)]
    objective = results.space.objective
    if objective.meaning:
        blocks.append(Text(f"{objective.title}: {objective.meaning}.", "note"))
    if any(record.whole_validation_score is not None for record in results.records):
        said = "The leading trials were scored again on the whole validation split, which decides among them; "
        blocks.append(Text(f"{said}{objective.label} on a part of it is another figure.", "note"))
    return blocks


def _build_ablation(results: RunResults, _: bool) -> list[Block]:
    table = trial_tables.build_ablation_table(results)
    if table is None:
        return [Text("Only one setting has a score, so there is no ablation to show.", "note")]
    blocks: list[Block] = [table]
    if results.space.sampler == "grid":
        if any(len(str(row["trials"]).split()) > 1 for row in table.rows):
            blocks.append(Text("± is the standard deviation over seeds; costs are means over them.", "note"))
    else:
        said = (
            "A search is no ablation: each freeze mode is represented by its best trial on validation, with other "
            "settings and as many tries as the sampler gave it; trials stopped early have no cost. An ablation runs "
            "each mode whole, with the learning rates of its space file, which suit phantom-blip:"
        )
        model = results.best.config.model if results.best else results.space.model
        command = ["medcap", "run", "ablation", "--data", results.space.data, "--model", model]
        blocks += [Text(said, "note"), Code(f"$ {shlex.join(command)}", "An ablation on this data")]
    return blocks


def _build_curves(results: RunResults, _: bool) -> list[Block]:
    blocks = [*show_or_say(plots.plot_learning_curves, results), *show_or_say(plots.plot_losses, results)]
    has_epochs = any(record.epochs for record in results.records)
    return [*blocks, trial_tables.build_learning_curves(results)] if has_epochs else blocks


def _build_knobs(results: RunResults, _: bool) -> list[Block]:
    searched = find_searched(results)
    if not searched:
        return [Text("Nothing was searched, so no knob can be compared.", "note")]
    shown = [knob for knob in searched if knob != "seed"][:MAX_KNOB_PLOTS]
    blocks = [block for knob in shown for block in show_or_say(plots.plot_knob, results, knob)]
    blocks += show_or_say(optuna_plots.plot_parallel, results, searched)
    return [*blocks, *show_or_say(optuna_plots.plot_importances, results, searched)]


def _build_costs(results: RunResults, _: bool) -> list[Block]:
    draw = optuna_plots.plot_pareto
    blocks = show_or_say(draw, results, "time", "Training time (s)", "training_seconds")
    return blocks + show_or_say(draw, results, "parameters", "Trained parameters", "trainable_parameters")


def _build_provenance(results: RunResults, _: bool) -> list[Block]:
    blocks: list[Block] = [Text("The run has not come as far as writing down its provenance.", "note")]
    if results.provenance:
        typed = "\n".join(f"$ {shlex.join(start.command)}" for start in results.provenance)
        table = trial_tables.build_provenance_table(results)
        blocks = [table, Code(typed, "The commands of this run, as typed")]
    again = f"$ python -m sweep.run {shlex.quote(str(results.directory / 'space.yaml'))}"
    space = Code(dump_space(results.space), "space.yaml, every key written out", "yaml")
    return [*blocks, Code(again, "To run it again, from the space file below"), space]


_SECTIONS: tuple[tuple[str, str, Callable[[RunResults, bool], list[Block]]], ...] = (
    ("notes", "Notes", _build_notes),
    ("test", "Test split", _build_test),
    ("diagnosis", "Diagnosis", _build_diagnosis),
    ("questions", "Questions", _build_questions),
    ("trials", "Leaderboard", _build_leaderboard),
    ("ablation", "Ablation", _build_ablation),
    ("curves", "Learning curves", _build_curves),
    ("search", "What mattered", _build_knobs),
    ("costs", "Scores and costs", _build_costs),
    ("samples", "Sample {noun}s", lambda results, images: show_or_say(build_samples, results, with_images=images)),
    ("captions", "Captions side by side", build_side_by_side),
    ("attention", "Attention", lambda results, _: show_or_say(load_attention, results.directory)),
    ("provenance", "Provenance and how to run it again", _build_provenance),
)
"""Name, title and what builds the blocks, with pictures of the test split or without."""
