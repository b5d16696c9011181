"""`RecentStates`: where candidates stood a moment ago, so that whoever goes on at once need not read it again."""

from collections.abc import Mapping

from torch import Tensor

from dynamoe_search.training import CandidateState

_MOST_BYTES = 2**28


class RecentStates:
    """The states that were written last, up to 256 MiB of them, by the checksums of their files.

    A checksum covers all of a state, so what is here and what is in the file are the same.
    """

    def __init__(self) -> None:
        self._states: dict[str, CandidateState] = {}  # the oldest first

    def put(self, states: Mapping[str, CandidateState]) -> None:
        """Takes states by checksum, and forgets the oldest beyond the limit.

        Args:
            states: Whose tensors nobody changes.
        """
        self._states |= states
        total = sum(map(_bytes_of, self._states.values()))
        for checksum in list(self._states):
            if total <= _MOST_BYTES:
                break
            total -= _bytes_of(self._states.pop(checksum))

    def take(self, checksum: str | None) -> CandidateState | None:
        """Returns the state of a file and forgets it; None if it is not here."""
        return None if checksum is None else self._states.pop(checksum, None)


def _bytes_of(state: CandidateState) -> int:
    tensors: list[Tensor] = list(state.tensors.values())
    return sum(tensor.nbytes for tensor in tensors)
