"""Where the checkpoints of a study's packs are: one folder per pack in training, gone when its outcomes are stored."""

import shutil
from collections.abc import Collection
from pathlib import Path

from dynamoe_search.training import CheckpointFolder


class PackFolders:
    """The folders of checkpoints of one study.

    Args:
        path: The folder that holds them.
        every_seconds: See `CheckpointFolder`.
    """

    def __init__(self, path: Path, every_seconds: float) -> None:
        self._path = path
        self._every_seconds = every_seconds

    def of(self, name: str) -> CheckpointFolder:
        """Returns the checkpoints of one pack."""
        return CheckpointFolder(self._path / name, every_seconds=self._every_seconds)

    def keep_only(self, names: Collection[str]) -> None:
        """Removes the checkpoints of all other packs, which have their outcomes, as far as that is possible."""
        kept = [path for path in self._path.glob("*") if path.name in names]
        for path in self._path.glob("*"):
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)
        if not kept:
            shutil.rmtree(self._path, ignore_errors=True)
