"""How long searchers take to find a good trial, by replaying them over a table of real trials.

python -m benchmarks.replay record     runs every trial of grid.yaml and writes table.csv
python -m benchmarks.replay            replays the searchers over the table, 60 seeds each

A searcher proposes over continuous ranges, as in a real sweep; its trial is the nearest one of the grid, and its epochs
take the seconds they took. Two trials run at once. The time is the search's own: no start-up, no test split.
"""

import argparse
import heapq
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.exceptions import ExperimentalWarning

from benchmarks.machine import print_table
from benchmarks.replay.searchers import SEARCHERS, SLOW_SEARCHERS, GridSource, OptunaSource, SamplerSource, Searcher
from benchmarks.replay.table import KNOBS, TABLE, RecordedTrial, Table, load_table
from sweep.space import build_space, load_space
from sweep.space.schema import SearchSpace
from sweep.space.yaml_text import find_space
from sweep.study.record import compute_step
from sweep.study.stopping import should_prune
from sweep.study.study import Study

GRID = Path(__file__).with_name("grid.yaml")
NUM_AT_ONCE = 2
SHARES = (0.95, 0.98)
"""Of the best CIDEr in the table: what a search is timed to."""

SPACE = load_space(find_space("lora")).to_mapping()
"""As shipped. The table has no ranks, and LoRA on `attention` counts as on `attention_mlp` there."""
BUDGETS = (12, 30)
GRID_ORDER = "whole grid, random order"


@dataclass(frozen=True)
class Outcome:
    """One replayed search: seconds to each of `SHARES`, trials to the last of them; infinite where it finds none."""

    seconds: dict[float, float]
    trials_to_good: float
    best: float
    num_by_mode: Counter[str]


def record(out: Path) -> None:
    """Run the grid (or go on with it) and write the table."""
    command = ["--resume", str(out)] if (out / "space.yaml").is_file() else [str(GRID), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "sweep.run", *command], check=True)
    rows = []
    with Study.open(out) as study:
        for trial in study.records:
            knobs = {name: getattr(trial.config, name) for name in KNOBS}
            if knobs["freeze"] != "lora":
                knobs["lora_targets"] = ""
            rows += [knobs | {"epoch": e.epoch, "cider": e.score, "seconds": e.seconds} for e in trial.epochs]
    pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.5g")


def search(space: SearchSpace, source: SamplerSource | GridSource) -> Iterator[tuple[float, float]]:
    """Replay one search: (seconds since its start, CIDEr) of each epoch, in the order in which epochs end."""
    trials: list[RecordedTrial] = []
    curves: list[dict[int, float]] = []
    running: list[tuple[float, int, int]] = []  # (when its next epoch ends, trial, that epoch)

    def begin(now: float) -> None:
        if len(trials) < space.trials:
            trials.append(source.next())
            curves.append({})
            heapq.heappush(running, (now + trials[-1].seconds[0], len(trials) - 1, 0))

    for _ in range(NUM_AT_ONCE):
        begin(0.0)
    while running:
        now, number, epoch = heapq.heappop(running)
        trial, curve = trials[number], curves[number]
        num_epochs = len(trial.ciders)
        curve[compute_step(epoch + 1, num_epochs)] = max(trial.ciders[: epoch + 1])
        yield now, trial.ciders[epoch]
        is_pruned = should_prune(number, curves, space)
        if is_pruned or epoch + 1 == num_epochs:
            source.finish(number, curve, is_pruned=is_pruned)
            begin(now)
        else:
            heapq.heappush(running, (now + trial.seconds[epoch + 1], number, epoch + 1))


def replay(searcher: Searcher, num_trials: int, table: Table, seed: int) -> Outcome:
    """Replay one search."""
    space = build_space(SPACE | searcher.keys | {"seed": seed, "trials": num_trials}, "replay")
    source = OptunaSource(space, table, searcher=searcher) if searcher.build else SamplerSource(space, table)
    outcome = measure(search(space, source), source, table)
    return replace(outcome, num_by_mode=Counter(trial.params["freeze"] for trial in source.history))


def replay_grid(table: Table, num_trials: int, seed: int) -> Outcome:
    """So many trials of the grid in random order, run to their ends."""
    values = {"scheduler": "none", "trials": num_trials, "first_points": [], "seed": seed}
    space = build_space(SPACE | values, "replay")
    source = GridSource(space, table)
    return measure(search(space, source), source, table)


def measure(epochs: Iterator[tuple[float, float]], source: SamplerSource | GridSource, table: Table) -> Outcome:
    """Follow a search to its end."""
    whole_best = max(max(trial.ciders) for trial in table.values())
    never = float("inf")
    best, seconds, trials_to_good = 0.0, dict.fromkeys(SHARES, never), never
    for now, cider in epochs:
        best = max(best, cider)
        for share in SHARES:
            if best >= share * whole_best and seconds[share] == never:
                seconds[share] = now
                trials_to_good = source.num_handed_out
    return Outcome(seconds, trials_to_good if seconds[SHARES[-1]] < never else never, best, Counter())


def format_row(name: str, short: list[Outcome], long: list[Outcome]) -> list[str]:
    """Format the row of one searcher, of its searches with few and with many trials."""
    is_grid = name == GRID_ORDER
    return [
        name,
        f"{np.mean([outcome.best for outcome in short]):.2f}",
        "-" if is_grid else f"{np.median([outcome.num_by_mode['lora'] for outcome in short]):.0f}",
        "-" if is_grid else f"{np.mean([outcome.num_by_mode['encoder_only'] for outcome in short]):.1f}",
        f"{np.mean([outcome.best for outcome in long]):.2f}",
        *(format_median([outcome.seconds[share] for outcome in long]) for share in SHARES),
        format_median([outcome.trials_to_good for outcome in long]),
        f"{sum(outcome.seconds[SHARES[-1]] == float('inf') for outcome in long)}",
    ]


def format_median(values: list[float]) -> str:
    """Format the upper median of values that may be infinite."""
    return f"{np.quantile(values, 0.5, method='higher'):.0f}"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["record", "replay"], default="replay")
    parser.add_argument("--out", type=Path, default=Path("runs/replay-grid"), help="run directory of the grid")
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--slow", action="store_true", help="replay the slow searchers instead")
    parser.add_argument("--only", choices=[*SEARCHERS, *SLOW_SEARCHERS], help="replay one searcher, without the grid")
    options = parser.parse_args()
    if options.what == "record":
        record(options.out)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    table = load_table()
    whole_seconds = sum(sum(trial.seconds) for trial in table.values()) / NUM_AT_ONCE
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    print(f"{len(table)} trials, {whole_seconds:.0f} s for all of them, {NUM_AT_ONCE} at once; seeds {seeds}")
    few, many = BUDGETS
    of_few = (f"{what} of {few}" for what in ("best", "LoRA", "encoder-only"))
    medians = (f"median s to {share:.0%}" for share in SHARES)
    header = ("searcher", *of_few, f"best of {many}", *medians, f"trials to {SHARES[-1]:.0%}", f"never in {many}")
    searchers = SLOW_SEARCHERS if options.slow else SEARCHERS
    if options.only:
        searchers = {options.only: (SEARCHERS | SLOW_SEARCHERS)[options.only]}

    def build_rows() -> Iterator[list[str]]:
        if not options.only and not options.slow:
            # The grid is walked to its end, since its time is what others are measured by.
            walks = ([replay_grid(table, number, seed) for seed in seeds] for number in (few, len(table)))
            yield format_row(GRID_ORDER, *walks)
        for name, searcher in searchers.items():
            outcomes = ([replay(searcher, number, table, seed) for seed in seeds] for number in BUDGETS)
            yield format_row(name, *outcomes)

    print_table(header, build_rows())


if __name__ == "__main__":
    main()
