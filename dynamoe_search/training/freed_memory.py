"""Memory that a step gives back and the next one asks for again, which the C library then keeps.

A pass over a pack makes tensors of megabytes and forgets them. glibc gives such memory back to the system, which has
to clear every page of it before the next step may have it again: a tenth of a step's time in layers of width 128.
"""

import ctypes
import os
import platform
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_LARGEST = 2**25  # bytes: what is larger goes back to the system all the same, glibc knows no more
_NEVER = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Has this process keep the memory that its tensors gave back, and tells whether it does.

    Only glibc can be told so, and whoever has told it something else by `MALLOC_...` variables is not overruled.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
