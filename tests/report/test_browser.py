"""The page in a real browser: it asks nobody for anything, complains of nothing, and hover, sort and theme work.

Skipped where there is no Chromium; the summary says so.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamoe_search.report.comparing import compare
from dynamoe_search.report.pages import comparison_page, study_page
from dynamoe_search.report.reading import read
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.report.browser import CHROMIUM, Browser, browser
from tests.report.studies import finished
from tests.store.builders import SETTINGS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome"),
]
SIZES = {"laptop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def page(store: Store, study: str, tmp_path: Path) -> Path:
    path = tmp_path / "index.html"
    path.write_text(study_page(read(store, study)), "utf-8")
    return path


def outside(requests: list[str]) -> list[str]:
    return [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_page_is_quiet_and_fits(chromium: Browser, page: Path, size: str, theme: str) -> None:
    chromium.requests.clear()
    chromium.complaints.clear()
    chromium.look(*SIZES[size], theme)
    chromium.open(page)
    assert outside(chromium.requests) == []
    assert chromium.complaints == []
    assert chromium.value("document.documentElement.scrollWidth") <= SIZES[size][0]
    drawn = (
        "[...document.querySelectorAll('.plot')].filter((one) => !one.querySelector('svg')).length"
    )
    assert chromium.value(drawn) == 0
    dark = "getComputedStyle(document.body).backgroundColor"
    assert (chromium.value(dark) == "rgb(20, 24, 29)") is (theme == "dark")


def test_hostile_text_runs_nothing(chromium: Browser, page: Path) -> None:
    chromium.look(*SIZES["laptop"])
    chromium.open(page)
    assert chromium.value("document.querySelectorAll('img[src^=http]').length") == 0
    assert "alert(1)" in chromium.value("document.querySelector('.question').textContent")


def test_headings_sort_with_the_keyboard_and_the_mouse(chromium: Browser, page: Path) -> None:
    chromium.look(*SIZES["laptop"])
    chromium.open(page)
    table = "[...document.querySelectorAll('table')].at(-1)"
    column = f"[...{table}.tBodies[0].rows].map((row) => row.cells[0].textContent)"
    chromium.value(f"{table}.tHead.rows[0].cells[0].querySelector('button').click()")
    assert chromium.value(column) == ["0", "1", "2", "3", "4", "5", "6"]
    chromium.value(f"{table}.tHead.rows[0].cells[0].querySelector('button').focus()")
    for kind in ("keyDown", "keyUp"):
        chromium.call(
            "Input.dispatchKeyEvent",
            type=kind,
            key="Enter",
            code="Enter",
            text="\r",
            windowsVirtualKeyCode=13,
        )
    assert chromium.value(column) == ["6", "5", "4", "3", "2", "1", "0"]
    assert chromium.value(f"{table}.tHead.rows[0].cells[0].ariaSort") == "descending"
    accuracy = f"[...{table}.tBodies[0].rows].map((row) => row.cells[2].textContent)"
    chromium.value(f"{table}.tHead.rows[0].cells[2].querySelector('button').click()")
    assert chromium.value(accuracy) == [
        "60.00 %",
        "70.00 %",
        "80.00 %",
        "90.00 %",
        "95.00 %",
        "–",
        "–",
    ]


def test_pointing_at_a_candidate_shows_it(chromium: Browser, page: Path) -> None:
    chromium.look(*SIZES["laptop"])
    chromium.open(page)
    chromium.value(
        "document.getElementById('plot-front').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    box = chromium.value(
        "(() => { const all = [...document.querySelectorAll('#plot-front .trace.scatter')].at(-1);"
        " const at = [...all.querySelectorAll('path.point')].at(-1).getBoundingClientRect();"
        " return [at.x + at.width / 2, at.y + at.height / 2]; })()"
    )
    chromium.move(box[0] - 1, box[1])
    chromium.move(*box)
    chromium.wait("document.querySelector('#plot-front .hoverlayer .hovertext')")
    said = chromium.value("document.querySelector('#plot-front .hoverlayer').textContent")
    assert "trial 3" in said
    assert "95.00 %" in said


def test_theme_log_axis_and_candidate_can_be_chosen(chromium: Browser, page: Path) -> None:
    chromium.look(*SIZES["laptop"])
    chromium.complaints.clear()
    chromium.open(page)
    colour = "document.getElementById('plot-front').data.at(-1).marker.color"
    before = chromium.value(colour)
    chromium.value("document.getElementById('theme').click()")
    assert chromium.value("document.documentElement.dataset.theme") == "dark"
    assert chromium.value(colour) != before
    chromium.value("document.querySelector('[data-log=front]').click()")
    assert chromium.value("document.getElementById('plot-front').layout.xaxis.type") == "log"
    chromium.value(
        "(() => { const one = document.getElementById('candidate'); one.value = '3';"
        " one.dispatchEvent(new Event('change')); })()"
    )
    assert chromium.value("document.getElementById('plot-load').data[0].z.length") == 2
    chromium.value("localStorage.clear()")
    assert chromium.complaints == []


def test_comparison_is_quiet(
    chromium: Browser, store: Store, study: str, tmp_path: Path, tiny_spec: "object"
) -> None:
    spec: StudySpec = tiny_spec(study={"name": "other"})  # type: ignore[operator]
    store.create_study(spec, source="other.toml", settings=SETTINGS)
    finished(store, "other", 0, 0.85, 700.0)
    page = tmp_path / "index.html"
    page.write_text(comparison_page(compare([read(store, study), read(store, "other")])), "utf-8")
    chromium.requests.clear()
    chromium.complaints.clear()
    chromium.look(*SIZES["laptop"])
    chromium.open(page)
    assert outside(chromium.requests) == []
    assert chromium.complaints == []


def test_plots_follow_a_window_that_changes(chromium: Browser, page: Path) -> None:
    chromium.look(*SIZES["phone"])
    chromium.open(page)
    chromium.look(*SIZES["laptop"])
    inside = (
        "[...document.querySelectorAll('.plot')].every((one) => {"
        " const [box, svg] = [one, one.querySelector('svg')].map((it) => it.getBoundingClientRect());"
        " return svg.width > 250 && svg.height <= box.height + 1 && svg.width <= box.width + 1; })"
    )
    wide = "document.querySelector('#plot-front svg').getBoundingClientRect().width > 800"
    chromium.wait(f"{wide} && {inside}")
    chromium.look(*SIZES["phone"])
    chromium.wait(f"!({wide}) && {inside}")
