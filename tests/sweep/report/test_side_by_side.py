"""Captions side by side: what the page holds of them, and how it shows ten thousand in a real browser."""

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweep.report.side_by_side import build_side_by_side
from sweep.report.writing import write_report
from sweep.study.results import load_results
from sweep.study.study import Study
from sweep.tables.blocks import Captions
from tests.support.chromium import Browser, find_chromium, open_browser
from tests.support.reported_runs import fill, finish, make_finished
from tests.support.small_runs import Create, space

WORDS = "axial ct of the chest shows a small nodule in left right lower lobe no effusion".split()  # noqa: SIM905


def fill_captions(study: Study, num_images: int) -> Path:
    """A run with captions of two trials and the untrained model, their scores and the groups of the images."""
    directory, drawn = finish(study), random.Random(0)
    best, second = (record.name for record in load_results(directory).ranked[:2])

    def write(num_words: int) -> list[str]:
        return [" ".join(drawn.choices(WORDS, k=num_words)) for _ in range(num_images)]

    ids = [f"image-{number}" for number in range(num_images)]
    columns = {"reference": write(24), "prediction": write(18), "zero_shot": write(12)}
    columns["reference"][0], columns["prediction"][0] = "A nodule, left lobe.", "no nodule in left lung"
    pd.DataFrame({"id": ids, **columns}).to_csv(study.paths.predictions, index=False)
    for trial in (best, second):
        table = pd.DataFrame({"id": ids, "prediction": columns["prediction"] if trial == best else write(18)})
        table.to_csv(study.paths.trial(trial).predictions, index=False)
    study.paths.tables.mkdir(exist_ok=True)
    scores = [
        {"row": row, "id": name, "RadCliQ-v1": number, "CIDEr": drawn.random() if number else -1.0}
        for row in (best, second, "zero_shot")
        for number, name in enumerate(ids)
    ]
    pd.DataFrame(scores).to_csv(study.paths.image_scores, index=False)
    groups = {"modality": ["MR" if number % 4 == 3 else "CT" for number in range(num_images)]}
    groups["concept"] = ["nodule\nlung" if number % 2 else "" for number in range(num_images)]
    pd.DataFrame({"id": ids, **groups}).to_csv(study.paths.image_groups, index=False)
    return directory


def read_content(directory: Path) -> dict[str, Any]:
    (block,) = [b for b in build_side_by_side(load_results(directory), False) if isinstance(b, Captions)]
    content: dict[str, Any] = json.loads(block.content)
    return content


def test_leading_trials_stand_beside_the_untrained_model(create: Create) -> None:
    study = create(space(trials=3, scheduler="none", sampler="random", extra_scores=["radcliq"]))
    fill(study)
    directory = fill_captions(study, 5)
    content = read_content(directory)
    best, second, last = content["columns"]
    assert best.endswith("(best on validation)")
    assert (second != best, last) == (True, "zero-shot")
    assert content["texts"][0][0] == "no nodule in left lung"
    assert list(content["scores"]) == ["CIDEr", "RadCliQ-v1"]
    assert content["lower_is_better"] == ["RadCliQ-v1"]
    assert [own[0] for own in content["scores"]["CIDEr"]] == [-1, -1, -1]
    assert content["groups"]["modality"] == ["CT", "CT", "CT", "MR", "CT"]


def test_validation_captions_of_leading_trials_stand_where_one_trial_was_tested(create: Create) -> None:
    study = create(space(trials=3, scheduler="none", sampler="random"))
    fill(study)
    directory = finish(study)
    best, other = (record.name for record in load_results(directory).ranked[:2])
    parts = {other: ["a b", ""], best: ["a", "NA"], "zero_shot": ["x", "y"], "trial_0009": ["of", "others"]}
    rows = [
        {"row": row, "id": name, "reference": f"of {name}", "prediction": text, "CIDEr": len(text) / 4}
        for row, texts in parts.items()
        for name, text in zip(("v1", "v2"), texts, strict=True)
    ]
    pd.DataFrame(rows).to_csv(study.paths.validation_predictions, index=False)
    section = build_side_by_side(load_results(directory), False)
    test, validation = [block for block in section if isinstance(block, Captions)]
    assert (test.title, validation.title) == ("Captions of 3 test images", "Captions of 2 validation images")
    content = json.loads(validation.content)
    assert content["texts"] == [["a", "NA"], ["a b", ""], ["x", "y"]]
    assert content["scores"] == {"CIDEr": [[0.25, 0.5], [0.75, 0.0], [0.25, 0.25]]}
    assert content["columns"][0].endswith("(best on validation)")
    assert content["columns"][2] == "zero-shot"

    captions = pd.DataFrame({"id": ["a", "b", "c"], "prediction": ["x", "y", "z"]})
    captions.to_csv(study.paths.trial(other).predictions, index=False)  # now two trials stand beside each other
    (block,) = [b for b in build_side_by_side(load_results(directory), False) if isinstance(b, Captions)]
    assert block.name == "side-by-side-test"


def test_captions_without_scores_stand_in_the_order_of_the_data(create: Create) -> None:
    content = read_content(make_finished(create))
    assert (content["scores"], content["groups"]) == ({}, {})
    assert content["texts"] == [["a lung", "a heart", content["references"][2]], ["", "NA", content["references"][1]]]


@pytest.mark.slow
def test_ten_thousand_images_open_in_a_browser(create: Create, tmp_path: Path) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here; install Debian's package chromium")
    study = create(space(trials=3, scheduler="none", sampler="random", extra_scores=["radcliq"]))
    fill(study)
    pages = {}
    for num_images in (100, 10_000):
        pages[num_images] = tmp_path / f"{num_images}.html"
        shutil.copy(write_report(fill_captions(study, num_images), with_images=False), pages[num_images])
    with open_browser(program, tmp_path / "profile") as browser:
        browser.set_width(1400)
        rounds = [{num_images: open_page(browser, page) for num_images, page in pages.items()} for _ in range(5)]
        seconds = {num_images: min(found[num_images] for found in rounds) for num_images in pages}
        sys.stdout.write(f"seconds until a page of so many test images has loaded: {seconds}\n")
        assert seconds[10_000] < 4 * seconds[100] + 1
        assert browser.evaluate("document.getElementById('plotly').type") == "text/plain"  # run when all is there
        check_rows(browser)
        browser.evaluate("drawn")
        assert browser.told("Runtime.exceptionThrown") == []


def open_page(browser: Browser, page: Path) -> float:
    """Seconds from the request for a page until it has loaded, its scripts included."""
    browser.events.clear()
    browser.visit(page.as_uri())
    return browser.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000


def check_rows(browser: Browser) -> None:
    assert browser.evaluate("document.querySelector('output').textContent") == "1,000 of 10,000"
    assert browser.evaluate("[...document.querySelectorAll('tbody tr mark')].slice(0, 3).map(m => m.textContent)") == [
        "no",
        "in",
        "lung",
    ]
    num_rows = "document.querySelectorAll('#side-by-side-test tbody tr').length"
    first = browser.evaluate(num_rows)
    assert first < 100
    settle = "new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))"
    browser.evaluate("document.querySelector('#side-by-side-test .end').scrollIntoView()")
    browser.evaluate(settle)
    assert browser.evaluate(num_rows) > first
    choose = """((label, value) => {
        const found = [...document.querySelectorAll('.filters label')].find(l => l.textContent.startsWith(label));
        const control = found.querySelector('select, input');
        control.value = value;
        control.dispatchEvent(new Event('input'));
        return document.querySelector('output').textContent;
    })"""
    assert browser.evaluate(f"{choose}('Show', 'worst')") == "10,000 of 10,000"
    first_image = "document.querySelector('#side-by-side-test tbody tr').textContent.match(/image-\\d+/)[0]"
    assert browser.evaluate(first_image) == "image-0"
    browser.evaluate(f"{choose}('Score', 'RadCliQ-v1')")  # lower is better
    assert browser.evaluate(first_image) == "image-9999"
    browser.evaluate(f"{choose}('Show', 'best')")
    assert browser.evaluate(first_image) == "image-0"
    browser.evaluate(f"{choose}('Score', 'CIDEr')")
    assert browser.evaluate(f"{choose}('modality', 'MR')") == "2,500 of 10,000"
    assert browser.evaluate(f"{choose}('concept', 'lung')") == "2,500 of 10,000"
    assert browser.evaluate(f"{choose}('modality', 'CT')") == "2,500 of 10,000"
    assert browser.evaluate(f"{choose}('concept', '')") == "7,500 of 10,000"
    assert browser.evaluate(f"{choose}('to', '-0.5')") == "1 of 10,000"
    assert browser.evaluate(f"{choose}('Words', 'no such words')") == "0 of 10,000"
