"""The synthetic data set: the same numbers draw the same images, and captions say what is drawn."""

import pickle
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from medcap_core.data.phantoms import PhantomImage, load_phantoms
from medcap_core.data.phantoms.findings import FINDINGS, Spot
from medcap_core.data.phantoms.scenes import SCENES, Domain, Plan, build_layout, draw_cover
from medcap_core.data.phantoms.source import compute_box
from medcap_core.data.phantoms.wording import REGISTERS, cut_article
from medcap_core.data.records import Dataset, Record

DOMAINS: tuple[Domain, ...] = ("general", "target")

# Where a finding's centroid may lie, as shares of the image height, by view and level.
LEVEL_BANDS = {
    "chest": {"upper": (0.18, 0.43), "middle": (0.38, 0.57), "lower": (0.54, 0.77)},
    "ct_chest": {"anterior": (0.27, 0.46), "posterior": (0.52, 0.72)},
    "ct_abdomen": {"anterior": (0.43, 0.605), "posterior": (0.595, 0.76)},
    "ct_head": {"frontal": (0.21, 0.41), "parietal": (0.41, 0.59), "occipital": (0.60, 0.80)},
    "us_liver": {"superficial": (0.30, 0.49), "deep": (0.56, 0.74)},
    "us_thyroid": {"superficial": (0.30, 0.44), "deep": (0.46, 0.60)},
}
LEVEL_BANDS["mri"] = LEVEL_BANDS["ct_head"]


@pytest.fixture(scope="module", params=DOMAINS)
def dataset(request: pytest.FixtureRequest) -> Dataset:
    return load_phantoms(request.param, {"train": 700, "validation": 23, "test": 31})


def abnormal(dataset: Dataset) -> list[Record]:
    return [record for record in dataset.splits["train"] if not record.truth["normal"]]


def words_of(caption: str) -> list[str]:
    return re.findall(r"\w+", caption.lower())


def test_same_numbers_draw_the_same_bytes_and_others_do_not() -> None:
    image = PhantomImage("target", 3, "train", 17)
    first = image.open()
    assert (first.mode, first.size) == ("L", (128, 128))
    assert pickle.loads(pickle.dumps(image)).open().tobytes() == first.tobytes()
    for change in ({"index": 18}, {"seed": 4}, {"split": "test"}, {"domain": "general"}):
        other = replace(image, **change)
        assert other.open().tobytes() != first.tobytes()
        assert other.fingerprint() != image.fingerprint()


def test_loading_twice_gives_the_same_records() -> None:
    first, second = (load_phantoms("target", {"train": 40, "validation": 5, "test": 7}, seed=2) for _ in range(2))
    assert first == second
    assert [r.truth for r in first.splits["train"]] == [r.truth for r in second.splits["train"]]
    assert first.splits != load_phantoms("target", {"train": 40, "validation": 5, "test": 7}, seed=3).splits


def test_one_splits_size_leaves_the_others_as_they_are() -> None:
    small = load_phantoms("target", {"train": 5, "validation": 6, "test": 7})
    large = load_phantoms("target", {"train": 50, "validation": 6, "test": 9})
    assert small.splits["validation"] == large.splits["validation"]
    assert large.splits["test"][:7] == small.splits["test"]
    assert large.splits["train"][:5] == small.splits["train"]


def test_default_sizes_and_plain_words_about_their_kind() -> None:
    dataset = load_phantoms()
    assert [len(records) for records in dataset.splits.values()] == [1200, 200, 300]
    assert (dataset.name, "synthetic" in dataset.kind) == ("phantoms", True)


def test_nobody_is_in_two_splits_and_some_have_two_images(dataset: Dataset) -> None:
    cases = {split: [record.case for record in records] for split, records in dataset.splits.items()}
    assert sum(len(set(own)) for own in cases.values()) == len(set().union(*cases.values()))
    assert Counter(Counter(cases["train"]).values()) == {1: 546, 2: 77}
    ids = [record.id for records in dataset.splits.values() for record in records]
    assert len(ids) == len(set(ids))


def test_two_images_of_a_patient_share_the_facts_but_no_pixels(dataset: Dataset) -> None:
    first, second = dataset.splits["train"][7:9]
    assert first.case == second.case
    assert {**first.truth, "box": None} == {**second.truth, "box": None}
    assert first.image.open().tobytes() != second.image.open().tobytes()


def test_findings_lie_on_the_side_and_level_that_are_named(dataset: Dataset) -> None:
    seen = set()
    for record in abnormal(dataset):
        truth = record.truth
        rows, columns = np.nonzero(record.image.mask())
        x, y = (columns.mean() + 0.5) / 128, (rows.mean() + 0.5) / 128
        assert (x < 0.45) if truth["side"] == "right" else (x > 0.55), record.id  # radiological convention
        bands = next(bands for view, bands in LEVEL_BANDS.items() if truth["view"].startswith(view))
        low, high = bands[truth["level"]]
        assert low < y < high, record.id
        seen.add((truth["view"], truth["finding"]))
    scenes = SCENES[dataset.splits["train"][0].image.domain]
    assert seen == {(scene.view, finding) for scene in scenes for finding in scene.findings}


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_finding_is_painted_where_its_mask_lies(domain: Domain) -> None:
    for record in abnormal(load_phantoms(domain, {"train": 150})):
        layout, mask = build_layout(record.image), record.image.mask()
        cover = draw_cover(record.image, layout)
        assert cover is not None
        assert layout.location is not None
        changes = []
        for background in (0.1, 0.8):
            canvas = np.full_like(cover, background)
            rng = np.random.default_rng(0)
            FINDINGS[record.truth["finding"]].paint(Spot(canvas, layout.frame, cover, layout.location, 1.0, rng))
            changes.append(np.abs(canvas - np.float32(background)))
        change = np.maximum(*changes)
        assert change[mask].mean() > 0.1, record.id
        assert change[mask].mean() > 4 * change[~mask].mean(), record.id


def test_larger_words_mean_larger_findings(dataset: Dataset) -> None:
    areas: dict[tuple[str, str], list[int]] = {}
    for record in abnormal(dataset):
        areas.setdefault((record.truth["finding"], record.truth["size"]), []).append(int(record.image.mask().sum()))
    for finding in {name for name, _ in areas}:
        small, moderate, large = (np.median(areas[finding, size]) for size in ("small", "moderate", "large"))
        assert small * 1.1 < moderate, finding
        assert moderate * 1.1 < large, finding


def test_boxes_enclose_masks(dataset: Dataset) -> None:
    for record in abnormal(dataset)[:50]:
        x0, y0, x1, y1 = (round(share * 128) for share in record.truth["box"])
        mask = record.image.mask()
        assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
        assert all(line.any() for line in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))


def test_box_of_a_mask_worked_out_by_hand() -> None:
    mask = np.zeros((8, 4), dtype=bool)
    assert compute_box(mask) is None
    mask[2:5, 1] = True
    assert compute_box(mask) == (0.25, 0.25, 0.5, 0.625)


def test_normal_images_have_no_finding(dataset: Dataset) -> None:
    records = dataset.splits["train"]
    normal = [record for record in records if record.truth["normal"]]
    assert 0.13 < len(normal) / len(records) < 0.23
    for record in normal:
        assert not record.image.mask().any()
        assert all(record.truth[fact] is None for fact in ("finding", "side", "level", "size", "size_mm", "box"))
        assert not {"right", "left"} & set(words_of(record.caption))


def list_fact_wordings(domain: Domain, plan: Plan) -> dict[str, set[str]]:
    """List, for each fact of an abnormal image, the phrases (without article) of which its caption holds one."""
    if plan.finding is None or plan.side is None or plan.level is None or plan.size is None:
        return {}
    wordings: dict[str, set[str]] = {"finding": set(), "side": {plan.side}, "level": set(), "size": set()}
    for register in REGISTERS[domain]:
        wordings["finding"].update(cut_article(noun) for noun in register.findings[plan.finding])
        wordings["level"].update(register.styles[plan.view].levels[plan.level])
        wordings["size"].update(register.sizes[plan.size])
    return wordings


def test_captions_hold_their_facts(dataset: Dataset) -> None:
    for record in dataset.splits["train"]:
        longest = 25 if record.id.startswith("phantom-target") else 36  # an aside may follow in the general domain
        assert 8 <= len(words_of(record.caption)) <= longest, record.caption
        assert "{" not in record.caption
        assert "  " not in record.caption
        truth = record.truth
        plan = Plan(truth["view"], truth["finding"], truth["side"], truth["level"], truth["size"])
        padded = f" {' '.join(words_of(record.caption))} "
        for fact, wordings in list_fact_wordings(record.image.domain, plan).items():
            assert any(f" {' '.join(words_of(wording))} " in padded for wording in wordings), (fact, record.caption)
        if not truth["normal"]:
            other = {"right": "left", "left": "right"}[truth["side"]]
            assert other not in words_of(record.caption)


def test_every_kind_of_view_has_several_wordings(dataset: Dataset) -> None:
    wordings: dict[tuple[str, ...], set[str]] = {}
    for record in dataset.splits["train"]:
        truth = record.truth
        key = tuple(str(truth[fact]) for fact in ("view", "finding", "side", "level", "size"))
        wordings.setdefault(key, set()).add(record.caption)
    for view in {key[0] for key in wordings}:
        assert max(len(captions) for key, captions in wordings.items() if key[0] == view) >= 4, view


def test_the_target_domain_shows_what_the_general_one_does_not() -> None:
    general, target = ({(s.view, f) for s in SCENES[domain] for f in s.findings} for domain in DOMAINS)
    assert not general & target
    findings = [{finding for _, finding in pairs} for pairs in (general, target)]
    assert findings[0] & findings[1] == {"nodule"}
    views = [{view for view, _ in pairs} for pairs in (general, target)]
    assert views[0] & views[1] == {"ct_chest"}
    assert views[1] - views[0] == {"chest_ap", "ct_abdomen_contrast", "ct_head", "mri_flair", "us_thyroid"}
    modalities = {record.truth["modality"] for record in load_phantoms(sizes={"train": 60}).splits["train"]}
    assert modalities == {"radiograph", "CT", "MRI", "ultrasound"}


def test_the_two_domains_are_worded_differently() -> None:
    def count_four_grams(domain: Domain) -> Counter[tuple[str, ...]]:
        counts: Counter[tuple[str, ...]] = Counter()
        for record in load_phantoms(domain, {"train": 1500}).splits["train"]:
            words = words_of(record.caption)
            counts.update(zip(*(words[start:] for start in range(4)), strict=False))
        return counts

    general, target = count_four_grams("general"), count_four_grams("target")
    shared = sum(count for gram, count in target.items() if gram in general)
    # The asides of the general domain deny the target's findings, by their names and little else.
    assert shared / target.total() < 0.15
