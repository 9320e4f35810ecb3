"""The README.md of an exported model: what it was trained on and how, what it scores, what it must not be used for."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcap_core.errors import ModelFault
from medcap_core.models.medblip3d.network import MedBlip3dNetwork
from sweep.report.summary import explain_test, is_hub_name, shorten_name
from sweep.space import best_space, dump_space
from sweep.study.record import TrialRecord
from sweep.study.results import RunResults
from sweep.study.test_results import BASELINE_ROWS, Scope
from sweep.tables.answer_tables import build_diagnosis_tables, build_question_table
from sweep.tables.blocks import Block, Code, Section, Text
from sweep.tables.caption_tables import build_tables, build_test_table
from sweep.tables.markdown import escape, format_section

_CAPTIONING = ("image-to-text", "Image captioning")
_DIAGNOSIS = ("image-classification", "Diagnosis")
_QUESTIONS = ("visual-question-answering", "Questions on scans")
_SCOPES: dict[Scope, str] = {"unseen": "unseen cohorts of the test split", "all": "test split"}
_MAY_BE_FOLDERS = ("data", "model", "vision_model", "language_model")
_LIMITS = (
    "Not for clinical use: no caption of this model may inform a decision about a patient. It is a research result.",
    "Captions can be fluent and wrong: finding, side, level and size may all be invented.",
    "Scores of captions compare words with one reference caption an image; they do not measure clinical correctness.",
    "They hold for test images like those named above; other devices, views, patients or languages were not tested.",
    "The licences and conditions of the base model and of the training data apply to this model too.",
)


_SCAN_ARCHITECTURE = MedBlip3dNetwork.__name__
_SCAN_EXAMPLE = """\
from medcap_core.captioning import answer, caption, load_captioner

captioner = load_captioner("PATH")
print(caption(captioner, ["scan.nii.gz"])[0])
print(answer(captioner, ["scan.nii.gz"], ["What will this subject be diagnosed with?"])[0][0])"""


def format_model_card(results: RunResults, record: TrialRecord, model: Path) -> str:
    """Format the front matter as the Hub reads it, then the card. `model` is the folder of the exported model.

    Folders of the data and of the base model are named by their last part only, since a card is there to be shared.
    """
    front = _build_front_matter(results, record, model)
    return "\n\n".join([f"---\n{front}\n---", *_build_parts(results, record, model)]) + "\n"


def _build_front_matter(results: RunResults, record: TrialRecord, model: Path) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    config = record.config
    evaluated = [
        EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type=shorten_name(config.data),
            dataset_name=f"{shorten_name(config.data)}, {where}",
            metric_type=metric.lower(),
            metric_name=metric.replace("_", " "),
            metric_value=round(value, 4),
        )
        for (task_type, task_name), where, metric, value in _list_figures(results, record)
    ]
    data = ModelCardData(
        base_model=config.model if is_hub_name(config.model) else None,
        datasets=[config.data] if is_hub_name(config.data) else None,
        library_name=None if read_architecture(model) == _SCAN_ARCHITECTURE else "transformers",
        pipeline_tag="image-to-text",
        tags=["image-captioning", "medical", "radiology", "medcap-sweep"],
        model_name=results.space.name if evaluated else None,
        eval_results=evaluated or None,
    )
    return str(data.to_yaml()).strip()


def _list_figures(results: RunResults, record: TrialRecord) -> Iterator[tuple[tuple[str, str], str, str, float]]:
    """List (task, where, metric, value) of a trial's scores on the test split: captions, diagnosis, questions."""
    row = _find_row(results, record)
    if row is not None:
        for metric in results.score_names:
            yield _CAPTIONING, "test split", metric, results.test_rows[row][metric]
    classified, answering = results.metrics.classification, results.metrics.question_answering
    if results.metrics.best_trial != record.name:
        return
    if classified and classified.rows:
        by_answer = classified.rows["best"].by_answer
        if score := by_answer.of(by_answer.headline):
            for metric in ("balanced_accuracy", "macro_f1"):
                yield _DIAGNOSIS, _SCOPES[by_answer.headline], metric, getattr(score, metric)
    if answering and answering.rows:
        answered = answering.rows["best"]
        if answers := answered.of(answered.headline):
            for metric in ("exact_match", "f1"):
                yield _QUESTIONS, _SCOPES[answered.headline], metric, getattr(answers.overall, metric)


def _build_parts(results: RunResults, record: TrialRecord, model: Path) -> list[str]:
    space, config = results.space, record.config
    intro = (
        f"{escape(shorten_name(config.model))}, trained to caption medical {results.noun}s by MedCap Sweep: "
        f"{record.name} of the sweep “{escape(space.name)}”. **Not for clinical use.**"
    )
    parts = [f"# {escape(space.name)}: {record.name}", intro]
    parts += format_section(Section("data", "Data", [Text(line) for line in _describe_data(results)]))
    parts += format_section(Section("scores", "Scores", _build_scores(results, record)))
    parts += ["## Limits", "\n".join(f"- {escape(limit)}" for limit in _LIMITS)]
    parts += format_section(
        Section("use", "How to load it", [Code(_build_example(model, config.prompt.strip()), "In Python", "python")])
    )
    shown = config.model_copy(update=hide_folders(config.model_dump()))
    text = dump_space(best_space(space, shown, f"{space.name}-best"))
    return parts + format_section(Section("config", "Configuration", [Code(text, "As a space file", "yaml")]))


def _describe_data(results: RunResults) -> list[str]:
    if not results.provenance:
        return [f"{shorten_name(results.space.data)}."]
    data = results.provenance[-1].data
    sizes = ", ".join(f"{count:,} {split}" for split, count in data.sizes.items())
    return [f"{shorten_name(data.name)}: {data.kind}; {results.noun}s: {sizes}.", *data.notes]


def _build_scores(results: RunResults, record: TrialRecord) -> list[Block]:
    objective = record.objective
    chosen = f"{objective.title} on validation {objective.show(record.best_score)} at epoch {record.best_epoch}"
    whole = record.whole_validation_score
    chosen += f" as the search saw it, {objective.show(whole)} on the whole split." if whole is not None else "."
    row = _find_row(results, record)
    if row is None:
        return [Text(f"{chosen} This trial was not scored on the test split.")]
    table = build_test_table(results)
    kept = tuple(cells for cells in table.rows if cells["row"] in (row, *BASELINE_ROWS))
    tables = [replace(table, rows=kept, emphasised=frozenset({0}))]
    if results.metrics.best_trial == record.name:
        tables += [*build_diagnosis_tables(results), *build_tables(results, build_question_table)]
    test, *answers = (replace(table, name="") for table in tables)  # no CSV file goes with the card
    meaning = [Text(f"{objective.title}: {objective.meaning}.")] if objective.meaning else []
    return [Text(chosen), *meaning, test, *explain_test(results), *answers]


def read_architecture(model: Path) -> str:
    """Read the class of the network in an exported model's folder. Raises ModelFault."""
    try:
        return str(json.loads((model / "config.json").read_text(encoding="utf-8"))["architectures"][0])
    except (FileNotFoundError, ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise ModelFault(f"{model}: is no exported model (its config.json names no architecture).") from None


def _build_example(model: Path, prompt: str) -> str:
    name = read_architecture(model)
    if name == _SCAN_ARCHITECTURE:
        return _SCAN_EXAMPLE
    text = f", text={json.dumps(prompt, ensure_ascii=False)}" if prompt or name.startswith("InstructBlip") else ""
    if prompt and name == "VisionEncoderDecoderModel":
        text = text.replace("text=", "text=processor.tokenizer.bos_token + ")
    return (
        f"from PIL import Image\nfrom transformers import AutoProcessor, {name}\n\n"
        f'model = {name}.from_pretrained("PATH_OR_NAME")\nprocessor = AutoProcessor.from_pretrained("PATH_OR_NAME")\n'
        f'inputs = processor(images=Image.open("image.png").convert("RGB"){text}, return_tensors="pt")\n'
        "ids = model.generate(**inputs)\n"
        "print(processor.batch_decode(ids, skip_special_tokens=True)[0])"
    )


def _find_row(results: RunResults, record: TrialRecord) -> str | None:
    """Find the row of the test table that holds this trial's scores."""
    rows = results.test_rows
    if record.name in rows:
        return record.name
    return "best" if "best" in rows and results.metrics.best_trial == record.name else None


def hide_folders(values: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten those of a config's values that may name a folder to its last part."""
    return {key: shorten_name(values[key]) for key in _MAY_BE_FOLDERS if values.get(key) is not None}
