"""Scores of each row of the test table, and of the rows together: intervals, facts, comparisons, seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

from medcap_core.data.grouping import list_subgroups
from medcap_core.data.images import RecordImages
from medcap_core.data.prepare import PreparedSplit
from medcap_core.data.records import Record
from medcap_core.inference.generation import compute_variety
from medcap_core.scoring.captions import CaptionScorer
from medcap_core.scoring.corpus_statistics import CaptionStatistics
from medcap_core.scoring.facts import check_concepts, check_facts, compute_precision_recall, has_facts
from medcap_core.scoring.statistics import (
    FloatArray,
    IntArray,
    compare_paired,
    compute_interval,
    correct_by_holm,
    number_units,
    resample_sums,
    summarise_seeds,
)
from sweep.study.test_results import (
    CaptionVariety,
    Comparison,
    ConceptScore,
    FactScore,
    Group,
    Interval,
    Scores,
    SeedScore,
    Subgroups,
    SubgroupScore,
)

COMPARED_METRIC = "CIDEr"
MIN_SUBGROUP_IMAGES = 10

Column: TypeAlias = "pd.Series[float]"
"""`COMPARED_METRIC` of each image, by its id."""
Cases = Mapping[str, str | None]
"""The case of each image, by its id."""


@dataclass(frozen=True)
class CaptionScore:
    """One row: scores and intervals by metric, facts (phantoms), concepts (ROCOv2), and scores of each image.

    `statistics` is what scores of a part of the images follow from, `subgroups` those where they are wanted.

    `per_image` has the columns `id`, `METEOR`, `ROUGE-L`, `CIDEr` and the extra scores.
    """

    scores: Scores
    intervals: dict[str, Interval]
    facts: dict[str, FactScore] | None
    concepts: ConceptScore | None
    per_image: pd.DataFrame
    variety: CaptionVariety
    statistics: CaptionStatistics
    subgroups: Subgroups | None = None


def score_captions(
    split: PreparedSplit, captions: list[str], scorer: CaptionScorer, concept_names: Mapping[str, str], seed: int
) -> CaptionScore:
    """Score one row's captions of `split`, with intervals.

    Every row of a run is resampled by the same draws. With fewer than two cases nothing can be said of the spread:
    there are no intervals then.
    """
    units = number_units([record.case for record in split.records])
    has_images = split.records[0].noun == Record.noun
    scored = scorer.score(captions, RecordImages(split.records) if has_images else ())
    intervals = _compute_intervals(scored.statistics, scored.statistics.stack(), units, seed)
    return CaptionScore(
        scores=scored.scores,
        intervals={name: intervals[name] for name in scored.scores if name in intervals},
        facts=_score_facts(split, captions, units, seed),
        concepts=_score_concepts(split, captions, concept_names, units, seed),
        per_image=pd.DataFrame({"id": split.ids, **scored.statistics.score_each()}),
        variety=CaptionVariety(**asdict(compute_variety(captions))),
        statistics=scored.statistics,
    )


def score_subgroups(split: PreparedSplit, statistics: CaptionStatistics, seed: int) -> Subgroups:
    """Score the images of each subgroup that the data name, with intervals; those of few images are left out."""
    stacked = statistics.stack()
    found: Subgroups = {}
    for kind, values in list_subgroups(split.records).items():
        for value in dict.fromkeys(value for own in values for value in own):
            places = [place for place, own in enumerate(values) if value in own]
            if len(places) < MIN_SUBGROUP_IMAGES:
                continue
            own, units = stacked[places], number_units([split.records[place].case for place in places])
            scores = statistics.score_sums(own.sum(axis=0), np.array(float(len(places))))
            found.setdefault(kind, {})[value] = SubgroupScore(
                num_images=len(places),
                scores={name: float(score) for name, score in scores.items()},
                intervals=_compute_intervals(statistics, own, units, seed),
            )
    return found


def _compute_intervals(
    statistics: CaptionStatistics, stacked: FloatArray, units: IntArray, seed: int
) -> dict[str, Interval]:
    """Compute the interval of each score of the images `stacked` (N, K); none where all are of one unit."""
    if units.max() == 0:
        return {}
    resampled = statistics.score_sums(*resample_sums(stacked, units, seed=seed))
    return {name: compute_interval(values) for name, values in resampled.items()}


def _score_facts(split: PreparedSplit, captions: list[str], units: IntArray, seed: int) -> dict[str, FactScore] | None:
    if not has_facts(split.records):
        return None
    scores = {}
    for fact, checks in check_facts(split.records, captions).items():
        right_and_all = np.column_stack([checks.is_right & checks.applies, checks.applies]).astype(float)
        num_right, num_images = right_and_all.sum(axis=0)
        if num_images:
            sums, _ = resample_sums(right_and_all, units, seed=seed)
            interval = compute_interval(sums[:, 0] / np.maximum(sums[:, 1], 1))
            accuracy = float(num_right / num_images)
            scores[fact] = FactScore(accuracy=accuracy, interval=interval, num_images=int(num_images))
    return scores


def _score_concepts(
    split: PreparedSplit, captions: list[str], names: Mapping[str, str], units: IntArray, seed: int
) -> ConceptScore | None:
    counts = check_concepts(split.records, captions, names) if names else None
    if counts is None:
        return None
    sums, _ = resample_sums(counts, units, seed=seed)
    return ConceptScore(
        **{name: float(value) for name, value in compute_precision_recall(counts.sum(axis=0)).items()},
        interval=compute_interval(compute_precision_recall(sums)["f1"]),
        num_images=int((counts[:, 2] > 0).sum()),
    )


def take_metric(per_image: Mapping[str, pd.DataFrame]) -> dict[str, Column]:
    """Take the score that is compared out of the scores of each row's images."""
    return {row: pd.Series(table[COMPARED_METRIC].tolist(), table["id"]) for row, table in per_image.items()}


def average_trials(columns: Mapping[str, Column], groups: Mapping[str, Sequence[str]]) -> dict[str, Column]:
    """Average the trials of each group by image; groups that share no images are left out."""
    return {
        label: pd.Series(np.mean([columns[trial] for trial in trials], axis=0).tolist(), columns[trials[0]].index)
        for label, trials in groups.items()
        if all(columns[trial].index.equals(columns[trials[0]].index) for trial in trials)
    }


def compare_rows(
    columns: Mapping[str, Column],
    means: Mapping[str, Column],
    cases: Cases,
    *,
    baseline: str,
    aliases: Mapping[str, str],
    seed: int,
) -> tuple[dict[str, Comparison], dict[str, Comparison]]:
    """Compare each row, and each group by the mean over its trials, with `baseline`: a row or a group.

    Rows and groups are two families of tests, each corrected for its own number by Holm. A row that has the baseline's
    score for every image is no test and counts in no family; a row that is another under a second name (`aliases`)
    counts once. Rows of other images than the baseline's are left out.
    """
    expected = columns[baseline] if baseline in columns else means[baseline]

    def test(family: Mapping[str, Column]) -> dict[str, Comparison]:
        others = {name: own for name, own in family.items() if own is not expected and own.index.equals(expected.index)}
        return _test_family({name: own - expected for name, own in others.items()}, aliases, cases, seed)

    return test(columns), test(means)


def compare_with_blind(
    columns: Mapping[str, Column], best: str, blind: Sequence[str], cases: Cases, seed: int
) -> dict[str, Comparison]:
    """Compare a row with each of the rows `blind`, by that row."""
    own = columns[best]
    others = {row: columns[row] for row in blind if row in columns and columns[row].index.equals(own.index)}
    return _test_family({row: own - other for row, other in others.items()}, {}, cases, seed)


def _test_family(
    differences: Mapping[str, Column], aliases: Mapping[str, str], cases: Cases, seed: int
) -> dict[str, Comparison]:
    """Test differences on the same images; none are tested where all images are of one case."""
    units = number_units([cases.get(image) for column in list(differences.values())[:1] for image in column.index])
    if units.max(initial=0) == 0:
        return {}
    compared = compare_paired(
        {name: np.asarray(column, np.float64) for name, column in differences.items()}, units, seed=seed
    )
    tested = {
        name: found.p_value
        for name, found in compared.items()
        if differences[name].any() and aliases.get(name) not in differences
    }
    adjusted = correct_by_holm(tested)
    return {
        name: Comparison(p_adjusted=adjusted.get(aliases.get(name, name), found.p_value), **asdict(found))
        for name, found in compared.items()
    }


def score_group(
    label: str, trials: Sequence[str], scores: Mapping[str, Scores], mean: "Column | None", cases: Cases, seed: int
) -> Group:
    """Score one config under several seeds: mean and sample standard deviation over the seeds.

    The interval is over images, of the `mean` of these trials as they are; there is none where they share no images or
    all images are of one case.
    """
    over_seeds, intervals = {}, {}
    for metric in scores[trials[0]]:
        average, std = summarise_seeds([scores[trial][metric] for trial in trials])
        over_seeds[metric] = SeedScore(mean=average, std=std, num_seeds=len(trials))
    if mean is not None and (units := number_units([cases.get(image) for image in mean.index])).max() > 0:
        sums, num_images = resample_sums(np.asarray(mean, np.float64)[:, None], units, seed=seed)
        intervals[COMPARED_METRIC] = compute_interval(sums[:, 0] / num_images)
    return Group(label=label, trials=list(trials), scores=over_seeds, intervals=intervals)
