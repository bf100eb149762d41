"""Keep freed memory in the process: glibc otherwise gives large tensors back and faults them in again at every step."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to reuse large blocks rather than to unmap them; return whether it took the advice.

    For the whole process, so only our commands call it, never the library on import. The peak of resident memory
    stays what it was; what falls is the time spent on page faults, up to half of a network's or an FFT's.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(which, value) == 1 for which, value in settings)
