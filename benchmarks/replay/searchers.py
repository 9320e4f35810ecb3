"""Searchers to replay: what proposes the next trial, the space's own sampler or one of Optuna's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import json_to_distribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from benchmarks.replay.table import RecordedTrial, Table, find_nearest
from medcap_core.config import TrialConfig
from sweep.space import encode_point, propose
from sweep.space.schema import SearchSpace
from sweep.study.proposal import build_proposal, build_record, choose_branch, lengthen_best
from sweep.study.record import TrialRecord


@dataclass(frozen=True)
class Searcher:
    """Keys of the space that differ from lora.yaml, and an Optuna sampler, by seed, in place of the space's own.

    The sampler proposes over all modes at once or, `by_branch`, in a study for each mode, whose turn comes as the
    space's own rule says.
    """

    keys: dict[str, Any] = field(default_factory=dict)
    build: Callable[[int], BaseSampler] | None = None
    by_branch: bool = False


def use_tpe(**settings: Any) -> Searcher:
    """Search by Optuna's TPE within each mode, with other settings than the space's own sampler has."""
    own = {"n_startup_trials": 1, "multivariate": True, "group": True, "constant_liar": True}
    return Searcher(build=lambda seed: TPESampler(seed=seed, **(own | settings)), by_branch=True)


def build_grouped_tpe(seed: int) -> BaseSampler:
    """Build the sampler of one branch for all modes at once; its start-up is used up by the first points."""
    return TPESampler(seed=seed, n_startup_trials=4, multivariate=True, group=True)


def build_gp(seed: int) -> BaseSampler:
    """Build Optuna's Gaussian process; where knobs are not shared by all trials, TPE draws them."""
    return GPSampler(seed=seed, n_startup_trials=1, independent_sampler=build_grouped_tpe(seed))


def build_cma_es(seed: int) -> BaseSampler:
    """Build Optuna's CMA-ES, which needs the package `cmaes`; choices are drawn at random."""
    at_random = RandomSampler(seed=seed)
    return CmaEsSampler(seed=seed, n_startup_trials=1, independent_sampler=at_random, warn_independent_sampling=False)


SEARCHERS = {
    "random, asha": Searcher({"sampler": "random"}),
    "Optuna's TPE, asha": Searcher(build=lambda seed: TPESampler(seed=seed)),
    "TPE over all modes, asha": Searcher(build=build_grouped_tpe),
    "tpe, asha": Searcher(),
    "tpe, asha 1/4": Searcher({"reduction_factor": 4}),
    "tpe, asha from 15%": Searcher({"grace_fraction": 0.15}),
    "tpe, hyperband": Searcher({"scheduler": "hyperband"}),
    "tpe, median": Searcher({"scheduler": "median"}),
    "tpe, none": Searcher({"scheduler": "none"}),
    "tpe of Optuna, multivariate=False": use_tpe(multivariate=False, group=False),
    "tpe of Optuna, group=False": use_tpe(group=False),
    "tpe of Optuna, constant_liar=False": use_tpe(constant_liar=False),
    "tpe of Optuna, n_startup_trials=5": use_tpe(n_startup_trials=5),
    "tpe of Optuna, n_ei_candidates=8": use_tpe(n_ei_candidates=8),
    "tpe of Optuna, n_ei_candidates=100": use_tpe(n_ei_candidates=100),
    "CMA-ES in each mode": Searcher(build=build_cma_es, by_branch=True),
}
SLOW_SEARCHERS = {
    "GP in each mode": Searcher(build=build_gp, by_branch=True),
    "GP over all modes": Searcher(build=build_gp),
}
"""Replayed with `--slow`, some seconds a search."""


@dataclass
class SamplerSource:
    """Trials as the space's sampler proposes them."""

    space: SearchSpace
    table: Table
    history: list[optuna.trial.FrozenTrial] = field(default_factory=list)
    tried: set[TrialConfig] = field(default_factory=set)

    def propose(self) -> TrialRecord:
        """Draw the next point."""
        return build_proposal(self.space, len(self.history), self.history, self.tried)

    def next(self) -> RecordedTrial:
        """Propose the next trial, known to the sampler as running."""
        proposal = self.propose()
        self.tried.add(proposal.config)
        distributions = {
            name: json_to_distribution(own.model_dump_json()) for name, own in proposal.distributions.items()
        }
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


@dataclass
class OptunaSource(SamplerSource):
    """Trials as one of Optuna's samplers proposes them after the first points, each mode's random draws aside.

    By branch, a best trial is lengthened as by the space's own rule. A stopped trial counts with its best score so far:
    samplers other than TPE would know nothing of it.
    """

    searcher: Searcher = field(kw_only=True)
    studies: dict[str, optuna.Study] = field(default_factory=dict)
    asked: list[tuple[optuna.Study, optuna.Trial]] = field(default_factory=list)

    def propose(self) -> TrialRecord:
        """Draw the next point."""
        number, space = len(self.history), self.space
        seed, given, at_random = 1000 * space.seed + number, dict[str, Any](), False
        if number < len(space.first_points):
            given, at_random = encode_point(space, space.first_points[number]), True
        elif self.searcher.by_branch:
            given["freeze"], at_random = choose_branch(space, "freeze", self.history)
            if not at_random:
                of_branch = [trial for trial in self.history if trial.params["freeze"] == given["freeze"]]
                given = lengthen_best(of_branch) or given
        branch = given["freeze"] if self.searcher.by_branch else "all"
        if branch not in self.studies:
            assert self.searcher.build is not None
            sampler = self.searcher.build(seed)
            self.studies[branch] = optuna.create_study(direction="maximize", sampler=sampler)
        study = self.studies[branch]
        if given:
            study.enqueue_trial(given)
        own = study.sampler
        study.sampler = RandomSampler(seed=seed) if at_random else own
        trial = study.ask()
        point = propose(space, trial)
        study.sampler = own
        self.asked.append((study, trial))
        return build_record(space, number, point, trial)

    def finish(self, number: int, curve: dict[int, float], *, is_pruned: bool) -> None:
        """Tell the sampler how a trial ended."""
        super().finish(number, curve, is_pruned=is_pruned)
        study, trial = self.asked[number]
        study.tell(trial, max(curve.values()))


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
