"""A pickle that does something, to see that nobody opens it."""

from pathlib import Path
from typing import Any


class Bomb:
    """Runs a command of its maker when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.canary,))
