"""The table on subgroups of the test images: the best model's scores in each, beside the untrained model's."""

from sweep.study.results import RunResults
from sweep.tables.blocks import Column, Table
from sweep.tables.caption_tables import estimate
from sweep.tables.formats import Cell


def build_subgroup_table(results: RunResults) -> Table | None:
    """Build a row for each subgroup, the lowest CIDEr of a kind first; None where the data name no subgroup."""
    best = results.metrics.subgroups.get("best")
    if not best:
        return None
    base = results.metrics.subgroups.get("zero_shot", {})
    scored = {name for groups in best.values() for score in groups.values() for name in score.scores}
    names = [name for name in results.score_names if name in scored]
    names.sort(key=lambda name: name != "CIDEr")
    columns = (
        Column("kind", "Kind"),
        Column("value", "Subgroup"),
        Column("num_images", f"{results.noun.capitalize()}s", "count"),
        Column("CIDEr", "CIDEr", "score"),
        Column("zero_shot_CIDEr", "CIDEr, zero-shot", "score"),
        *(Column(name, name, "score") for name in names[1:]),
    )
    rows: list[dict[str, Cell]] = []
    for kind, groups in best.items():
        for value, score in sorted(groups.items(), key=lambda item: item[1].scores["CIDEr"]):
            rows.append({"kind": kind, "value": value, "num_images": score.num_images})
            rows[-1] |= {name: estimate(score.scores[name], score.intervals.get(name)) for name in names}
            if before := base.get(kind, {}).get(value):
                rows[-1]["zero_shot_CIDEr"] = estimate(before.scores["CIDEr"], before.intervals.get("CIDEr"))
    note = (
        "The best model's scores by subgroup, with 95% bootstrap intervals within it; CIDEr keeps the document "
        "frequencies of the whole test split. Subgroups were not chosen beforehand: of many some are low by chance."
    )
    title = "Scores by subgroup"
    return Table("subgroups", title, columns, tuple(rows), sortable=True, notes=(note,))
