"""Ours against the peer, in one go: the same trials on the same images from the same base model, to the same epochs.

python -m benchmarks.peer --model phantom-blip --list named

Ours is `python -m sweep.run` on a grid; the peer is `benchmarks.peer_trainer`. Each runs in a process of its own, and
the clock starts with the process and stops when the last trial is over: ours then goes on to write the best model and
to score the test split, which is told apart and counted on neither side. The peer first tries several numbers of data
workers and threads, not counted, and keeps the fastest.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from benchmarks.lists import LISTS, build_list
from benchmarks.machine import describe_machine, print_table, tell
from benchmarks.sweep_run import SweepRun, build_environment, run_sweep
from benchmarks.synthetic import BLIP_SIZES, PHANTOM_BLIP, make_model, write_phantom_folder
from medcap_core.config import FreezeMode
from sweep.space.points import draw_configs
from sweep.space.schema import SearchSpace

NUM_IMAGES = {PHANTOM_BLIP: (1200, 100), "small": (48, 16), "base": (12, 4)}
"""Training and validation images by model, for two CPU cores."""
NUM_IMAGES_ON_CUDA = (2000, 256)


class Parts(NamedTuple):
    """Seconds of one side. They add up to the whole: times of trials that ran at once are divided by their number.

    `between` is between trials, saving included, and where a process waited for work.
    """

    start: float
    training: float
    evaluation: float
    between: float
    whole: float


class PeerSetting(NamedTuple):
    """What the peer is tried with."""

    num_workers: int
    num_threads: int

    def __str__(self) -> str:
        return f"{self.num_workers} data workers, {self.num_threads} threads"


def split_ours(run: SweepRun) -> Parts:
    """List the parts of our run up to the choice of the best trial."""
    training = sum(trial.training_seconds for trial in run.trials) / run.num_slots
    evaluation = sum(trial.evaluation_seconds for trial in run.trials) / run.num_slots
    return _split(run.first_step - run.started, training, evaluation, run.searched - run.started)


def split_peer(results: list[dict[str, Any]], started: float) -> Parts:
    """List the parts of the peer's run up to the end of its last trial."""
    training, evaluation = (sum(result[f"{part}_seconds"] for result in results) for part in ("training", "evaluation"))
    return _split(results[0]["first_step"] - started, training, evaluation, results[-1]["ended"] - started)


def _split(start: float, training: float, evaluation: float, whole: float) -> Parts:
    return Parts(start, training, evaluation, whole - start - training - evaluation, whole)


def list_settings() -> list[PeerSetting]:
    """Numbers of data workers and threads worth trying on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        return [PeerSetting(workers, max(1, cores // 2)) for workers in sorted({0, 4, min(8, cores), cores})]
    settings = [PeerSetting(workers, cores) for workers in sorted({0, 1, cores})]
    return [*settings, PeerSetting(1, cores - 1)] if cores > 1 else settings


def run_peer(
    trials: list[dict[str, Any]], data: Path, setting: PeerSetting, scratch: Path
) -> tuple[list[dict[str, Any]], float]:
    """Run trials by the peer in a process of its own: its results and when it started."""
    scratch.mkdir(parents=True)
    job, out = scratch / "job.json", scratch / "results.json"
    content = {"data": str(data), "trials": trials, "out": str(out), **setting._asdict()}
    job.write_text(json.dumps(content), encoding="utf-8")
    started = time.time()
    command = [sys.executable, "-m", "benchmarks.peer_trainer", str(job)]
    subprocess.run(command, env=build_environment(), stdout=sys.stderr, check=True)
    results: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    return results, started


def choose_setting(trial: dict[str, Any], data: Path, scratch: Path) -> PeerSetting:
    """Find the setting under which one epoch of a trial, evaluation included, is fastest."""
    seconds = {}
    for number, setting in enumerate(list_settings()):
        results, _ = run_peer([trial | {"num_epochs": 1}], data, setting, scratch / f"setting-{number}")
        seconds[setting] = results[0]["seconds"]
        tell(f"peer, {setting}: {seconds[setting]:.1f} s an epoch")
    return min(seconds, key=seconds.__getitem__)


def print_parts(rows: dict[str, Parts], reference: Parts) -> None:
    """One row a side, then the ratio of the reference's time to each other side's, part by part."""
    table: list[tuple[object, ...]] = [(name, *parts) for name, parts in rows.items()]
    for name, parts in rows.items():
        if parts is not reference:
            pairs = zip(reference, parts, strict=True)
            table.append((f"peer / {name}", *(f"{theirs / max(own, 1e-3):.2f}x" for theirs, own in pairs)))
    print_table(("", "start-up s", "training s", "evaluation s", "between s", "whole s"), table)


def print_scores(space: SearchSpace, ours: SweepRun, peer: list[dict[str, Any]]) -> None:
    """Both sides' validation CIDEr of each trial."""
    rows = []
    for config, own, other in zip(draw_configs(space, 0), ours.trials, peer, strict=True):
        rank = f" r{config.lora_rank}" if config.freeze is FreezeMode.LORA else ""
        label = f"{config.freeze}{rank} {config.learning_rate:.3g}"
        figures = (figure for side in (own.cider, other["cider"]) for figure in (max(side), side[-1]))
        rows.append((label, *(f"{figure:.3f}" for figure in figures)))
    print_table(("trial", "ours: best CIDEr", "last", "peer: best CIDEr", "last"), rows)


def main(
    model: Annotated[str, typer.Option(help="phantom-blip, or a random BLIP at 224 px: small or base.")] = PHANTOM_BLIP,
    list_: Annotated[str, typer.Option("--list", help="named or all_modes.")] = "named",
    images: Annotated[int | None, typer.Option(help="Training images; by default suited to the machine.")] = None,
    validation_images: Annotated[int | None, typer.Option(help="Validation images, all captioned each epoch.")] = None,
    epochs: int = 4,
    batch_size: int = 16,
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    peer_workers: Annotated[int | None, typer.Option(help="The peer's data workers; by default tried out.")] = None,
    early_stopping: Annotated[bool, typer.Option("--early-stopping", help="Run ours with ASHA once more.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value for our sweep.run.")] = None,
) -> None:
    """Run both and print their times, part by part, with the ratio."""
    if list_ not in LISTS or model not in (PHANTOM_BLIP, *BLIP_SIZES) or device not in ("auto", "cpu"):
        known = "--list named or all_modes, --model phantom-blip, small or base, --device auto or cpu"
        raise typer.BadParameter(f"give {known}")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    defaults = NUM_IMAGES_ON_CUDA if torch.cuda.is_available() else NUM_IMAGES[model]
    num_train, num_validation = images or defaults[0], validation_images or defaults[1]
    flags = [part for value in set_ or [] for part in ("--set", value)]
    with tempfile.TemporaryDirectory(prefix="medcap-peer-") as name:
        scratch = Path(name)
        data = write_phantom_folder(scratch / "data", num_train, num_validation)
        source = make_model(model, scratch / "model")
        fixed = {"num_epochs": epochs, "batch_size": batch_size}
        space = build_list(list_, data=str(data), model=source, model_name=model, fixed=fixed)
        trials = [config.model_dump(mode="json") for config in draw_configs(space, 0)]
        setting = PeerSetting(peer_workers or 0, os.cpu_count() or 1)
        if peer_workers is None:
            setting = choose_setting(trials[-1], data, scratch / "settings")
        peer, peer_started = run_peer(trials, data, setting, scratch / "peer")
        ours = run_sweep(space, scratch / "ours", flags)
        rows = {"peer": split_peer(peer, peer_started), "ours": split_ours(ours)}
        if early_stopping:
            stopping = space.model_copy(update={"scheduler": "asha"})
            rows["ours, early stopping"] = split_ours(run_sweep(stopping, scratch / "stopping", flags))
        print(f"## {model}, list {list_}: {len(trials)} trials, {epochs} epochs; {describe_machine()}\n")
        print(
            f"{num_train} training and {num_validation} validation images, batch {batch_size}; peer: {setting}; "
            f"ours: {ours.num_slots} trials at once, empty cache; not counted, ours: "
            f"{ours.ended - ours.searched:.1f} s after the last trial.\n"
        )
        print_parts(rows, rows["peer"])
        print_scores(space, ours, peer)


if __name__ == "__main__":
    typer.run(main)
