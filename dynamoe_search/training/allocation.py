"""How this process keeps memory between training steps."""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of glibc's mallopt
_LARGEST_OF_HEAP = 2**25  # bytes; glibc takes no larger threshold
_MOST_FREE = 2**31 - 1
_AHEAD = 2**26


@cache
def keep_freed_memory() -> None:
    """Has the C library keep what tensors free, for those of the next step.

    Otherwise it gives memory back to the system after every step and asks for it again, and the system clears each page
    anew, which is a tenth of a step on the CPU. Nothing happens where the library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, _MOST_FREE)
    mallopt(_MMAP_THRESHOLD, _LARGEST_OF_HEAP)
    mallopt(_TOP_PAD, _AHEAD)
