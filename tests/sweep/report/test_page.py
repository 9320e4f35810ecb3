"""The page of a report: it is whole in itself, nothing in it is markup by chance, and it works in a real browser."""

import json
import re
from pathlib import Path

import pytest

from medcap_core.config import FreezeMode
from sweep.report.style import FREEZE_COLOURS, GREY, PALETTE
from tests.support import REPOSITORY
from tests.support.chromium import Browser, find_chromium, open_browser
from tests.support.reported_runs import HOSTILE, Page


def test_text_of_the_run_is_never_markup(reported: tuple[Path, Page]) -> None:
    directory, page = reported
    scripts = [found for tag, found in page.elements if tag == "script"]
    assert len(scripts) == len(page.plots()) + 3  # a figure each, the captions, plotly and the page's own
    assert HOSTILE in page.text
    assert not [tag for tag, _ in page.elements if tag == "b"]
    markdown = (directory / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in markdown.replace("\\<script\\>", "")
    head, row = [line for line in markdown.splitlines() if line.startswith(("| Rank", "| - | trial_0001"))]
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", head))


def test_nothing_on_the_page_is_loaded_from_elsewhere(reported: tuple[Path, Page]) -> None:
    _, page = reported
    names = ("src", "href", "srcset", "action")
    addresses = [str(found[name]) for _, found in page.elements for name in names if name in found]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    (policy,) = [str(found["content"]) for tag, found in page.elements if found.get("http-equiv")]
    assert policy.startswith("default-src 'none'")


def test_every_plot_and_picture_has_an_alternative_and_a_table(reported: tuple[Path, Page]) -> None:
    _, page = reported
    tables = {found["id"] for tag, found in page.elements if tag == "table"}
    addresses = {str(found.get("href")) for tag, found in page.elements if tag == "a"}
    assert {address[1:] for address in addresses if "table-" in address} <= tables
    assert "table-importances" in tables
    for _, found in page.elements:
        if found.get("class") == "plot":
            assert found["role"] == "img"
            assert len(str(found["aria-label"])) > 30


def test_every_freeze_mode_has_a_colour_of_its_own() -> None:
    assert set(FREEZE_COLOURS) == set(FreezeMode)
    assert len(set(FREEZE_COLOURS.values())) == len(FreezeMode)


@pytest.mark.parametrize("paper", ["#ffffff", "#14181d"])
def test_colours_stand_out_from_light_and_dark_paper(paper: str) -> None:
    for colour in {*PALETTE, *FREEZE_COLOURS.values(), GREY}:
        assert contrast(colour, paper) >= 3, colour


def test_text_stands_out_from_its_ground() -> None:
    style = (REPOSITORY / "sweep" / "report" / "assets" / "report.css").read_text("utf-8")
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("@media")[:2])
    for theme in (light, dark):
        for ink in ("ink", "quiet", "link", "warning"):
            for ground in ("paper", "raised", "best"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours #rrggbb."""

    def luminance(colour: str) -> float:
        parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_page_works_in_a_browser(reported: tuple[Path, Page], tmp_path: Path) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here; install Debian's package chromium")
    directory, page = reported
    path, num_plots = directory / "report.html", len(page.plots())
    with open_browser(program, tmp_path / "profile") as browser:
        for width in (1400, 400):
            browser.events.clear()
            browser.set_width(width)
            browser.visit(path.as_uri())
            browser.evaluate("drawn")
            assert browser.told("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled") == []
            requests = [event["request"]["url"] for event in browser.told("Network.requestWillBeSent")]
            assert {address.partition(":")[0] for address in requests} <= {"file", "data", "blob"}
            drawn = browser.evaluate(
                "[...document.querySelectorAll('.plot')].filter(p => p.querySelector('svg .trace, svg .bars')).length"
            )
            assert drawn == num_plots
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
            places = "document.querySelectorAll('#side-by-side-test tbody tr:first-child td')"
            tops = browser.evaluate(f"[...{places}].map(cell => cell.getBoundingClientRect().top)")
            assert (len(set(tops)) == 1) is (width == 1400)  # a caption below its reference on a narrow screen
        check_sorting(browser)
        check_saving(browser, tmp_path)
        assert browser.evaluate("[...document.querySelectorAll('#side-by-side-test mark')].map(m => m.textContent)")[
            :2
        ] == ["a", "heart"]


def check_saving(browser: Browser, folder: Path) -> None:
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.evaluate("document.querySelector('[data-plot=test-scores]').click()")
    while not any(event["state"] == "completed" for event in browser.told("Page.downloadProgress")):
        browser.call("Page.enable")  # reads what the browser has told meanwhile
    assert "best model" in (folder / "test-scores.svg").read_text(encoding="utf-8")


def check_sorting(browser: Browser) -> None:
    before = column_of(browser, "CIDEr, validation")
    numbers = [float(value) for value in before if value]
    assert numbers == sorted(numbers, reverse=True)
    browser.evaluate(press("CIDEr, validation"))
    assert column_of(browser, "CIDEr, validation") == before  # the highest first at the first press
    browser.evaluate(press("CIDEr, validation"))
    assert column_of(browser, "CIDEr, validation") == [*sorted(filter(None, before), key=float), ""]
    assert browser.evaluate(f"{header('CIDEr, validation')}.getAttribute('aria-sort')") == "ascending"
    browser.evaluate(press("Trial"))
    assert column_of(browser, "Trial") == [f"trial_{number:04d}" for number in range(12)]
    assert browser.evaluate("document.querySelectorAll('#table-leaderboard [aria-sort]').length") == 1


def header(title: str) -> str:
    return f"[...document.querySelectorAll('#table-leaderboard th')].find(h => h.textContent === {json.dumps(title)})"


def press(title: str) -> str:
    return f"{header(title)}.querySelector('button').click()"


def column_of(browser: Browser, title: str) -> list[str]:
    script = f"""(() => {{
        const column = {header(title)}.cellIndex;
        return [...document.querySelectorAll('#table-leaderboard tbody tr')].map(r => r.cells[column].dataset.value);
    }})()"""
    values: list[str] = browser.evaluate(script)
    return values
