"""One run from start to end: data, cluster, a check of the evaluation, the search, the best model, the test split."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from medcap_core.config import FreezeMode, TrialConfig
from medcap_core.data.prepare import PreparedData, TooManyBadRecords, load_dataset, prepare_data, write_skipped
from medcap_core.data.records import SPLITS
from medcap_core.errors import MedcapError, UserFault
from medcap_core.metrics import load_caption_scorer
from medcap_core.models import hash_weights, load_captioner
from medcap_core.tuning import apply_tuning
from sweep.cluster import ClusterInfo, TrialResources, check_shared_directory, choose_resources, connect
from sweep.estimate import estimate_cost
from sweep.final import export_best, rescore_candidates, score_on_test
from sweep.plan import describe_plan, short_label
from sweep.points import build_config, draw_points, num_trials
from sweep.provenance import begin_provenance, end_provenance, find_gpus
from sweep.schema import SearchSpace
from sweep.scoring import CaptionJob, caption_here, caption_split
from sweep.search import run_search
from sweep.study import Study
from sweep.terminal import SweepView, print_test_table
from sweep.trial_record import TrialRecord, TrialState

NUM_CHECK_BATCHES = 2
EXIT_NOTE = "Interrupted; everything finished is kept. Go on with: python -m sweep.run --resume {directory}"


class EveryTrialFailed(MedcapError):
    """No trial of the run gave a model."""


def run_study(
    study: Study, console: Console, *, address: str | None, max_concurrent: int | None = None, num_more: int = 0
) -> None:
    """Run what is left of a study and `num_more` trials, choose its best trial, and score that on the test split.

    Raises EveryTrialFailed where no trial gave a model, UserFault, and KeyboardInterrupt after telling how to go on.
    """
    space = study.space
    wanted = (
        space.resources
        if max_concurrent is None
        else space.resources.model_copy(update={"max_concurrent": max_concurrent})
    )
    with divert_noise(study.directory / "log.txt", console) as terminal:
        try:
            with connect(address) as cluster:
                if num_more:
                    study.extend(num_more)
                resources = choose_resources(cluster.num_cpus, cluster.num_gpus, wanted, study.num_wanted)
                view = SweepView(
                    terminal,
                    name=space.name,
                    total_trials=study.num_wanted,
                    header_lines=describe_start(study, cluster, resources),
                )
                with view:
                    if not cluster.is_own:
                        check_shared_directory(study.directory)
                    data = prepare_run(study, view)
                    check_evaluation(study, data, cluster, resources, view)
                    run_search(study, resources, view)
                    best = choose_best(study, resources, view)
                    metrics = score_on_test(study, best, resources, view.step)
                end_provenance(study.directory)
        except KeyboardInterrupt:
            write_lines(terminal, EXIT_NOTE.format(directory=show_path(study.directory)))
            raise
        print_results(study, metrics, terminal)


def check_before_start(space: SearchSpace) -> None:
    """Load data and models that the space names, so that what is wrong shows before a run directory is made."""
    for config in _typical_configs(space):
        load_dataset(config.data)
        captioner = load_captioner(config.model, config.image_size)
        captioner.check(config)
        apply_tuning(captioner, config)


def discard_unused(directory: Path, fault: UserFault) -> None:
    """Remove the directory of a run that a fault ended before its first trial, unless it lists bad records."""
    if not isinstance(fault, TooManyBadRecords) and not (directory / "trials").exists():
        shutil.rmtree(directory, ignore_errors=True)


def _typical_configs(space: SearchSpace, num_points: int = 24) -> list[TrialConfig]:
    """One config for each way in which the space's trials use the model."""
    configs = [build_config(space, point) for point in draw_points(space, num_points, space.seed)]
    ways = {(c.data, c.model, c.image_size, c.freeze, c.lora_targets, c.lora_vision, c.prompt): c for c in configs}
    return list(ways.values())


def describe_start(study: Study, cluster: ClusterInfo, resources: TrialResources) -> list[str]:
    """What a run prints first: where, on what, and how to watch."""
    kind = "its own Ray" if cluster.is_own else f"a Ray cluster of {cluster.num_nodes} nodes"
    devices = (
        f"{cluster.num_gpus:g} GPUs, {cluster.num_cpus:g} CPUs" if cluster.num_gpus else f"{cluster.num_cpus:g} CPUs"
    )
    lines = [
        f"Run directory  {show_path(study.directory)}",
        f"Data, model    {study.space.data}, {study.space.model}",
        f"Trials         {study.num_wanted}, {resources.max_concurrent} at once, on {kind} ({devices})",
    ]
    if cluster.dashboard_url:
        sign_in = f" ({cluster.sign_in})" if cluster.sign_in else ""
        lines.append(f"Dashboard      {cluster.dashboard_url}{sign_in}")
    return lines


def prepare_run(study: Study, view: SweepView) -> PreparedData:
    """Decode what the trials share, list what was left out, and write down where everything comes from."""
    config = build_config(study.space, {})
    captioner = load_captioner(config.model, config.image_size)
    skipped_path = study.directory / "skipped_records.csv"
    try:
        data = prepare_data(config, captioner.geometry, splits=SPLITS, progress=view.step)
    except TooManyBadRecords as fault:
        write_skipped(fault.skipped, skipped_path)
        raise TooManyBadRecords(
            (*fault.faults, f"All are listed in {show_path(skipped_path)}."), fault.skipped
        ) from None
    write_skipped(data.skipped, skipped_path)
    sizes = {name: len(split) for name, split in data.splits.items()}
    view.message(f"Data: {data.kind}; {', '.join(f'{size} {name}' for name, size in sizes.items())}")
    for note in data.notes:
        view.message(f"Data: {note}")
    if data.skipped:
        view.message(f"{len(data.skipped)} records left out, listed in {show_path(skipped_path)}")
    begin_provenance(
        study.directory,
        command=["python", "-m", "sweep.run", *sys.argv[1:]],
        gpus=find_gpus(),
        data={"name": data.name, "kind": data.kind, "notes": data.notes, "sizes": sizes, "skipped": len(data.skipped)},
        model={"name": config.model, "sha256": hash_weights(config.model)},
    )
    return data


def check_evaluation(
    study: Study, data: PreparedData, cluster: ClusterInfo, resources: TrialResources, view: SweepView
) -> None:
    """Caption and score two batches with the untrained model where trials will run, so that a fault shows at once.

    On this machine's CPUs that is this process, which has imported and loaded everything already.
    """
    if study.is_complete:
        return
    config = build_config(study.space, {}).model_copy(update={"freeze": FreezeMode.ZERO_SHOT})
    references = data.splits["validation"].captions[: NUM_CHECK_BATCHES * config.eval_batch_size]
    started = time.monotonic()
    job = CaptionJob("check", config, None, "validation", len(references), whole_validation=False)
    if cluster.is_own and not resources.gpus_per_worker:
        view.step("checking the evaluation", 0, len(references))
        captions = caption_here(job)
        view.step("checking the evaluation", len(references), len(references))
    else:
        captions = caption_split([job], resources, view.step, "checking the evaluation")["check"]
    cider = load_caption_scorer(references).cider(captions)
    view.message(
        f"Evaluation checked on {len(references)} validation images in {time.monotonic() - started:.0f} s: "
        f'the untrained model has CIDEr {cider:.3f}, such as "{captions[0]}"'
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
    print_test_table(console, metrics)
    write_lines(
        console,
        f"Config           {directory}/best.yaml",
        f"Model            {directory}/best (loads with transformers' from_pretrained)",
        f"Trials           {directory}/trials.csv",
        f"Caption images   python -m medcap_core.caption IMAGE... --model {directory}/best",
    )
    if study.space.sampler != "grid":
        more = max(4, study.num_wanted // 2)
        write_lines(console, f"Search further   python -m sweep.run --resume {directory} --trials +{more}")


def write_lines(console: Console, *lines: str) -> None:
    """Print lines as they are, neither wrapped nor coloured, so that paths and commands can be copied."""
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


def show_path(path: Path) -> str:
    """A path as the user would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextmanager
def divert_noise(log_path: Path, console: Console) -> Iterator[Console]:
    """Send what Ray and other libraries print, from C++ too, to the run's log; the console given back still prints.

    Done on the file descriptors, since Ray's core writes there itself.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {fd: os.dup(fd) for fd in (1, 2)}
    with log_path.open("a", encoding="utf-8") as log_file, os.fdopen(kept[1], "w", encoding="utf-8") as terminal:
        for fd in kept:
            os.dup2(log_file.fileno(), fd)
        try:
            yield Console(file=terminal, force_terminal=console.is_terminal, width=console.width)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            terminal.flush()
            os.dup2(kept[1], 1)
            os.dup2(kept[2], 2)
            os.close(kept[2])


def show_plan(space: SearchSpace, console: Console) -> None:
    """Print what a run would do and cost; starts nothing."""
    check_before_start(space)
    num_cpus, num_gpus = float(os.cpu_count() or 1), float(torch.cuda.device_count())
    resources = choose_resources(num_cpus, num_gpus, space.resources, num_trials(space))
    write_lines(console, describe_plan(space, resources, estimate_cost(space, resources)))
