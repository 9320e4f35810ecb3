"""Preparation of a run: check data and models, decode and encode images, try the evaluation once."""

import sys
import textwrap
import time
from collections.abc import Sequence
from operator import attrgetter

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.prepare import (
    PreparedData,
    TooManyBadRecords,
    describe_doubtful_inputs,
    find_duplicate_images,
    judge_records,
    load_dataset,
    prepare_data,
    write_skipped,
)
from medcap_core.data.records import SPLITS, Record, SkippedRecord, hash_records
from medcap_core.data.remote import fetch_data
from medcap_core.data.stores.duplicates import write_duplicates
from medcap_core.inference.image_sources import open_images
from medcap_core.models import Captioner, hash_weights, load_geometry, load_trial_captioner
from medcap_core.models.tuning import apply_tuning, encoder_is_frozen
from medcap_core.runtime.device import current_device, is_small, multiplies_bf16, release_memory
from medcap_core.runtime.progress import Progress, ignore_progress
from medcap_core.scoring.registry import RANKED, check_scores
from medcap_core.training.validation import (
    build_request,
    check_objective,
    check_truth,
    compute_scores,
    describe_alike_captions,
    find_scored,
)
from sweep.execution.cluster import ClusterInfo, TrialResources
from sweep.execution.jobs import PredictionJob, predict_here, predict_split
from sweep.space import SearchSpace, draw_configs
from sweep.study.directory import show_path
from sweep.study.provenance import (
    DataOrigin,
    ModelOrigin,
    Weights,
    begin_provenance,
    check_same_origin,
    describe_other_versions,
    find_gpus,
)
from sweep.study.study import Study
from sweep.terminal.view import SweepView

NUM_CHECK_BATCHES = 2
MOST_CAPTIONS_COUNTED = 1000
MORE_TOKENS_THAN_ANY = 100_000
MOST_IMAGES_OPENED = 2000
"""Images of each split that a dry run opens, which does not decode a large data set."""
NUM_LISTED = 5

# What trials have in common that load the same model, use it alike, see the same images, read the same features.
_MODEL = (
    "model", "vision_model", "language_model", "num_queries", "patch_size", "qformer_layers", "quantization",
    "weights_dtype",
)  # fmt: skip
_model_of = attrgetter(*_MODEL)
_use_of = attrgetter(
    *_MODEL, "image_size", "freeze", "lora_targets", "lora_vision", "prompt", "max_new_tokens", "max_caption_tokens"
)
_images_of = attrgetter("model", "vision_model", "image_size", "data_fraction", "max_train_images")
_features_of = attrgetter(
    *_MODEL, "image_size", "data_fraction", "max_train_images", "max_validation_images", "augment", "precision"
)


def check_before_start(space: SearchSpace, *, always: bool = False, progress: Progress = ignore_progress) -> list[str]:
    """Load the data and models of the space, so that faults appear before a run directory is made.

    Returns notes for the user, one line each; with `always` on captions of which none is cut too.
    """
    fetch_data(space.data, progress)
    ranked = [RANKED.get(name, name) for name in space.objective.names]
    notes: dict[tuple[object, ...], list[str]] = {
        ("scores",): [f"Scores         not computed: {fault}" for fault in check_scores(space.scoring_options, ranked)]
    }
    for config in {_use_of(config): config for config in draw_configs(space)}.values():
        splits = load_dataset(config).splits
        captioner = load_trial_captioner(config, current_device())
        check_objective(config, captioner, splits["validation"])
        key = (_model_of(config), config.prompt, config.max_caption_tokens)
        if config.freeze is not FreezeMode.ZERO_SHOT and key not in notes:
            captions = [caption for record in splits["train"] for caption in record.references]
            notes[key] = describe_cut_captions(captioner, captions, config, always=always)
        if ("alike", config.data) not in notes:
            validation = [record.references for record in splits["validation"]]
            notes["alike", config.data] = describe_alike_captions(config.objective, validation)
        if config.precision == "auto" and multiplies_bf16(current_device()) and not is_small(captioner):
            notes[("precision",)] = [
                "Precision      fp32; this CPU has instructions for bf16: --set precision=bf16 may take half the time"
            ]
        apply_tuning(captioner, config)
    release_memory()  # quantized weights are on the GPU
    return [note for notes_of_one in notes.values() for note in notes_of_one]


def describe_cut_captions(
    captioner: Captioner, captions: list[str], config: TrialConfig, *, always: bool = False
) -> list[str]:
    """Write one line on the training captions cut by `max_caption_tokens`, of at most MOST_CAPTIONS_COUNTED.

    None where none is cut, unless `always`.
    """
    some = captions[:: max(1, -(-len(captions) // MOST_CAPTIONS_COUNTED))]
    tokens = captioner.tokenize(some, config.model_copy(update={"max_caption_tokens": MORE_TOKENS_THAN_ANY}))
    whole = tokens.ids
    longest = max(map(len, whole), default=tokens.num_uncounted) - tokens.num_uncounted
    kept = captioner.tokenize(some, config).ids
    num_cut = sum(len(part) < len(ids) for part, ids in zip(kept, whole, strict=True))
    if not num_cut and not always:
        return []
    looked_at = f"{len(some):,} training captions" + (" looked at" if len(some) < len(captions) else "")
    return [
        f"Captions       {num_cut:,} of {looked_at} are cut to max_caption_tokens {config.max_caption_tokens}; "
        f"the longest has {longest:,} tokens"
    ]


def prepare_run(study: Study, view: SweepView) -> PreparedData:
    """Decode the images of all trials, write the skipped records and the provenance.

    Returns the data with the largest share of images; those of the other selections are decoded too.
    """
    fetch_data(study.space.data, view.step)
    configs, skipped_path = _configs_by_images(study.space), study.paths.skipped_records
    largest, geometry = configs[0], load_geometry(configs[0])
    try:
        bad = [record for config in configs for record in judge_records(config, load_geometry(config), view.step)]
    except TooManyBadRecords as fault:
        write_skipped(fault.skipped, skipped_path)
        faults = (*fault.faults, f"All are listed in {show_path(skipped_path)}.")
        raise TooManyBadRecords(faults, fault.skipped) from None
    parts = [prepare_data(config, load_geometry(config), splits=SPLITS, progress=view.step) for config in configs]
    skipped = list(dict.fromkeys([*bad, *(record for part in parts for record in part.skipped)]))
    data, records = parts[0], load_dataset(largest).splits
    sizes = {name: len(split) for name, split in data.splits.items()}
    notes = [*data.notes, *describe_doubtful_inputs(largest, geometry, view.step)]
    for note in (f"{data.kind}; {', '.join(f'{size} {name}' for name, size in sizes.items())}", *notes):
        view.message(f"Data: {note}")
    left_out = {name: sorted({record.id for record in bad if record.split == name}) for name in SPLITS}
    found = DataOrigin(
        name=data.name,
        kind=data.kind,
        notes=notes,
        sizes=sizes,
        skipped=len(skipped),
        left_out={name: ids for name, ids in left_out.items() if ids},
        sha256={name: hash_usable(records[name], left_out[name]) for name in SPLITS},
    )
    models = _identify_models(study.space, view.step)
    for note in check_same_origin(study.directory, found, models, lambda name, ids: hash_usable(records[name], ids)):
        view.message(note)
    write_skipped(skipped, skipped_path)
    if skipped:
        view.message(f"{len(skipped)} records left out, listed in {show_path(skipped_path)}")
    duplicates, path = find_duplicate_images(largest, geometry, view.step), study.paths.duplicate_images
    write_duplicates(duplicates.pairs, path)
    listed = f"; listed in {show_path(path)}" if duplicates.pairs else ""
    view.message(duplicates.describe(dropped=largest.drop_duplicate_train_images) + listed)
    for line in describe_other_versions(study.directory):
        view.message(line)
    command = ["python", "-m", "sweep.run", *sys.argv[1:]]
    begin_provenance(study.directory, command=command, gpus=find_gpus(), data=found, model=models)
    return data


def _identify_models(space: SearchSpace, progress: Progress) -> ModelOrigin:
    """Identify the base models, and the other vision towers that trials name, by names and weights."""
    towers = sorted({config.vision_model for config in draw_configs(space) if config.vision_model is not None})
    names = [*(space.models.values() or [space.model]), *towers]
    what, hashes = "hashing the weights of the models", dict[str, str | None]()
    for done, name in enumerate(names):
        progress(what, done, len(names))
        hashes[name] = hash_weights(name)
    progress(what, len(names), len(names))
    models = {alias: Weights(name=name, sha256=hashes[name]) for alias, name in space.models.items()}
    identity: dict[str, object] = {"models": models} if models else {"sha256": hashes[space.model]}
    if towers:
        identity["vision_models"] = {name: hashes[name] for name in towers}
    # What is not given is left out of the file.
    return ModelOrigin.model_validate({"name": space.model_names} | identity)


def describe_data(space: SearchSpace, progress: Progress) -> list[str]:
    """Read and judge the data as a run does, and describe them for the plan, one line each.

    At most MOST_IMAGES_OPENED of a split are opened and decoded. Raises TooManyBadRecords and DataFault.
    """
    configs = _configs_by_images(space)
    dataset = load_dataset(configs[0])
    bad: dict[SkippedRecord, None] = {}
    for config in configs:
        caps = {"max_validation_images": MOST_IMAGES_OPENED}  # the run judges all of them
        for name in ("max_train_images", "max_test_images"):
            caps[name] = min(getattr(config, name) or MOST_IMAGES_OPENED, MOST_IMAGES_OPENED)
        looked_at, geometry = config.model_copy(update=caps), load_geometry(config)
        bad |= dict.fromkeys(judge_records(looked_at, geometry, progress, whole_validation=False))
        prepare_data(looked_at, geometry, splits=SPLITS, progress=progress)
    sizes = {name: len(records) for name, records in dataset.splits.items()}
    lines = [f"Data           {dataset.kind}; {', '.join(f'{size:,} {name}' for name, size in sizes.items())}"]
    cases = {name: {record.case for record in dataset.splits[name]} - {None} for name in SPLITS}
    if any(cases.values()):
        lines.append(f"Cases          {', '.join(f'{len(own):,} {name}' for name, own in cases.items() if own)}")
    lines += [f"Data           {note}" for note in dataset.notes]
    is_large = max(sizes.values()) > MOST_IMAGES_OPENED
    if is_large:
        lines.append(f"Opened         at most {MOST_IMAGES_OPENED:,} images of each split; the run opens all of them")
    lines.append(f"Left out       {len(bad):,} records{', such as:' if bad else ''}")
    lines += [f"               {record.split} {record.id}: {record.reason}" for record in [*bad][:NUM_LISTED]]
    if not is_large:
        found = find_duplicate_images(configs[0], load_geometry(configs[0]), progress)
        lines.append(f"Duplicates     {found.describe(dropped=configs[0].drop_duplicate_train_images)}")
    return lines


def hash_usable(records: Sequence[Record], left_out: Sequence[str]) -> str:
    """Compute the SHA-256 (hex) of the records but those of the ids `left_out`."""
    bad = set(left_out)
    return hash_records([record for record in records if record.id not in bad])


def _configs_by_images(space: SearchSpace) -> list[TrialConfig]:
    """List one config for each selection and size of images among the space's trials, the largest share first."""
    by_images = {_images_of(config): config for config in draw_configs(space)}
    return sorted(by_images.values(), key=lambda config: -config.data_fraction)


def encode_ahead(space: SearchSpace, view: SweepView) -> None:
    """Encode the images of trials with frozen encoders here, on all cores, rather than in the first trial.

    Not called where trials have GPUs, which encode faster.
    """
    configs = [config for config in draw_configs(space) if encoder_is_frozen(config)]
    for config in {(_features_of(c), c.freeze is FreezeMode.ZERO_SHOT): c for c in configs}.values():
        captioner = load_trial_captioner(config)
        for name, split in prepare_data(config, captioner.geometry, splits=SPLITS).splits.items():
            augmented = name == "train" and config.augment
            open_images(captioner, split, config, augmented=augmented, progress=view.step)


def check_evaluation(
    study: Study, data: PreparedData, cluster: ClusterInfo, resources: TrialResources, view: SweepView
) -> None:
    """Score two validation batches by each untrained model where trials will run, so that faults appear at once.

    On this machine's CPUs this process does it, which has imported and loaded everything already.
    """
    names = {name: alias for alias, name in study.space.models.items()}
    objective = study.space.objective
    validation = data.splits["validation"]
    check_truth(objective, study.space.data, validation.records)
    scored = find_scored(validation.records, objective.predictions)
    for config in {_model_of(config): config for config in draw_configs(study.space)}.values():
        untrained = config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT})
        positions = scored[: NUM_CHECK_BATCHES * config.eval_batch_size]
        split = validation.part(positions)
        started = time.monotonic()
        request = build_request(objective.predictions, len(split))
        job = PredictionJob("check", untrained, None, "validation", positions.tolist(), request, whole_validation=False)
        what = f"checking the evaluation{f' of {names[config.model]}' if names else ''}"
        if cluster.is_own and not resources.gpus_per_worker:
            view.step(what, 0, len(split))
            found = predict_here(job)
            view.step(what, len(split), len(split))
        else:
            found = predict_split([job], resources, view.step, what)["check"]
        texts = [prediction.text for prediction in found]
        scores = compute_scores(split, texts, config)
        labels = {score.name: score.label for score in objective.scores}
        has = " and ".join(f"{labels[name]} {objective.show(value)}" for name, value in scores.items())
        untrained_one = f"the untrained {names[config.model] if names else 'model'}"
        does = f"has {has}, such as" if has else "says"
        checked = f"{len(split)} validation {split.records[0].noun}s in {time.monotonic() - started:.0f} s"
        sample = textwrap.shorten(texts[0], 60)
        view.message(f'Evaluation checked on {checked}: {untrained_one} {does} "{sample}"')
