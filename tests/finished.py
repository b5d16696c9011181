"""Small studies that have run to their end, for tests of what is done with such studies; they copy them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamoe_search.search import create_study, run_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from tests.conftest import TINY


def finish(folder: Path, **sections: Mapping[str, Any]) -> str:
    """Runs the study `tiny` with these sections instead of its own, and returns the URL of the database."""
    url = f"sqlite:///{folder / 'studies.db'}"
    search(url, StudySpec.model_validate(TINY | sections))
    return url


def search(url: str, spec: StudySpec) -> None:
    """Makes a study and runs it to its end."""
    with Store.open(url) as store:
        create_study(store, spec, source="test", device="cpu", num_threads=1)
        run_study(store, spec.study.name)


def copy_of(url: str, folder: Path) -> str:
    """Returns the URL of a copy of such a database, with its files, in a folder that does not exist yet."""
    path = Path(url.removeprefix("sqlite:///"))
    shutil.copytree(path.parent, folder)
    return f"sqlite:///{folder / path.name}"
