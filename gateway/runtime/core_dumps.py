"""A crash must not write keys to disk."""

from __future__ import annotations

import ctypes
import os
import resource

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def forbid() -> None:
    """Of this process and its threads; of a program it starts only the limit holds. OSError when the kernel refuses.

    core(5): RLIMIT_CORE holds for files only, not where core_pattern pipes the dump to a program. prctl(2): a process that is
    not dumpable leaves none there either, and nobody but root attaches to it; its files in /proc belong to root from then on,
    which it may go on to read (status, stat, fd, limits) but not to write.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"PR_SET_DUMPABLE: {os.strerror(number)}")
