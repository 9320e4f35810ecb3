"""Draws are nested and seeded; splits are cut by case."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medcap_core.data.records import ImageFile, Record, hash_records
from medcap_core.data.splits import cut_missing_splits, select_rows
from medcap_core.errors import DataFault


def build_records(count: int, case_size: int = 0, prefix: str = "r") -> list[Record]:
    return [
        Record(f"{prefix}{row}", ImageFile(Path(f"{row}.png")), "text", f"c{row // case_size}" if case_size else None)
        for row in range(count)
    ]


def ids(records: list[Record]) -> list[str]:
    return [record.id for record in records]


def test_draws_are_sorted_nested_and_of_the_asked_size() -> None:
    tenth = select_rows(1000, fraction=0.1, seed=3)
    half = select_rows(1000, fraction=0.5, seed=3)
    assert len(tenth) == 100
    assert len(half) == 500
    assert (np.diff(half) > 0).all()
    assert set(tenth.tolist()) < set(half.tolist())
    assert tenth.tolist() != list(range(100))
    assert select_rows(1000, fraction=0.1, seed=3).tolist() == tenth.tolist()
    assert select_rows(1000, fraction=0.1, seed=4).tolist() != tenth.tolist()


@pytest.mark.parametrize(
    ("num_records", "fraction", "cap", "expected"),
    [(7, 1.0, None, 7), (7, 0.01, None, 1), (7, 1.0, 3, 3), (0, 1.0, 5, 0)],
)
def test_size_of_a_draw(num_records: int, fraction: float, cap: int | None, expected: int) -> None:
    assert len(select_rows(num_records, fraction=fraction, cap=cap, seed=0)) == expected


def test_a_cap_takes_the_head_of_the_same_permutation() -> None:
    assert set(select_rows(50, cap=5, seed=1).tolist()) < set(select_rows(50, fraction=0.5, seed=1).tolist())


def test_complete_sources_are_left_alone() -> None:
    splits = {"train": build_records(3), "validation": build_records(2), "test": build_records(1)}
    complete, notes = cut_missing_splits(splits, seed=0, where="x")
    assert complete == splits
    assert notes == []


def test_a_missing_validation_split_is_a_tenth_of_train() -> None:
    train = build_records(40)
    complete, notes = cut_missing_splits({"train": train, "test": build_records(5, prefix="t")}, seed=0, where="x")
    assert [len(part) for part in complete.values()] == [36, 4, 5]
    assert sorted(ids(complete["train"]) + ids(complete["validation"])) == sorted(ids(train))
    assert ids(complete["train"]) == [name for name in ids(train) if name in set(ids(complete["train"]))]
    assert notes == ["There is no validation split: 4 images were cut from train, image by image, by seed 0."]
    other, _ = cut_missing_splits({"train": train, "test": []}, seed=1, where="x")
    assert ids(other["validation"]) != ids(complete["validation"])


def test_a_small_source_still_gets_two_images_a_split() -> None:
    complete, _ = cut_missing_splits({"train": build_records(6)}, seed=0, where="x")
    assert [len(part) for part in complete.values()] == [2, 2, 2]


def test_whole_cases_are_cut() -> None:
    complete, notes = cut_missing_splits({"train": build_records(60, case_size=3)}, seed=0, where="x")
    cases = [{record.case for record in part} for part in complete.values()]
    assert sum(map(len, cases)) == len(set.union(*cases))
    assert [len(part) for part in complete.values()] == [48, 6, 6]
    assert all("by whole cases" in note for note in notes)


def test_without_cases_equal_images_and_equal_captions_stay_together(tmp_path: Path) -> None:
    records = []
    for row in range(60):
        path = tmp_path / f"{row}.png"
        path.write_bytes(f"image {row // 2 if row < 20 else row:05d}".encode())
        caption = f"{row // 4}" if 20 <= row < 40 else f"row {row}"
        records.append(Record(f"r{row}", ImageFile(path), caption))
    for seed in range(5):
        complete, notes = cut_missing_splits({"train": records}, seed=seed, where="x")
        assert all("by equal images and equal captions, by seed" in note for note in notes)
        rows = [{int(record.id[1:]) for record in part} for part in complete.values()]
        groups = [{row // 2 if row < 20 else 100 + row // 4 for row in part if row < 40} for part in rows]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 15


def test_a_stock_phrase_ties_no_images_together() -> None:
    captions = [f"{row}" if row < 60 else "Normal." for row in range(90)]
    records = [replace(record, caption=caption) for record, caption in zip(build_records(90), captions, strict=True)]
    complete, notes = cut_missing_splits({"train": records}, seed=0, where="x")
    assert all({record.caption == "Normal." for record in part} == {True, False} for part in complete.values())
    assert all("image by image" in note for note in notes)


def test_a_huge_case_stays_in_train() -> None:
    huge = [Record(f"h{row}", ImageFile(Path("x")), "text", "huge") for row in range(60)]
    for seed in range(5):
        complete, _ = cut_missing_splits({"train": huge + build_records(20, case_size=2)}, seed=seed, where="x")
        assert [len(part) for part in complete.values()] == [64, 8, 8]


def test_a_single_split_of_any_name_is_taken_as_train() -> None:
    complete, notes = cut_missing_splits({"test": build_records(30)}, seed=0, where="x")
    assert [len(part) for part in complete.values()] == [24, 3, 3]
    assert notes[0] == "The only split is 'test'; it is taken as the training split."


def test_nothing_to_cut_from_is_a_fault() -> None:
    with pytest.raises(DataFault, match="cannot be cut from 3 training images"):
        cut_missing_splits({"train": build_records(3)}, seed=0, where="x")
    with pytest.raises(DataFault, match="of 1 cases"):
        cut_missing_splits({"train": build_records(50, case_size=50)}, seed=0, where="x")
    with pytest.raises(DataFault, match=r"no training split was found \(splits found: validation, test\)"):
        cut_missing_splits({"validation": build_records(9), "test": build_records(9)}, seed=0, where="x")


def test_a_hash_tells_records_texts_and_order_apart_but_not_where_images_lie() -> None:
    first, second = (Record(name, ImageFile(Path(name)), "a nodule", "c1") for name in ("a", "b"))
    whole = hash_records([first, second])
    assert hash_records([replace(first, image=ImageFile(Path("/moved/a"))), second]) == whole
    changed = [replace(first, caption="none"), replace(first, case=None)]
    others = [[second, first], [first], [], *([other, second] for other in changed)]
    assert len({whole, *map(hash_records, others)}) == 6
