"""What a report says in sentences: how far the run is, what came out, and what the rows of the test table are."""

from sweep.space import num_trials, short_label
from sweep.study.directory import show_run
from sweep.study.results import RunResults, RunStatus, count_states
from sweep.study.stopping import describe_budget_end
from sweep.study.test_results import TEXT_ONLY_ROWS
from sweep.tables.blocks import Text
from sweep.tables.caption_tables import estimate
from sweep.tables.formats import describe_score, format_score, format_seconds


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
    num = len(results.records)
    said = f"{num} trial{'s' * (num != 1)} of {models} on {shorten_name(space.data)}"
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
    cider = estimate(metrics.best["CIDEr"], metrics.intervals.get("best", {}).get("CIDEr"))
    said += f". On {metrics.num_images or 0:,} test {results.noun}s: CIDEr {describe_score(cider)}"
    others = {
        "zero-shot": metrics.zero_shot,
        "for the caption prior": metrics.caption_prior,
        f"with shuffled {results.noun}s": metrics.shuffled_images,
    }
    against = [f"{format_score(scores['CIDEr'])} {name}" for name, scores in others.items() if scores]
    said += f", against {', '.join(against)}." if against else "."
    return f"{said} {describe_answers(results)}".strip()


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


def shorten_name(name: str) -> str:
    """Shorten a path to its last part; a Hub name stays as it is."""
    return name if is_hub_name(name) else name.rstrip("/").rpartition("/")[2]


def is_hub_name(name: str) -> bool:
    """Say whether a name is one of the Hub, such as `owner/model`, and no path."""
    return name.count("/") == 1 and not name.startswith(("/", ".", "~"))
