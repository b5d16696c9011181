"""Documentation cannot drift: generated pages are fresh, and whatever is shown exists."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from dynamoe_search.cli.app import app
from dynamoe_search.presets import preset_names
from dynamoe_search.specs import StudySpec
from dynamoe_search.store.tables import metadata
from tools import table_words
from tools.reference import command_names

ROOT = Path(__file__).parent.parent
GENERATED = ROOT / "docs" / "reference"
WRITTEN = [
    path
    for path in sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    if GENERATED not in path.parents
]
PROGRAM = "dynamoe-search"


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.reference", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_table_and_column_has_words() -> None:
    tables = metadata.tables.values()
    assert {table.name for table in tables} == table_words.TABLES.keys()
    assert {
        column.name for table in tables for column in table.columns
    } == table_words.COLUMNS.keys()


@pytest.mark.parametrize("name", command_names())
def test_every_command_is_shown_in_a_written_page(name: str) -> None:
    assert any(words[1:2] == [name] for page in WRITTEN for words in commands_in(page))


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_listed(name: str) -> None:
    assert f"`{name}`" in (ROOT / "studies" / "README.md").read_text("utf-8")


def test_the_front_in_the_readme_is_the_one_in_the_pictures() -> None:
    """`make pictures` writes both, of one search."""
    page = (ROOT / "README.md").read_text("utf-8")
    (table,) = re.findall(r"```text\ntrial  accuracy .*?\n(.*?)\n```", page, re.S)
    shown = [line.replace(",", "").split()[1:3] for line in table.splitlines()]
    picture = (ROOT / "docs" / "pictures" / "schedules.svg").read_text("utf-8")
    drawn = re.findall(r"<!-- ([\d.]+) % · ([\d.,]+) -->", picture)
    assert len(shown) == len(drawn)
    for (accuracy, params), (percent, whole) in zip(shown, drawn, strict=True):
        assert f"{100 * float(accuracy):.2f}" == percent
        assert float(params) == pytest.approx(float(whole.replace(",", "")), abs=1)
    (exported,) = re.findall(r"export digits (\d+) --out", page)
    assert exported in {line.split()[0] for line in table.splitlines()}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
class TestWrittenPage:
    def test_commands_and_options_exist(self, page: Path) -> None:
        group = typer.main.get_command(app)
        assert isinstance(group, typer.core.TyperGroup)
        for words in commands_in(page):
            options = {word.partition("=")[0] for word in words[1:] if word.startswith("--")}
            command = group
            if len(words) > 1 and not words[1].startswith("-"):
                assert words[1] in group.commands, shlex.join(words)
                command = group.commands[words[1]]
            params = command.params
            known = {name for one in params for name in (*one.opts, *one.secondary_opts)}
            assert options <= known | {"--help", "--debug"}, shlex.join(words)

    def test_study_files_are_valid(self, page: Path) -> None:
        for block in blocks(page, "toml"):
            tables = tomllib.loads(block)
            if "study" in tables:
                StudySpec.model_validate(tables)

    def test_links_lead_somewhere(self, page: Path) -> None:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), target


def blocks(page: Path, language: str) -> Iterator[str]:
    """Yields the fenced blocks of a language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


def commands_in(page: Path) -> Iterator[list[str]]:
    """Yields the words of every call of the program that a page shows in a `console` block."""
    for block in blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(f"$ {PROGRAM}"):
                yield shlex.split(line.removeprefix("$ "), comments=True)
