"""One run from start to end: data, cluster, a check of the evaluation, the search, the best model, the test split."""

import os
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from medcap_core.bertscore import load_bert_scorer
from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.duplicates import describe_duplicates, write_duplicates
from medcap_core.data.prepare import (
    PreparedData,
    TooManyBadRecords,
    find_duplicate_images,
    load_dataset,
    prepare_data,
    write_skipped,
)
from medcap_core.data.records import SPLITS
from medcap_core.device import current_device, release_memory
from medcap_core.errors import MedcapError, RunFault, UserFault
from medcap_core.image_sources import open_images
from medcap_core.metrics import load_caption_scorer
from medcap_core.models import load_geometry, load_trial_captioner
from medcap_core.published import find_published
from medcap_core.tuning import apply_tuning, encoder_is_frozen
from sweep.cluster import ClusterInfo, NodeSize, TrialResources, check_shared_directory, choose_resources, connect
from sweep.estimate import estimate_cost
from sweep.experiment_log import ExperimentLog
from sweep.final import export_best, rescore_candidates
from sweep.held_out import score_on_test
from sweep.log_target import LogTarget
from sweep.models import describe_models, identify_models
from sweep.noise import divert_noise
from sweep.plan import describe_plan, short_label
from sweep.points import draw_configs, num_trials
from sweep.provenance import begin_provenance, end_provenance, find_gpus
from sweep.report import write_report
from sweep.run_directory import show_path
from sweep.schema import SearchSpace
from sweep.score_tables import print_test_table
from sweep.scoring import CaptionJob, caption_here, caption_split
from sweep.search import run_search
from sweep.study import Study
from sweep.terminal import SweepView
from sweep.trial_record import TrialRecord, TrialState

NUM_CHECK_BATCHES = 2
NUM_DRAWS = 64
"""So many random points stand for a space that is not a grid."""
EXIT_NOTE = "Interrupted; everything finished is kept. Go on with: python -m sweep.run --resume {directory}"


class EveryTrialFailed(MedcapError):
    """No trial of the run gave a model."""


def run_study(
    study: Study,
    console: Console,
    *,
    address: str | None,
    max_concurrent: int | None = None,
    num_more: int = 0,
    log_to: LogTarget | None = None,
) -> None:
    """Run what is left of a study and `num_more` trials, choose its best trial, and score that on the test split.

    Raises EveryTrialFailed where no trial gave a model, UserFault, and KeyboardInterrupt after telling how to go on.
    """
    space = study.space
    if num_more:
        study.check_extension(num_more)  # before anything is started
    wanted = (
        space.resources
        if max_concurrent is None
        else space.resources.model_copy(update={"max_concurrent": max_concurrent})
    )
    with divert_noise(study.directory / "log.txt", console) as terminal:
        try:
            with terminal.status("Starting Ray") as waiting, connect(address) as cluster:
                waiting.stop()
                num_wanted = study.num_wanted + num_more
                resources = choose_resources(cluster.nodes, wanted, num_wanted)
                view = SweepView(
                    terminal,
                    name=space.name,
                    total_trials=num_wanted,
                    header_lines=describe_start(study, cluster, resources, num_wanted),
                )
                with view:
                    if not cluster.is_own:
                        check_shared_directory(study.directory)
                    data = prepare_run(study, view)
                    if cluster.is_own and not resources.gpus_per_worker:
                        encode_ahead(study.space, view)
                    if study.num_finished < num_wanted:
                        check_evaluation(study, data, cluster, resources, view)
                    if num_more:
                        study.extend(num_more)  # only now, so that a fault found above does not add them for good
                    run_search(study, resources, view, ExperimentLog(study, log_to) if log_to else None)
                    try:
                        best = choose_best(study, resources, view)
                        metrics = score_on_test(study, best, resources, view.step)
                        study.tidy_checkpoints()  # with `test: all` weights wait for the test split
                    except EveryTrialFailed:
                        end_run(study, view)
                        raise
                    end_run(study, view)
        except KeyboardInterrupt:
            write_lines(terminal, EXIT_NOTE.format(directory=show_path(study.directory)))
            raise
        print_results(study, metrics, terminal)


def check_before_start(space: SearchSpace) -> None:
    """Load data and models that the space names, so that what is wrong shows before a run directory is made."""
    if "bertscore" in space.extra_scores:
        load_bert_scorer(space.bertscore_model)
    for config in _typical_configs(space):
        load_dataset(config.data)
        apply_tuning(load_trial_captioner(config, current_device()), config)
    release_memory()  # quantized weights lie on the GPU


def discard_unused(directory: Path, fault: UserFault) -> None:
    """Remove the directory of a run that a fault ended before its first trial, unless it lists bad records."""
    if not isinstance(fault, TooManyBadRecords) and not (directory / "trials").exists():
        shutil.rmtree(directory, ignore_errors=True)


def _typical_configs(space: SearchSpace) -> list[TrialConfig]:
    """One config for each way in which the space's trials use their models."""
    ways = {
        (
            *_model_of(c),
            c.image_size,
            c.freeze,
            c.lora_targets,
            c.lora_vision,
            c.prompt,
            c.max_new_tokens,
            c.max_caption_tokens,
        ): c
        for c in draw_configs(space, NUM_DRAWS)
    }
    return list(ways.values())


def _model_of(config: TrialConfig) -> tuple[object, ...]:
    """What decides which model is loaded, and how."""
    return (config.model, config.vision_model, config.quantization, config.weights_dtype)


def describe_start(study: Study, cluster: ClusterInfo, resources: TrialResources, num_wanted: int) -> list[str]:
    """What a run prints first: where, on what, and how to watch."""
    nodes = "1 node" if len(cluster.nodes) == 1 else f"{len(cluster.nodes)} nodes"
    kind = "its own Ray" if cluster.is_own else f"a Ray cluster of {nodes}"
    devices = (
        f"{cluster.num_gpus:g} GPUs, {cluster.num_cpus:g} CPUs" if cluster.num_gpus else f"{cluster.num_cpus:g} CPUs"
    )
    lines = [
        f"Run directory  {show_path(study.directory)}",
        f"Data, model    {study.space.data}, {describe_models(study.space)}",
        f"Trials         {num_wanted}, {resources.max_concurrent} at once, on {kind} ({devices})",
    ]
    if cluster.dashboard_url:
        sign_in = f" ({cluster.sign_in})" if cluster.sign_in else ""
        lines.append(f"Dashboard      {cluster.dashboard_url}{sign_in}")
    return lines


def prepare_run(study: Study, view: SweepView) -> PreparedData:
    """Decode what the trials share, list what was left out, and write down where everything comes from.

    Returns the data of one trial; other trials may take other shares of it, which are decoded here too.
    """
    skipped_path = study.directory / "skipped_records.csv"
    try:
        parts = [
            prepare_data(config, load_geometry(config), splits=SPLITS, progress=view.step)
            for config in _configs_by_images(study.space)
        ]
    except TooManyBadRecords as fault:
        write_skipped(fault.skipped, skipped_path)
        raise TooManyBadRecords(
            (*fault.faults, f"All are listed in {show_path(skipped_path)}."), fault.skipped
        ) from None
    skipped = list(dict.fromkeys(record for part in parts for record in part.skipped))
    write_skipped(skipped, skipped_path)
    data = parts[0]
    sizes = {name: len(split) for name, split in data.splits.items()}
    view.message(f"Data: {data.kind}; {', '.join(f'{size} {name}' for name, size in sizes.items())}")
    for note in data.notes:
        view.message(f"Data: {note}")
    if skipped:
        view.message(f"{len(skipped)} records left out, listed in {show_path(skipped_path)}")
    list_duplicates(study, view)
    begin_provenance(
        study.directory,
        command=["python", "-m", "sweep.run", *sys.argv[1:]],
        gpus=find_gpus(),
        data={"name": data.name, "kind": data.kind, "notes": data.notes, "sizes": sizes, "skipped": len(skipped)},
        model=identify_models(study.space, draw_configs(study.space, NUM_DRAWS), view.step),
    )
    return data


def list_duplicates(study: Study, view: SweepView) -> None:
    """Find the train images that other splits hold too, list them in `duplicate_images.csv`, and say how many."""
    config = _configs_by_images(study.space)[0]
    found = find_duplicate_images(config, load_geometry(config), view.step)
    path = study.directory / "duplicate_images.csv"
    write_duplicates(found.pairs, path)
    text = describe_duplicates(found.pairs, found.num_blank, dropped=config.drop_duplicate_train_images)
    view.message(text + (f"; listed in {show_path(path)}" if found.pairs else ""))


def _configs_by_images(space: SearchSpace) -> list[TrialConfig]:
    """One config for each selection and size of images that the space's trials use, the largest share first."""
    ways = {
        (config.model, config.vision_model, config.image_size, config.data_fraction, config.max_train_images): config
        for config in draw_configs(space, NUM_DRAWS)
    }
    return sorted(ways.values(), key=lambda config: -config.data_fraction)


def encode_ahead(space: SearchSpace, view: SweepView) -> None:
    """Encode here, with all cores, what the trials' frozen encoders would; else the first trial would, the others wait.

    Where trials have GPUs they encode on those.
    """
    ways = {
        (
            *_model_of(c),
            c.image_size,
            c.data_fraction,
            c.max_train_images,
            c.max_validation_images,
            c.augment,
            c.precision,
            c.freeze is FreezeMode.ZERO_SHOT,
        ): c
        for c in draw_configs(space, NUM_DRAWS)
        if encoder_is_frozen(c)
    }
    for config in ways.values():
        captioner = load_trial_captioner(config)
        for name, split in prepare_data(config, captioner.geometry, splits=SPLITS).splits.items():
            augmented = name == "train" and config.augment
            open_images(captioner, split, config, augmented=augmented, progress=view.step)


def check_evaluation(
    study: Study, data: PreparedData, cluster: ClusterInfo, resources: TrialResources, view: SweepView
) -> None:
    """Caption and score two batches with each untrained model where trials will run, so that a fault shows at once.

    On this machine's CPUs that is this process, which has imported and loaded everything already.
    """
    names = {name: alias for alias, name in study.space.models.items()}
    for config in {_model_of(config): config for config in draw_configs(study.space, NUM_DRAWS)}.values():
        untrained = config.model_copy(update={"freeze": FreezeMode.ZERO_SHOT})
        references = data.splits["validation"].captions[: NUM_CHECK_BATCHES * config.eval_batch_size]
        started = time.monotonic()
        job = CaptionJob("check", untrained, None, "validation", len(references), whole_validation=False)
        what = f"checking the evaluation{f' of {names[config.model]}' if names else ''}"
        if cluster.is_own and not resources.gpus_per_worker:
            view.step(what, 0, len(references))
            captions = caption_here(job)
            view.step(what, len(references), len(references))
        else:
            captions = caption_split([job], resources, view.step, what)["check"]
        cider = load_caption_scorer(references).cider(captions)
        view.message(
            f"Evaluation checked on {len(references)} validation images in {time.monotonic() - started:.0f} s: "
            f"the untrained {names[config.model] if names else 'model'} has CIDEr {cider:.3f}, such as "
            f'"{textwrap.shorten(captions[0], 60)}"'
        )


def choose_best(study: Study, resources: TrialResources, view: SweepView) -> TrialRecord:
    """Find the best trial by validation and write its model. Raises EveryTrialFailed."""
    rescore_candidates(study, resources, view.step)
    best = next(iter(study.best()), None)
    if best is None:
        reasons = sorted({record.reason for record in study.records if record.state is TrialState.FAILED})
        raise EveryTrialFailed(f"No trial of {show_path(study.directory)} gave a model: {' / '.join(reasons)}")
    export_best(study, best)
    return best


def end_run(study: Study, view: SweepView) -> None:
    """Note that the run is over, and write its report; a report that cannot be written takes no result away."""
    end_provenance(study.directory)
    try:
        write_report(study.directory, progress=view.step)
    except RunFault as fault:
        view.message(str(fault))


def print_results(study: Study, metrics: dict[str, Any], console: Console) -> None:
    """Print the best config, the test table and what to do next."""
    best = study.best()[0]
    directory = show_path(study.directory)
    whole = best.whole_validation_cider
    write_lines(
        console,
        "",
        f"Best: {best.name} ({short_label(best.point)}), validation CIDEr {best.best_cider:.3f} "
        f"at epoch {best.best_epoch}" + ("" if whole is None else f", {whole:.3f} on the whole split"),
    )
    print_test_table(console, metrics, find_published(study.space.data, load_dataset(study.space.data).kind))
    write_lines(
        console,
        f"Config           {directory}/best.yaml",
        f"Model            {directory}/best (loads with transformers' from_pretrained)",
        f"Trials           {directory}/trials.csv",
        f"Report           {directory}/report.html",
        f"Caption images   python -m medcap_core.caption IMAGE... --model {directory}/best",
    )
    if study.can_be_extended:
        more = max(4, study.num_wanted // 2)
        write_lines(console, f"Search further   python -m sweep.run --resume {directory} --trials +{more}")


def write_lines(console: Console, *lines: str) -> None:
    """Print lines as they are, neither wrapped nor coloured, so that paths and commands can be copied."""
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


def describe_run(space: SearchSpace) -> str:
    """What a run would do and cost; starts nothing."""
    check_before_start(space)
    node = NodeSize(float(os.cpu_count() or 1), float(torch.cuda.device_count()))
    resources = choose_resources([node], space.resources, num_trials(space))
    return describe_plan(space, resources, estimate_cost(space, resources))
