"""Memory that tensors free is kept for the tensors to come."""

from __future__ import annotations

import ctypes
from functools import cache

_KEPT = 2**30  # bytes; blocks above that still go back at once
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in malloc.h


@cache
def keep_freed_memory() -> bool:
    """From now on this process keeps up to a gigabyte of what it frees; False where it cannot.

    glibc gives large blocks back to the system at once, and what is asked for next comes page by
    page: in a pass over images that can take longer than the network. Other allocators are left as
    they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; Windows has no such library
        return False
    return all([mallopt(option, _KEPT) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)])
