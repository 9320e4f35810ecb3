"""Ranking of trials by the objective: the validation score of a trial's best epoch."""

from collections.abc import Iterable

from sweep.study.record import TrialRecord, TrialState

_STATES_WITH_A_MODEL = (TrialState.SUCCEEDED, TrialState.PRUNED, TrialState.STOPPED)
NUM_CANDIDATES = 3
"""Number of best trials that keep their weights and are scored again on the whole validation split."""


def rank_by_search(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Rank the trials with a model by the score of the search, best first.

    Pruned and stopped trials count, since their best epoch is kept too; failed and running ones do not. Ties are broken
    by fewer trainable parameters, then by the earlier trial.
    """
    scored = [
        (-record.objective.rank(record.best_score), record.trainable_parameters or 0, record.number, record)
        for record in records
        if record.state in _STATES_WITH_A_MODEL and record.best_score is not None
    ]
    return [record for *_, record in sorted(scored, key=lambda item: item[:3])]


def rank_for_choice(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Rank the trials with a model for the choice of the best, best first.

    The candidates are ranked by their score on the whole validation split once each has one (CIDEr on a capped subset
    is not comparable); all others follow by the score of the search.
    """
    ranked = rank_by_search(records)
    top, rest = ranked[:NUM_CANDIDATES], ranked[NUM_CANDIDATES:]
    if all(record.whole_validation_score is not None for record in top):
        top.sort(key=lambda record: -record.objective.rank(record.whole_validation_score))
    return [*top, *rest]
