"""How long searchers take to find a good trial, by replaying them over a table of real trials.

python -m benchmarks.replay record     runs every trial of replay_grid.yaml and writes replay_table.csv
python -m benchmarks.replay            replays the searchers over the table, 50 seeds each

A searcher proposes over continuous ranges, as in a real sweep; its trial is the nearest one of the grid, and its epochs
take the seconds they took. Two trials run at once. The time is the search's own: no start-up, no test split.
"""

import argparse
import heapq
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import json_to_distribution

from medcap_core.config import TrialConfig
from sweep.space import build_space
from sweep.space.schema import SearchSpace
from sweep.study.proposal import build_proposal
from sweep.study.pruning import build_rungs, should_prune
from sweep.study.record import compute_step
from sweep.study.study import Study

FOLDER = Path(__file__).parent
GRID, TABLE = FOLDER / "replay_grid.yaml", FOLDER / "replay_table.csv"
KNOBS = ("freeze", "learning_rate", "lora_targets", "num_epochs")
NUM_AT_ONCE = 2
NUM_TRIALS = 60
"""A searcher may try as many trials as the grid has."""
GOOD_ENOUGH = 0.98
"""Of the best CIDEr in the table."""

SPACE = {
    "name": "replay",
    "search": {
        "freeze": {"choice": ["full", "encoder_only", "decoder_only", "lora"]},
        "learning_rate": [
            {"loguniform": [2e-4, 4e-3], "when": {"freeze": ["full", "encoder_only", "decoder_only"]}},
            {"loguniform": [2e-3, 4e-2], "when": {"freeze": "lora"}},
        ],
        "lora_targets": {"choice": ["query_key", "attention_mlp"], "when": {"freeze": "lora"}},
        "num_epochs": {"int": [2, 6]},
    },
    "trials": NUM_TRIALS,
}


SEARCHERS: dict[str, dict[str, Any]] = {
    "whole grid, random order": {"sampler": "grid", "scheduler": "none"},
    "random": {"sampler": "random", "scheduler": "none"},
    "random, asha 1/2 from 25%": {"sampler": "random"},
    "tpe": {"sampler": "tpe", "scheduler": "none"},
    "tpe, asha 1/2 from 25%": {"sampler": "tpe"},
    "tpe, asha 1/2 from 50%": {"sampler": "tpe", "grace_fraction": 0.5},
    "tpe, asha 1/3 from 17%": {"sampler": "tpe", "grace_fraction": 1 / 6, "reduction_factor": 3},
    "tpe, asha 1/4 from 25%": {"sampler": "tpe", "reduction_factor": 4},
}
SHARES = (0.05, 0.1, 0.2, 0.4)
"""Of the time the whole grid takes."""


@dataclass(frozen=True)
class RecordedTrial:
    """One trial of the table: CIDEr and seconds of each epoch."""

    ciders: tuple[float, ...]
    seconds: tuple[float, ...]


Table = dict[tuple[Any, ...], RecordedTrial]


@dataclass(frozen=True)
class Outcome:
    """One replayed search: seconds until a good enough trial, and best CIDEr after some shares of the grid's time."""

    seconds_to_good: float
    best_at: tuple[float, ...]


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


def load_table() -> Table:
    """Trials by (freeze, learning rate, LoRA targets, epochs)."""
    table = pd.read_csv(TABLE, keep_default_na=False)
    return {
        key: RecordedTrial(tuple(epochs["cider"]), tuple(epochs["seconds"]))
        for key, epochs in table.groupby(list(KNOBS), sort=False)
    }


def find_nearest(table: Table, config: TrialConfig) -> RecordedTrial:
    """Find the trial of the table that a config stands for."""
    targets = str(config.lora_targets) if config.freeze == "lora" else ""

    def distance(key: tuple[Any, ...]) -> float:
        freeze, rate, key_targets, num_epochs = key
        if (freeze, key_targets) != (str(config.freeze), targets):
            return float("inf")
        return abs(np.log(rate / config.learning_rate)) + abs(num_epochs - config.num_epochs)

    return table[min(table, key=distance)]


class SamplerSource:
    """Trials as the space's sampler proposes them."""

    def __init__(self, space: SearchSpace, table: Table) -> None:
        self.space = space
        self.table = table
        self.history: list[optuna.trial.FrozenTrial] = []
        self.tried: set[TrialConfig] = set()

    def next(self) -> RecordedTrial:
        """Propose the next trial, known to the sampler as running."""
        proposal = build_proposal(self.space, len(self.history), self.history, self.tried)
        self.tried.add(proposal.config)
        distributions = {name: json_to_distribution(json.dumps(text)) for name, text in proposal.distributions.items()}
        running = optuna.trial.TrialState.RUNNING
        self.history.append(optuna.create_trial(state=running, params=proposal.parameters, distributions=distributions))
        return find_nearest(self.table, proposal.config)

    def finish(self, number: int, curve: dict[int, float], *, is_pruned: bool) -> None:
        """Tell the sampler how a trial ended."""
        states = optuna.trial.TrialState
        self.history[number] = optuna.create_trial(
            state=states.PRUNED if is_pruned else states.COMPLETE,
            params=self.history[number].params,
            distributions=self.history[number].distributions,
            intermediate_values=curve,
            value=None if is_pruned else max(curve.values()),
        )


class GridSource:
    """Every trial of the table once, in random order."""

    def __init__(self, space: SearchSpace, table: Table) -> None:
        keys = list(table)
        self.trials = [table[keys[index]] for index in np.random.default_rng(space.seed).permutation(len(keys))]

    def next(self) -> RecordedTrial:
        """Propose the next trial."""
        return self.trials.pop()

    def finish(self, number: int, curve: dict[int, float], *, is_pruned: bool) -> None:
        """Nothing is learnt."""


def search(space: SearchSpace, source: SamplerSource | GridSource) -> Iterator[tuple[float, float]]:
    """Replay one search: (seconds since its start, CIDEr) of each epoch, in the order in which epochs end."""
    rungs = build_rungs(space.grace_fraction, space.reduction_factor)
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
        others = [other for index, other in enumerate(curves) if index != number]
        is_pruned = space.scheduler == "asha" and should_prune(curve, others, rungs, space.reduction_factor)
        if is_pruned or epoch + 1 == num_epochs:
            source.finish(number, curve, is_pruned=is_pruned)
            begin(now)
        else:
            heapq.heappush(running, (now + trial.seconds[epoch + 1], number, epoch + 1))


def replay(values: dict[str, Any], table: Table, seed: int) -> Outcome:
    """One search with the space's keys changed to `values`."""
    is_grid = values.get("sampler") == "grid"
    space = build_space(SPACE | values | {"seed": seed} | ({"sampler": "random"} if is_grid else {}), "replay")
    source = GridSource(space, table) if is_grid else SamplerSource(space, table)
    good = GOOD_ENOUGH * max(max(trial.ciders) for trial in table.values())
    whole_seconds = sum(sum(trial.seconds) for trial in table.values()) / NUM_AT_ONCE
    seconds_to_good, best, marks = float("inf"), 0.0, list(SHARES)
    best_at: list[float] = []
    for now, cider in search(space, source):
        while marks and now > marks[0] * whole_seconds:
            best_at.append(best)
            marks.pop(0)
        best = max(best, cider)
        if best >= good and seconds_to_good == float("inf"):
            seconds_to_good = now
        if not marks and seconds_to_good < float("inf"):
            break
    return Outcome(seconds_to_good, (*best_at, *[best] * len(marks)))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["record", "replay"], default="replay")
    parser.add_argument("--out", type=Path, default=Path("runs/replay-grid"), help="run directory of the grid")
    parser.add_argument("--seeds", type=int, default=50)
    options = parser.parse_args()
    if options.what == "record":
        record(options.out)
        return
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = load_table()
    whole_seconds = sum(sum(trial.seconds) for trial in table.values()) / NUM_AT_ONCE
    print(f"{len(table)} trials, {whole_seconds:.0f} s for all of them, {NUM_AT_ONCE} at once; {options.seeds} seeds")
    shares = " | ".join(f"best after {share:.0%}" for share in SHARES)
    print(f"| searcher | median s to {GOOD_ENOUGH:.0%} of the best | 90th percentile | never | {shares} |")
    print("| --- | --- | --- | --- |" + " --- |" * len(SHARES))
    for name, values in SEARCHERS.items():
        outcomes = [replay(values, table, seed) for seed in range(options.seeds)]
        seconds = np.array([outcome.seconds_to_good for outcome in outcomes])
        median, tail = (float(np.quantile(seconds, q, method="higher")) for q in (0.5, 0.9))
        curve = " | ".join(f"{value:.2f}" for value in np.mean([outcome.best_at for outcome in outcomes], axis=0))
        print(f"| {name} | {median:.0f} | {tail:.0f} | {np.isinf(seconds).sum()} | {curve} |", flush=True)


if __name__ == "__main__":
    main()
