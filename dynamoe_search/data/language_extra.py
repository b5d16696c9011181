"""The libraries of the extra `language`: imported when they are needed, and named when they are missing."""

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

from dynamoe_search.errors import DataError


def import_extra(name: str, purpose: str) -> ModuleType:
    """Gives a library of the extra `language`.

    Args:
        name: Of the module.
        purpose: What needs it, for the message.

    Raises:
        DataError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"{purpose} needs the library {name}, which cannot be imported ({error}); "
            "install it with: pip install 'dynamoe-search[language]'"
        ) from error


@contextmanager
def without_retry_messages() -> Iterator[None]:
    """Keeps huggingface_hub from writing a line for every attempt at a network that is not there."""
    with suppress(ImportError):  # it sets the level, so it must not do so in the block
        importlib.import_module("huggingface_hub.file_download")
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


__all__ = ["import_extra", "without_retry_messages"]
