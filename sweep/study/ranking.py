"""Which trials of a run are best. One objective: the validation score of a trial's best epoch, by the run's metric."""

from collections.abc import Iterable

from sweep.study.record import TrialRecord, TrialState

NUM_CANDIDATES = 3
"""So many of the best trials keep their weights and are scored again on the whole validation split."""


def rank_by_search(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Trials that gave a model, best first by the search's own score.

    Pruned ones count, since their best epoch is kept too; failed and unfinished ones do not. Of equals, the one that
    trains fewer parameters comes first, then the earlier.
    """
    scored = [
        (-record.best_score, record.trainable_parameters or 0, record.number, record)
        for record in records
        if record.state in (TrialState.SUCCEEDED, TrialState.PRUNED) and record.best_score is not None
    ]
    return [record for *_, record in sorted(scored, key=lambda item: item[:3])]


def rank_for_choice(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Trials that gave a model, best first for the choice.

    The candidates are ordered by their score on the whole validation split once each of them has one (CIDEr on a capped
    subset is another figure, so the two are never compared); all others follow by the search's own.
    """
    ranked = rank_by_search(records)
    top, rest = ranked[:NUM_CANDIDATES], ranked[NUM_CANDIDATES:]
    rescored = [record.whole_validation_score for record in top if record.whole_validation_score is not None]
    if len(rescored) == len(top):
        top = [record for _, record in sorted(zip(rescored, top, strict=True), key=lambda pair: -pair[0])]
    return [*top, *rest]
