"""The files of a study: checkpoints of legs and of candidates, and the weights of the front."""

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from dynamoe_search.records import Leg
from dynamoe_search.training import CheckpointFolder, StateFolder
from dynamoe_search.training.checkpoints import EVERY_SECONDS


class StudyFiles:
    """The files of one study: checkpoints of legs and of candidates, and the weights of the front.

    Args:
        folder: The study's own, see `Store.files_of`.
    """

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.states = StateFolder(folder / "checkpoints" / "candidates")
        self._legs = folder / "checkpoints" / "legs"

    def of_leg(self, leg: Leg, every_seconds: float = EVERY_SECONDS) -> CheckpointFolder:
        """Returns the checkpoints of a leg in training."""
        return CheckpointFolder(self._legs / str(leg.number), every_seconds=every_seconds)

    def keep_legs(self, numbers: Collection[int]) -> None:
        """Removes the checkpoints of all other legs, as far as that is possible."""
        for path in self._legs.glob("*"):
            if path.name not in {str(number) for number in numbers}:
                shutil.rmtree(path, ignore_errors=True)

    def keep_states(self, standing: Mapping[int, float], limit_bytes: float) -> None:
        """Removes the checkpoints of candidates that need none, and the most hopeless beyond a limit.

        Args:
            standing: How hopeless each paused candidate is, by ordinal; the highest go first.
            limit_bytes: How much all of them may take together. A candidate whose checkpoint is gone is trained
                again from its start, should it ever go on.
        """
        sizes = self.states.sizes()
        for ordinal in sizes.keys() - standing.keys():
            self.states.remove(ordinal)
        total = sum(size for ordinal, size in sizes.items() if ordinal in standing)
        for ordinal in sorted(sizes.keys() & standing.keys(), key=lambda o: (-standing[o], o)):
            if total <= limit_bytes:
                return
            self.states.remove(ordinal)
            total -= sizes[ordinal]
