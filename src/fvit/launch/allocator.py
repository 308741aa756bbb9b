"""How this process keeps memory between steps."""

import ctypes
import sys

# malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, up to the process's end; False where there is another C library.

    By default glibc gives large blocks back to the system at every ``free`` and gets them anew, page by page, at the
    next step: activations of thousands of tokens were seen to spend a fifth of a forward pass on that. A process that
    trains needs the same memory again at once. CUDA's allocator keeps its blocks anyway.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = {_M_MMAP_THRESHOLD: 2**30, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26}
    return all(libc.mallopt(option, value) for option, value in settings.items())
