"""The page is valid HTML, loads nothing, takes no text for markup, and stands every kind of study."""

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import html5lib
import pytest
from plotly.graph_objects import Figure

from dynamoe_search.records import RungDecision
from dynamoe_search.report import figures, plots
from dynamoe_search.report.cells import MAX_ROWS
from dynamoe_search.report.comparing import compare
from dynamoe_search.report.pages import comparison_page, study_page
from dynamoe_search.report.provenance import study_file
from dynamoe_search.report.reading import StudyData, read
from dynamoe_search.report.tables import study_tables
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.report.studies import HOSTILE, add, failed, finished, in_memory, pruned

LOADING = ("src", "href", "srcset", "data", "action", "poster", "background", "formaction")


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.words.append(data)


def without_plotly(page: str) -> str:
    """The library's five megabytes take a parser minutes and are not ours."""
    return re.sub(r"<script>/\*\*\n.*?</script>", "<script></script>", page, count=1, flags=re.S)


def check(page: str) -> Elements:
    """Asserts what holds for every page."""
    short = without_plotly(page)
    assert len(short) < len(page) / 2 or len(short) > 2_000_000
    html5lib.HTMLParser(strict=True).parse(short)
    elements = Elements(short)
    for tag, attributes in elements.tags:
        for name in LOADING:
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:")), (tag, name, target)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = {attributes["href"] for tag, attributes in elements.tags if tag == "a"}
    assert {f"#{one}" for one in ids} >= anchors
    root = dict(elements.tags)["html"]
    assert root["lang"] == "en"
    assert [tag for tag, _ in elements.tags].count("title") >= 1
    for tag, attributes in elements.tags:
        if attributes.get("role") == "img":
            assert attributes.get("aria-label"), (tag, attributes)
    return elements


def test_page_of_a_study(data: StudyData) -> None:
    text = " ".join(check(study_page(data)).words)
    for expected in ("95.00 %", "dense", "beaten by 5 of 11 rivals", "nan", "dynamoe-search run"):
        assert expected in text
    assert HOSTILE in text  # as text


def test_scripts_are_the_ones_that_the_policy_names(data: StudyData) -> None:
    page = study_page(data)
    policy = next(
        attributes["content"] or ""
        for tag, attributes in Elements(without_plotly(page)).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy
    assert policy.count("sha256-") == page.count("<script>") == 2
    assert "unsafe-inline'; img" in policy  # styles only
    assert "connect-src" not in policy  # falls back to none


def test_json_in_the_page_is_what_was_drawn(data: StudyData) -> None:
    page = study_page(data)
    found = re.search(r'<script type="application/json" id="plots">(.*?)</script>', page, re.S)
    assert found is not None
    assert json.loads(found[1]) == json.loads(json.dumps(plots.study_plots(data)))


def test_plots_are_what_plotly_takes(data: StudyData) -> None:
    drawn = plots.study_plots(data)
    assert drawn.keys() == {"front", "hypervolume", "curves", "time"}
    for plot in drawn.values():
        assert Figure(without_names(plot["data"]), plot["layout"]).data


def without_names(value: Any) -> Any:
    """Names of colours, as the page has them, are no colours to plotly."""
    if isinstance(value, str) and value.startswith("@"):
        return "#000000"
    if isinstance(value, list):
        return [without_names(item) for item in value]
    if isinstance(value, dict):
        return {key: without_names(item) for key, item in value.items()}
    return value


def test_pictures_in_every_format(data: StudyData) -> None:
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    with figures.style():
        drawn = figures.study_figures(data)
        assert set(drawn) == {
            "front",
            "hypervolume",
            "learning-curves",
            "schedules",
            "expert-load",
            "k-histograms",
            "time",
        }
        for figure in drawn.values():
            for suffix, content in figures.rendered(figure):
                assert content.startswith(starts[suffix])


def test_study_file_is_the_study(data: StudyData) -> None:
    name, text = study_file(data)
    assert name == "study.toml"
    assert data.spec is not None
    named = data.spec.search.model_copy(
        update={"expert_backend": data.record.settings.expert_backend}
    )
    expected = data.spec.model_copy(update={"search": named})  # what `auto` came to
    assert StudySpec.model_validate(tomllib.loads(text)) == expected


class TestEdges:
    def test_no_candidate(self, store: Store, empty: str) -> None:
        text = " ".join(check(study_page(read(store, empty))).words)
        assert "nothing to show" in text

    def test_only_running(self, store: Store, empty: str) -> None:
        add(store, empty, 0)
        text = " ".join(check(study_page(read(store, empty))).words)
        assert "No candidate is complete yet" in text

    def test_only_failures(self, store: Store, empty: str) -> None:
        failed(store, empty, 0)
        failed(store, empty, 1, HOSTILE)
        text = " ".join(check(study_page(read(store, empty))).words)
        assert "All 2 candidates failed; the most frequent reason is 'nan'" in text

    def test_only_pruned(self, store: Store, empty: str) -> None:
        pruned(store, empty, 0)
        assert "pruned after epoch 2" in " ".join(check(study_page(read(store, empty))).words)

    def test_one_candidate(self, store: Store, empty: str) -> None:
        finished(store, empty, 0, 0.9, 1000.0)
        data = read(store, empty)
        assert "The front has 1 design out of 1 complete candidate." in study_page(data)
        check(study_page(data))
        with figures.style():
            assert "schedules" in figures.study_figures(data)

    @pytest.mark.parametrize(
        "objectives",
        [
            ["accuracy"],
            ["activated_params"],
            ["accuracy", "activated_params", "total_params"],
            ["total_params", "accuracy", "activated_params", "flops_per_token"],
        ],
        ids=len,
    )
    def test_other_objectives(
        self, tiny_spec: Callable[..., StudySpec], objectives: list[str]
    ) -> None:
        spec = tiny_spec(study={"objectives": objectives})
        data = in_memory(spec, 12, 2)
        check(study_page(data))
        drawn = plots.study_plots(data)
        pairs = [name for name in drawn if name.startswith("pair-")]
        assert len(pairs) == {1: 0, 3: 2, 4: 5}[len(objectives)]
        with figures.style():
            drawn_by_matplotlib = figures.study_figures(data)
            assert ("pairs" in drawn_by_matplotlib) is (len(objectives) > 2)
            if len(objectives) > 2:
                list(figures.rendered(drawn_by_matplotlib["pairs"]))

    @pytest.mark.parametrize("name", [HOSTILE, "x" * 3000, "دراسة التجارب", "$x_1$ {{ 7 * 7 }} %"])
    def test_hostile_names(self, data: StudyData, name: str) -> None:
        named = replace(data, record=replace(data.record, name=name))
        elements = check(study_page(named))
        assert name in " ".join(elements.words)
        assert ("img", {"src": "https://example.org/x.png"}) not in elements.tags
        with figures.style():
            list(figures.rendered(figures.front(named)))

    def test_a_spec_of_another_version(self, data: StudyData) -> None:
        old = replace(data, spec=None, record=replace(data.record, spec_json='{"study": {}}'))
        check(study_page(old))
        assert study_file(old) == ("study.json", '{\n  "study": {}\n}\n')

    def test_decisions_are_shown(self, data: StudyData) -> None:
        decision = RungDecision(trial=4, rung=2, action="pause", beaten=3, rivals=9, strongest=2)
        paused = [
            replace(one, status="paused", outcome=None, values=None)  # type: ignore[arg-type]
            if one.trial == 4
            else one
            for one in data.candidates
        ]
        shown = replace(data, candidates=tuple(paused), decisions=(decision,))
        text = " ".join(check(study_page(shown)).words)
        assert "paused after epoch 2: beaten by 3 of 9 rivals (33%)" in text
        rows = {table.kind.name: table.rows for table in study_tables(shown)}
        assert rows["decisions"][0]["strongest"] == 2

    def test_thousands_of_candidates(self, tiny_spec: Callable[..., StudySpec]) -> None:
        data = in_memory(tiny_spec(), 5000, 24)
        page = study_page(data)
        assert len(page.encode()) < 15e6
        assert f"The first {MAX_ROWS:,} of 5,000 rows" in page
        assert ", for 300 of 5,000 candidates" in page


class TestComparison:
    @pytest.fixture
    def two(self, tiny_spec: Callable[..., StudySpec]) -> tuple[StudyData, StudyData]:
        first = in_memory(tiny_spec(study={"name": "first"}), 10)
        objectives = ["accuracy", "total_params", "activated_params"]
        return first, in_memory(tiny_spec(study={"name": "second", "objectives": objectives}), 20)

    def test_page(self, two: tuple[StudyData, StudyData]) -> None:
        compared = compare(two)
        text = " ".join(check(comparison_page(compared)).words)
        assert "Only the objectives that all of these studies have" in text
        assert compared.objectives == ("accuracy", "activated_params")

    def test_equal_budgets(self, two: tuple[StudyData, StudyData]) -> None:
        compared = compare(two)
        rows = list(compared.budgets())
        smallest = min(data.epochs for data in two)
        assert rows[-1]["epochs"] == smallest
        last = {row["study"]: row for row in rows[-2:]}
        assert last["first"]["finished"] == 10
        assert last["first"]["hypervolume"] == pytest.approx(compared.hypervolume(two[0]))
        assert last["second"]["finished"] == 10

    def test_other_data_are_told(self, two: tuple[StudyData, StudyData]) -> None:
        settings = replace(two[1].record.settings, data_hash="other")
        other = replace(two[1], record=replace(two[1].record, settings=settings))
        assert any("same data" in one for one in compare([two[0], other]).warnings)

    def test_studies_without_results(self, two: tuple[StudyData, StudyData]) -> None:
        empty = replace(two[0], candidates=())
        nothing = replace(two[1], candidates=())
        check(comparison_page(compare([empty, nothing])))
        check(comparison_page(compare([two[0], nothing])))
