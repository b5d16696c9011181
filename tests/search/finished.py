"""A small study that has run to its end, for tests of what is done with such a study; they copy it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamoe_search.search import create_study, run_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.conftest import TINY


def finish(folder: Path, **sections: Mapping[str, Any]) -> Path:
    """Runs the study `tiny` with these sections instead of its own, and returns the path of the database."""
    path = folder / "studies.db"
    spec = StudySpec.model_validate(TINY | sections)
    with Store.open(f"sqlite:///{path}") as store:
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        run_study(store, "tiny")
    return path


def copy_of(path: Path, folder: Path) -> str:
    """Returns the URL of a copy of such a database, with its files, in a folder that does not exist yet."""
    shutil.copytree(path.parent, folder)
    return f"sqlite:///{folder / path.name}"
