"""What malloc does with freed memory."""

import ctypes
import sys

# malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for reuse until the process exits; False where there is another C library.

    By default glibc returns large blocks to the kernel on every ``free`` and gets them again, page by page, in the next
    step, which took a fifth of a forward pass with thousands of tokens. CUDA's allocator keeps its blocks anyway.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = {_M_MMAP_THRESHOLD: 2**30, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26}
    return all(libc.mallopt(option, value) for option, value in settings.items())
