"""How long searchers take to find a good trial, by replaying them over a table of real trials.

python -m benchmarks.replay record     runs every trial of replay_grid.yaml and writes replay_table.csv
python -m benchmarks.replay            replays the searchers over the table, 60 seeds each

A searcher proposes over continuous ranges, as in a real sweep; its trial is the nearest one of the grid, and its epochs
take the seconds they took. Two trials run at once. The time is the search's own: no start-up, no test split.
"""

import argparse
import heapq
import json
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, TPESampler

from medcap_core.config import TrialConfig
from sweep.space import build_config, build_space, encode_point, load_space, propose
from sweep.space.ready import find_space
from sweep.space.schema import SearchSpace
from sweep.study.proposal import Proposal, build_proposal
from sweep.study.pruning import should_prune
from sweep.study.record import compute_step
from sweep.study.study import Study

FOLDER = Path(__file__).parent
GRID, TABLE = FOLDER / "replay_grid.yaml", FOLDER / "replay_table.csv"
KNOBS = ("freeze", "learning_rate", "lora_targets", "num_epochs")
NUM_AT_ONCE = 2
GOOD_ENOUGH = 0.98
"""Of the best CIDEr in the table."""

SPACE = load_space(find_space("lora")).to_mapping()
"""As shipped. The table has no ranks, and LoRA on `attention` counts as on `attention_mlp` there."""


def build_tpe(seed: int) -> BaseSampler:
    """Build Optuna's TPE with its defaults, for all modes at once."""
    return TPESampler(seed=seed)


def build_grouped_tpe(seed: int) -> BaseSampler:
    """Build the sampler of one branch for all modes at once; its start-up is used up by the first points."""
    return TPESampler(seed=seed, n_startup_trials=4, multivariate=True, group=True)


def build_gp(seed: int) -> BaseSampler:
    """Build Optuna's Gaussian process, over the knobs that all modes share; TPE draws the others."""
    return GPSampler(seed=seed, n_startup_trials=4, independent_sampler=build_grouped_tpe(seed))


SEARCHERS: dict[str, tuple[dict[str, Any], Callable[[int], BaseSampler] | None]] = {
    "whole grid, random order": ({"scheduler": "none"}, None),
    "random, asha": ({"sampler": "random"}, None),
    "Optuna's TPE, asha": ({}, build_tpe),
    "TPE over all modes, asha": ({}, build_grouped_tpe),
    "tpe, asha": ({}, None),
    "tpe, asha 1/4": ({"reduction_factor": 4}, None),
    "tpe, hyperband": ({"scheduler": "hyperband"}, None),
    "tpe, median": ({"scheduler": "median"}, None),
    "tpe, none": ({"scheduler": "none"}, None),
}
SLOW_SEARCHERS = {"Optuna's GP, asha": ({}, build_gp)}
"""Replayed with `--slow`; it takes half a minute a search."""
BUDGETS = (12, 30)


@dataclass(frozen=True)
class RecordedTrial:
    """One trial of the table: CIDEr and seconds of each epoch."""

    ciders: tuple[float, ...]
    seconds: tuple[float, ...]


Table = dict[tuple[Any, ...], RecordedTrial]


@dataclass(frozen=True)
class Outcome:
    """One replayed search; to a good enough trial it takes infinitely long where it finds none."""

    seconds_to_good: float
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


def load_table() -> Table:
    """Trials by (freeze, learning rate, LoRA targets, epochs)."""
    table = pd.read_csv(TABLE, keep_default_na=False)
    return {
        key: RecordedTrial(tuple(epochs["cider"]), tuple(epochs["seconds"]))
        for key, epochs in table.groupby(list(KNOBS), sort=False)
    }


def find_nearest(table: Table, config: TrialConfig) -> RecordedTrial:
    """Find the trial of the table that a config stands for."""
    targets = "" if config.freeze != "lora" else str(config.lora_targets).replace("attention_mlp", "attention")

    def distance(key: tuple[Any, ...]) -> float:
        freeze, rate, key_targets, num_epochs = key
        if (freeze, key_targets.replace("attention_mlp", "attention")) != (str(config.freeze), targets):
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

    def propose(self) -> Proposal:
        """Draw the next point."""
        return build_proposal(self.space, len(self.history), self.history, self.tried)

    def next(self) -> RecordedTrial:
        """Propose the next trial, known to the sampler as running."""
        proposal = self.propose()
        self.tried.add(proposal.config)
        distributions = {name: json_to_distribution(json.dumps(text)) for name, text in proposal.distributions.items()}
        running = optuna.trial.TrialState.RUNNING
        self.history.append(optuna.create_trial(state=running, params=proposal.parameters, distributions=distributions))
        return find_nearest(self.table, proposal.config)

    @property
    def num_handed_out(self) -> int:
        """How many trials were proposed."""
        return len(self.history)

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


class OptunaSource(SamplerSource):
    """Trials as one of Optuna's samplers proposes them over the whole space, after the first points."""

    def __init__(self, space: SearchSpace, table: Table, build: Callable[[int], BaseSampler]) -> None:
        super().__init__(space, table)
        self.build = build

    def propose(self) -> Proposal:
        """Draw the next point."""
        number = len(self.history)
        study = optuna.create_study(direction="maximize", sampler=self.build(1000 * self.space.seed + number))
        study.add_trials(self.history)
        if number < len(self.space.first_points):
            study.enqueue_trial(encode_point(self.space, self.space.first_points[number]))
        trial = study.ask()
        point = propose(self.space, trial)
        distributions = {name: json.loads(distribution_to_json(item)) for name, item in trial.distributions.items()}
        return Proposal(point, build_config(self.space, point), trial.params, distributions)


class GridSource:
    """Every trial of the table once, in random order."""

    def __init__(self, space: SearchSpace, table: Table) -> None:
        keys = list(table)
        self.trials = [table[keys[index]] for index in np.random.default_rng(space.seed).permutation(len(keys))]
        self.num_handed_out = 0

    def next(self) -> RecordedTrial:
        """Propose the next trial."""
        self.num_handed_out += 1
        return self.trials.pop()

    def finish(self, number: int, curve: dict[int, float], *, is_pruned: bool) -> None:
        """Nothing is learnt."""


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


def replay(values: dict[str, Any], build: Callable[[int], BaseSampler] | None, table: Table, seed: int) -> Outcome:
    """One search with the space's keys changed to `values`, by a sampler of Optuna where one is given."""
    space = build_space(SPACE | values | {"seed": seed}, "replay")
    source = OptunaSource(space, table, build) if build else SamplerSource(space, table)
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
    good = GOOD_ENOUGH * max(max(trial.ciders) for trial in table.values())
    best, seconds_to_good, trials_to_good = 0.0, float("inf"), float("inf")
    for now, cider in epochs:
        best = max(best, cider)
        if best >= good and seconds_to_good == float("inf"):
            seconds_to_good, trials_to_good = now, source.num_handed_out
    return Outcome(seconds_to_good, trials_to_good, best, Counter())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["record", "replay"], default="replay")
    parser.add_argument("--out", type=Path, default=Path("runs/replay-grid"), help="run directory of the grid")
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--slow", action="store_true", help="replay the slow searchers instead")
    options = parser.parse_args()
    if options.what == "record":
        record(options.out)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    table = load_table()
    whole_seconds = sum(sum(trial.seconds) for trial in table.values()) / NUM_AT_ONCE
    print(f"{len(table)} trials, {whole_seconds:.0f} s for all of them, {NUM_AT_ONCE} at once; {options.seeds} seeds")
    few, many = BUDGETS
    print(
        f"| searcher | best of {few} | LoRA of {few} | encoder-only of {few} | best of {many} | median s to "
        f"{GOOD_ENOUGH:.0%} | trials to {GOOD_ENOUGH:.0%} | never in {many} |"
    )
    print("| --- |" + " --- |" * 7)
    for name, (values, build) in (SLOW_SEARCHERS if options.slow else SEARCHERS).items():
        short, long = (
            [
                replay_grid(table, number, seed)
                if name.startswith("whole grid")
                else replay(values | {"trials": number}, build, table, seed)
                for seed in range(options.seeds)
            ]
            # The grid is walked to its end, since its time is what others are measured by.
            for number in ((few, len(table)) if name.startswith("whole grid") else BUDGETS)
        )
        best = [float(np.mean([outcome.best for outcome in outcomes])) for outcomes in (short, long)]
        lora = f"{np.median([outcome.num_by_mode['lora'] for outcome in short]):.0f}"
        encoder = f"{np.mean([outcome.num_by_mode['encoder_only'] for outcome in short]):.1f}"
        if name.startswith("whole grid"):
            lora = encoder = "-"
        seconds, trials = (
            float(np.quantile([getattr(outcome, key) for outcome in long], 0.5, method="higher"))
            for key in ("seconds_to_good", "trials_to_good")
        )
        never = sum(outcome.seconds_to_good == float("inf") for outcome in long)
        print(
            f"| {name} | {best[0]:.2f} | {lora} | {encoder} | {best[1]:.2f} | {seconds:.0f} | {trials:.0f} | {never} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
