"""A backbone of the user's own, from its how-to page: what the program says to do next works as it is printed."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Run

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-backbone.md"


def test_what_is_said_to_do_next_works_as_it_is_printed(
    cli: Run, study_file: Path, monkeypatch: pytest.MonkeyPatch, storage_url: str
) -> None:
    module, *_ = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
    (study_file.parent / "mynet_of_the_page.py").write_text(module)
    monkeypatch.chdir(study_file.parent)
    monkeypatch.syspath_prepend(study_file.parent)
    backbone = "model.backbone=mynet_of_the_page:MyNet"
    result = cli(
        "run", study_file, "--trust-code", "--set", backbone, "--storage", storage_url, "--quiet"
    )
    assert result.exit_code == 0, result.output
    said = [shlex.split(line) for line in result.stdout.partition("\nnext:\n")[2].splitlines()]
    assert {words[1] for words in said} == {"resume", "front", "show", "export"}
    for words in said:
        result = cli(*words[1:], *(["--quiet"] if words[1] in ("resume", "export") else []))
        assert result.exit_code == 0, result.output
    folder = Path(said[-1][said[-1].index("--out") + 1])
    names: dict[str, object] = {}
    exec(result.stdout.partition("load it with:")[2].replace("\n  ", "\n"), names)
    assert type(names["model"]).__name__ == "MyNet"
    assert "trust_code=True" in (folder / "README.md").read_text("utf-8")
    assert json.loads((folder / "config.json").read_text("utf-8"))
