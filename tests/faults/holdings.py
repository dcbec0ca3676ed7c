"""What this process holds at a moment: bytes from malloc, objects, descriptors."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from typing import NamedTuple, Self

import pytest

_libc = ctypes.CDLL(None)


class _MallInfo(ctypes.Structure):  # <malloc.h>, struct mallinfo2
    _fields_ = [
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    ]


if hasattr(_libc, "mallinfo2"):
    _libc.mallinfo2.restype = _MallInfo

needs_mallinfo = pytest.mark.skipif(
    not hasattr(_libc, "mallinfo2") or "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="no count of allocated bytes here: needs glibc 2.33, and its own malloc",
)


class Holdings(NamedTuple):
    """Exact figures, unlike the resident set; of all threads."""

    n_bytes: int
    n_objects: int
    n_descriptors: int

    @classmethod
    def now(cls) -> Self:
        gc.collect()
        info = _libc.mallinfo2()
        return cls(
            info.uordblks + info.hblkhd,
            sys.getallocatedblocks(),
            len(os.listdir("/proc/self/fd")),
        )
