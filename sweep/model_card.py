"""The README.md of an exported model: what it was trained on and how, what it scores, what it must not be used for."""

import json
from pathlib import Path

from medcap_core.errors import ModelFault
from sweep.report_blocks import Block, Code, Section, Table, Text
from sweep.report_markdown import escape, format_section
from sweep.report_sections import explain_test
from sweep.report_test_tables import build_test_table
from sweep.results import BASELINE_ROWS, RunResults
from sweep.space import best_space, dump_space
from sweep.trial_record import TrialRecord

_LIMITS = (
    "Not for clinical use: no caption of this model may inform a decision about a patient. It is a research result.",
    "Captions can be fluent and wrong: finding, side, level and size may all be invented.",
    "The scores compare words with one reference caption an image; they do not measure clinical correctness.",
    "They hold for test images like those named above; other devices, views, patients or languages were not tested.",
    "The licences and conditions of the base model and of the training data apply to this model too.",
)


def format_model_card(results: RunResults, record: TrialRecord, model: Path) -> str:
    """Front matter as the Hub reads it, then the card. `model` is the folder of the exported model.

    Folders of the data and of the base model are named by their last part only, since a card is there to be shared.
    """
    return (
        f"---\n{_build_front_matter(results, record)}\n---\n\n"
        + "\n\n".join(_build_parts(results, record, model))
        + "\n"
    )


def _build_front_matter(results: RunResults, record: TrialRecord) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    config = record.config
    found = _find_row(results, record)
    scores = [] if found is None else [(name, results.test_rows[found][name]) for name in results.score_names]
    evaluated = [
        EvalResult(
            task_type="image-to-text",
            task_name="Image captioning",
            dataset_type=short_name(config.data),
            dataset_name=f"{short_name(config.data)}, test split",
            metric_type=name.lower(),
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in scores
    ]
    data = ModelCardData(
        base_model=config.model if _is_hub_name(config.model) else None,
        datasets=[config.data] if _is_hub_name(config.data) else None,
        library_name="transformers",
        pipeline_tag="image-to-text",
        tags=["image-captioning", "medical", "radiology", "medcap-sweep"],
        model_name=results.space.name if evaluated else None,
        eval_results=evaluated or None,
    )
    return str(data.to_yaml()).strip()


def _build_parts(results: RunResults, record: TrialRecord, model: Path) -> list[str]:
    space, config = results.space, record.config
    intro = (
        f"{escape(short_name(config.model))}, trained to caption medical images by MedCap Sweep: {record.name} of the "
        f"sweep “{escape(space.name)}”. **Not for clinical use.**"
    )
    parts = [f"# {escape(space.name)}: {record.name}", intro]
    parts += format_section(Section("data", "Data", [Text(line) for line in _describe_data(results)]))
    parts += format_section(Section("scores", "Scores", _build_scores(results, record)))
    parts += ["## Limits", "\n".join(f"- {escape(limit)}" for limit in _LIMITS)]
    parts += format_section(Section("use", "How to load it", [Code(_build_example(model), "In Python", "python")]))
    shown = config.model_copy(update={"data": short_name(config.data), "model": short_name(config.model)})
    text = dump_space(best_space(space, shown, f"{space.name}-best"))
    return parts + format_section(Section("config", "Configuration", [Code(text, "As a space file", "yaml")]))


def _describe_data(results: RunResults) -> list[str]:
    if not results.provenance:
        return [f"{short_name(results.space.data)}."]
    data = results.provenance[-1].get("data") or {}
    sizes = ", ".join(f"{count:,} {split}" for split, count in (data.get("sizes") or {}).items())
    name = short_name(str(data.get("name")))
    return [f"{name}: {data.get('kind')}; images: {sizes}.", *map(str, data.get("notes") or [])]


def _build_scores(results: RunResults, record: TrialRecord) -> list[Block]:
    objective = record.objective
    chosen = f"{objective.title} on validation {objective.show(record.best_score)} at epoch {record.best_epoch}"
    whole = record.whole_validation_score
    chosen += f" as the search saw it, {objective.show(whole)} on the whole split." if whole is not None else "."
    row = _find_row(results, record)
    if row is None:
        return [Text(f"{chosen} This trial was not scored on the test split.")]
    table = build_test_table(results)
    kept = [cells for cells in table.rows if cells["row"] in (row, *BASELINE_ROWS)]
    title = f"Test split, {results.metrics.get('num_images', 0):,} images"
    return [
        Text(chosen),
        Table("", title, table.columns, tuple(kept), emphasised=frozenset({0})),
        *explain_test(results),
    ]


def _build_example(model: Path) -> str:
    try:
        name = json.loads((model / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        raise ModelFault(f"{model}: is no exported model (its config.json names no architecture).") from None
    return (
        f"from PIL import Image\nfrom transformers import AutoProcessor, {name}\n\n"
        f'model = {name}.from_pretrained("PATH_OR_NAME")\nprocessor = AutoProcessor.from_pretrained("PATH_OR_NAME")\n'
        'inputs = processor(images=Image.open("image.png").convert("RGB"), return_tensors="pt")\n'
        "ids = model.generate(**inputs, generation_config=model.generation_config)\n"
        "print(processor.batch_decode(ids, skip_special_tokens=True)[0])"
    )


def _find_row(results: RunResults, record: TrialRecord) -> str | None:
    """The row of the test table that holds this trial's scores."""
    rows = results.test_rows
    if record.name in rows:
        return record.name
    return "best" if "best" in rows and results.metrics.get("best_trial") == record.name else None


def short_name(name: str) -> str:
    """A Hub name as it is, of a path its last part."""
    return name if _is_hub_name(name) else name.rstrip("/").rpartition("/")[2]


def _is_hub_name(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith(("/", ".", "~"))
