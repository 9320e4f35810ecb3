"""A run's results -> the sections of its report, in reading order; what makes no sense for a run becomes a sentence."""

import shlex
from collections.abc import Callable

from medcap_core.runtime.progress import Progress, ignore_progress
from sweep.report import answer_sections, optuna_plots, plots
from sweep.report.pictures import build_samples, load_attention
from sweep.report.side_by_side import build_side_by_side
from sweep.report.style import show_or_say
from sweep.space import dump_space
from sweep.space.labels import short_label
from sweep.space.points import num_trials
from sweep.study.directory import show_run
from sweep.study.results import RunResults, RunStatus, count_states, find_searched
from sweep.study.stopping import describe_budget_end
from sweep.tables import caption_tables, trial_tables
from sweep.tables.blocks import Block, Code, Report, Section, Text
from sweep.tables.formats import describe_score, format_score, format_seconds

MAX_KNOB_PLOTS = 9


def build_report(results: RunResults, *, with_images: bool = True, progress: Progress = ignore_progress) -> Report:
    """Build all sections."""
    sections = []
    for done, build in enumerate(_BUILDERS):
        progress("writing the report", done, len(_BUILDERS))
        section = build(results, with_images) if build in _WITH_PICTURES else build(results)
        if section.blocks:
            sections.append(section)
    progress("writing the report", len(_BUILDERS), len(_BUILDERS))
    return Report(f"Sweep {results.directory.name}", describe_status(results), describe_results(results), sections)


def describe_status(results: RunResults) -> str:
    """Say whether the run goes on, and how far it is."""
    wanted = max(num_trials(results.space), len(results.records))
    done = f"{results.num_finished} of {wanted} trials are done"
    if results.status is RunStatus.FINISHED:
        counts = ", ".join(f"{count} {state.value.lower()}" for state, count in count_states(results.records).items())
        ended = describe_budget_end(results.space, results.records, results.run_seconds, show_run(results.directory))
        return f"Finished: {done}{f' ({counts})' if counts else ''}.{f' {ended}.' if ended else ''}"
    if results.status is RunStatus.RUNNING:
        return f"Still running: {done}. What follows is as far as it has come."
    return f"Not ended: {done}. It was cut off, or goes on on another machine; what follows is as far as it has come."


def describe_results(results: RunResults) -> str:
    """Describe the run in two sentences: what was compared, and what came out."""
    space, best, objective = results.space, results.best, results.space.objective
    seconds = sum(record.seconds for record in results.records)
    models = ", ".join(space.models) or shorten_name(space.model)
    said = f"{len(results.records)} trials of {models} on {shorten_name(space.data)}"
    said += f", {format_seconds(seconds)} of training and evaluation in all."
    if best is None:
        return f"{said} No trial has given a model{' yet' if results.status is not RunStatus.FINISHED else ''}."
    said += f" Best by validation: {best.name} ({short_label(best.point)}), "
    said += f"{objective.label} {objective.show(best.best_score)}"
    if best.whole_validation_score is not None:
        said += f", {objective.show(best.whole_validation_score)} on the whole split"
    metrics = results.metrics
    if metrics.best_trial != best.name or metrics.best is None:
        return f"{said}; the test split is not scored yet."
    cider = caption_tables.estimate(metrics.best["CIDEr"], metrics.intervals.get("best", {}).get("CIDEr"))
    said += f". On {metrics.num_images or 0:,} test {results.noun}s: CIDEr {describe_score(cider)}"
    others = {
        "zero-shot": metrics.zero_shot,
        "for the caption prior": metrics.caption_prior,
        f"with shuffled {results.noun}s": metrics.shuffled_images,
    }
    against = [f"{format_score(scores['CIDEr'])} {name}" for name, scores in others.items() if scores]
    said += f", against {', '.join(against)}." if against else "."
    return f"{said} {answer_sections.describe_answers(results)}".strip()


def _build_notes(results: RunResults) -> Section:
    said = [*results.faults, *filter(None, [caption_tables.describe_blindness(results)])]
    return Section("notes", "Notes", [Text(line, "warning") for line in said])


def _build_test(results: RunResults) -> Section:
    if not results.test_rows:
        note = "The test split is scored once, when the search is over; there are no scores yet."
        return Section("test", "Test split", [Text(note, "note")])
    test, *others = caption_tables.build_caption_tables(results)
    if subgroups := caption_tables.build_subgroup_table(results):
        others.append(subgroups)
    plot = show_or_say(plots.plot_test_scores, results)
    return Section("test", "Test split", [test, *explain_test(results), *plot, *others])


def explain_test(results: RunResults) -> list[Text]:
    """Explain what the rows and scores of the test table are, beside its own notes."""
    said = ["BLEU, METEOR and ROUGE-L run from 0 to 1, CIDEr from 0 to 10."]
    if "caption_prior" in results.test_rows:
        said.append(
            f"The caption prior is one fixed training caption for all {results.noun}s, shuffled {results.noun}s the "
            f"best model's captions given to wrong {results.noun}s: a model that does not beat them has learnt the "
            "words, not the pictures."
        )
    rejoins = results.metrics.evaluation.get("rejoin_wordpieces")
    if rejoins is not None:
        said.append(
            "Of models with BERT's tokenizer, such as BLIP, generated captions "
            + ("are scored without the spaces it puts beside punctuation" if rejoins else "keep its spaces")
            + f" (rejoin_wordpieces: {str(rejoins).lower()})."
        )
    num_looks = len(results.metrics.trials) + (results.metrics.earlier_looks or 0)
    if results.space.test == "all":
        said.append(
            "Every row is scored because comparing rows is this run's purpose; none was chosen by the test split."
        )
    elif num_looks > 1:
        said.append(
            f"The test split was looked at {num_looks} times: after each extension of the search that had a new best "
            f"trial by validation ({', '.join(results.metrics.trials)}). The choice is by "
            "validation, but who extends a search because of a test score has chosen by it."
        )
    blocks = [Text(" ".join(said), "note")]
    if results.metrics.caption_prior_text:
        blocks.append(Text(f"The caption prior says: “{results.metrics.caption_prior_text}”", "note"))
    return blocks


def _build_leaderboard(results: RunResults) -> Section:
    if not results.records:
        return Section("trials", "Leaderboard", [Text("No trial has begun yet.", "note")])
    blocks: list[Block] = [trial_tables.build_leaderboard(results)]
    objective = results.space.objective
    if objective.meaning:
        blocks.append(Text(f"{objective.title}: {objective.meaning}.", "note"))
    if any(record.whole_validation_score is not None for record in results.records):
        blocks.append(
            Text(
                "The leading trials were scored again on the whole validation split, which decides among them; "
                f"{objective.label} on a part of it is another figure.",
                "note",
            )
        )
    return Section("trials", "Leaderboard", blocks)


def _build_ablation(results: RunResults) -> Section:
    table = trial_tables.build_ablation_table(results)
    if table is None:
        said = "Only one setting has a score, so there is no ablation to show."
        return Section("ablation", "Ablation", [Text(said, "note")])
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
    return Section("ablation", "Ablation", blocks)


def _build_curves(results: RunResults) -> Section:
    blocks = [*show_or_say(plots.plot_learning_curves, results), *show_or_say(plots.plot_losses, results)]
    if any(record.epochs for record in results.records):
        blocks.append(trial_tables.build_learning_curves(results))
    return Section("curves", "Learning curves", blocks)


def _build_knobs(results: RunResults) -> Section:
    searched = find_searched(results)
    if not searched:
        return Section("search", "What mattered", [Text("Nothing was searched, so no knob can be compared.", "note")])
    shown = [knob for knob in searched if knob != "seed"][:MAX_KNOB_PLOTS]
    blocks = [block for knob in shown for block in show_or_say(plots.plot_knob, results, knob)]
    blocks += show_or_say(optuna_plots.plot_parallel, results, searched)
    blocks += show_or_say(optuna_plots.plot_importances, results, searched)
    return Section("search", "What mattered", blocks)


def _build_pareto(results: RunResults) -> Section:
    draw = optuna_plots.plot_pareto
    blocks = show_or_say(draw, results, "time", "Training time (s)", "training_seconds")
    blocks += show_or_say(draw, results, "parameters", "Trained parameters", "trainable_parameters")
    return Section("costs", "Scores and costs", blocks)


def _build_samples_section(results: RunResults, with_images: bool) -> Section:
    blocks = show_or_say(build_samples, results, with_images=with_images)
    return Section("samples", f"Sample {results.noun}s", blocks)


def _build_attention(results: RunResults) -> Section:
    return Section("attention", "Attention", show_or_say(load_attention, results.directory))


def _build_provenance(results: RunResults) -> Section:
    blocks: list[Block] = []
    if results.provenance:
        blocks.append(trial_tables.build_provenance_table(results))
        typed = [shlex.join(start.command) for start in results.provenance]
        blocks.append(Code("\n".join(f"$ {line}" for line in typed), "The commands of this run, as typed"))
    else:
        blocks.append(Text("The run has not come as far as writing down its provenance.", "note"))
    again = f"$ python -m sweep.run {shlex.quote(str(results.directory / 'space.yaml'))}"
    blocks.append(Code(again, "To run it again, from the space file below"))
    blocks.append(Code(dump_space(results.space), "space.yaml, every key written out", "yaml"))
    return Section("provenance", "Provenance and how to run it again", blocks)


def shorten_name(name: str) -> str:
    """Shorten a path to its last part; a Hub name stays as it is."""
    return name if is_hub_name(name) else name.rstrip("/").rpartition("/")[2]


def is_hub_name(name: str) -> bool:
    """Say whether a name is one of the Hub, such as `owner/model`, and no path."""
    return name.count("/") == 1 and not name.startswith(("/", ".", "~"))


_BUILDERS: tuple[Callable[..., Section], ...] = (
    _build_notes,
    _build_test,
    answer_sections.build_diagnosis,
    answer_sections.build_questions,
    _build_leaderboard,
    _build_ablation,
    _build_curves,
    _build_knobs,
    _build_pareto,
    _build_samples_section,
    build_side_by_side,
    _build_attention,
    _build_provenance,
)
_WITH_PICTURES = (_build_samples_section, build_side_by_side, answer_sections.build_questions)
