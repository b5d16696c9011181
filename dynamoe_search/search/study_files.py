"""The files of a study: checkpoints of legs and of candidates, and the weights of the front."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dynamoe_search.places import AnyPath, remove_tree
from dynamoe_search.records import Leg
from dynamoe_search.store import weight_files
from dynamoe_search.training import CheckpointFolder, StateFolder
from dynamoe_search.training.checkpoints import EVERY_SECONDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Present:
    """What is there."""

    legs: frozenset[int]
    states: Mapping[
        int, Mapping[AnyPath, int]
    ]  # checkpoints of candidates and their bytes, by ordinal


class StudyFiles:
    """The files of one study: checkpoints of legs and of candidates, and the weights of the front.

    Args:
        folder: The study's own, see `Store.files_of`.
    """

    def __init__(self, folder: AnyPath) -> None:
        self.models = folder / weight_files.FOLDER
        self.states = StateFolder(folder / "checkpoints" / "candidates")
        self._legs = folder / "checkpoints" / "legs"
        self._folder = folder

    def make(self) -> None:
        """Makes the study's own folder, below which all others are made when they are needed.

        Raises:
            OSError: There is no room, or no permission.
        """
        self._folder.mkdir(parents=True, exist_ok=True)

    def of_leg(self, leg: Leg, every_seconds: float = EVERY_SECONDS) -> CheckpointFolder:
        """Returns the checkpoints of a leg in training."""
        return CheckpointFolder(self._legs / str(leg.number), every_seconds=every_seconds)

    def present(self) -> Present:
        """Returns what may be removed, to be asked for before the database is: what comes later is not in it.

        Behind a link are somebody else's files, so there is nothing then.
        """
        links = (self._folder, self._legs.parent, self._legs, self.states.path)
        if any(path.is_symlink() for path in links):
            return Present(legs=frozenset(), states={})
        names = {path.name for path in self._legs.glob("*")}
        return Present(
            legs=frozenset(int(name) for name in names if name.isascii() and name.isdecimal()),
            states=self.states.files(),
        )

    def keep_legs(self, present: Present, numbers: Collection[int]) -> None:
        """Removes the checkpoints of all other legs, as far as that is possible."""
        for number in present.legs - set(numbers):
            remove_tree(self._legs / str(number))

    def keep_states(
        self, present: Present, standing: Mapping[int, float], limit_bytes: float
    ) -> None:
        """Removes the checkpoints of candidates that need none, and the most hopeless beyond a limit.

        Args:
            present: What there was before the database was asked who stands where.
            standing: How hopeless each paused candidate is, by ordinal; the highest go first.
            limit_bytes: How much all of them may take together. A candidate whose checkpoint is gone is trained
                again from its start, should it ever go on.
        """
        sizes = {ordinal: sum(files.values()) for ordinal, files in present.states.items()}
        for ordinal in sizes.keys() - standing.keys():
            self.states.remove(ordinal)
        total = sum(size for ordinal, size in sizes.items() if ordinal in standing)
        for ordinal in sorted(sizes.keys() & standing.keys(), key=lambda o: (-standing[o], o)):
            if total <= limit_bytes:
                return
            self.states.remove(ordinal)
            total -= sizes[ordinal]
