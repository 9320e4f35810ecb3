"""Subgroups of records, as the data name them: modality, region, view, cohort, concept and the like."""

from collections import Counter
from collections.abc import Sequence

from medcap_core.data.records import Record
from medcap_core.data.scans.records import ScanRecord

MAX_VALUES = 20
"""Most values of a column that names subgroups, and most concepts."""
_COMPUTED = ("box", "concepts", "concept_names")
"""Labels that are no text, of which the box is drawn on access."""


def list_subgroups(records: Sequence[Record]) -> dict[str, list[tuple[str, ...]]]:
    """List the values of each record by kind: none, one, or several concepts.

    A kind is a text label of the records with 2 to `MAX_VALUES` values, their cohort, or their most frequent concepts
    (by name where the source has names).
    """
    kinds = dict.fromkeys(kind for record in records for kind in record.truth if kind not in _COMPUTED)
    found = {kind: [_as_values(record.truth.get(kind)) for record in records] for kind in kinds}
    found["cohort"] = [_as_values(record.cohort if isinstance(record, ScanRecord) else None) for record in records]
    found = {kind: own for kind, own in found.items() if 2 <= len(set().union(*own)) <= MAX_VALUES}
    concepts = []
    for truth in (record.truth for record in records):
        names = truth.get("concept_names", {})
        concepts.append(dict.fromkeys(names.get(concept, concept) for concept in truth.get("concepts", ())))
    frequent = {name for name, _ in Counter(name for own in concepts for name in own).most_common(MAX_VALUES)}
    if frequent:
        found["concept"] = [tuple(name for name in own if name in frequent) for own in concepts]
    return found


def _as_values(label: object) -> tuple[str, ...]:
    return (label.strip(),) if isinstance(label, str) and label.strip() else ()
