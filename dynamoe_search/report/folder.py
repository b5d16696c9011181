"""Where a report goes: a folder of its own, in which nothing is touched that an earlier report did not write."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from dynamoe_search import __version__
from dynamoe_search.errors import UsageError

MANIFEST = "manifest.json"
_MADE_BY = "dynamoe-search report"
_OURS = re.compile(
    r"(index\.html|study\.(toml|json)|figures/[\w-]+\.(png|svg|pdf)|tables/[\w-]+\.(csv|json|parquet|md|tex))"
)


class ReportFolder:
    """A folder for the files of one report.

    Args:
        path: The folder; made if it is missing.

    Raises:
        UsageError: It is no folder, cannot be written, or holds something and was not made by a report.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            is_empty = not any(path.iterdir())
        except OSError as error:
            raise UsageError(f"--out {path} cannot be a folder: {error.strerror}") from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise UsageError(f"--out {path} cannot be written; check its permissions")
        self._before = frozenset() if is_empty else _written_before(path)

    def write(self, files: Iterable[tuple[str, bytes]], studies: Iterable[str]) -> list[Path]:
        """Writes the files of a report, removes those of the last one that it lacks, and returns the paths.

        Args:
            files: Path inside the folder, and content.
            studies: Names of the studies that the report is about.

        Raises:
            UsageError: A file of this name is there and is not from a report.
        """
        contents = dict(files)
        if foreign := [
            name for name in contents if name not in self._before and (self.path / name).exists()
        ]:
            raise UsageError(
                f"{self.path / foreign[0]} is there and no report wrote it; move it away or name a new folder"
            )
        # First the list of all that may be here, so that a report cut short can be written again.
        self._note(self._before | contents.keys(), studies)
        for name, content in contents.items():
            _replace(self.path / name, content)
        for name in self._before - contents.keys():
            (self.path / name).unlink(missing_ok=True)
        self._note(contents.keys(), studies)
        return [self.path / name for name in contents]

    def _note(self, names: Iterable[str], studies: Iterable[str]) -> None:
        about = {
            "made_by": _MADE_BY,
            "version": __version__,
            "studies": list(studies),
            "files": sorted(names),
        }
        text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        _replace(self.path / MANIFEST, text.encode())


def _written_before(path: Path) -> frozenset[str]:
    """Returns the files that an earlier report wrote here."""
    try:
        about = json.loads((path / MANIFEST).read_text("utf-8"))
        is_ours = about["made_by"] == _MADE_BY
        names = [name for name in about["files"] if isinstance(name, str)]
    except (OSError, ValueError, KeyError, TypeError):
        is_ours, names = False, []
    if not is_ours:
        raise UsageError(f"--out {path} is not empty and holds no report; name a new folder")
    return frozenset(name for name in names if _OURS.fullmatch(name))


def _replace(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)
