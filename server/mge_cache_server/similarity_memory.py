"""Memory that is there before it is written to: the first touch of a page waits for the kernel.

That takes a quarter of a microsecond for 4 KiB, or five milliseconds for a huge page of 2 MiB where
the machine is a guest that has to get it from its host first.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_PAGE_BYTES = 4096
_MADV_POPULATE_WRITE = 23  # not in Python's mmap before 3.14


def touch(memory: NDArray[Any]) -> None:
    """Write into each page of contiguous memory, without Python's lock."""
    memory.reshape(-1)[:: _PAGE_BYTES // memory.itemsize] = 0


def provide(memory: NDArray[Any]) -> None:
    """Have the kernel provide the pages of contiguous memory, without Python's lock.

    Unlike ``touch``, while others may write into it. On Linux from 5.14 on; elsewhere nothing
    happens, and whoever writes first waits for the kernel.
    """
    if _madvise is not None:
        low = -(-memory.ctypes.data // _PAGE_BYTES) * _PAGE_BYTES
        high = (memory.ctypes.data + memory.nbytes) // _PAGE_BYTES * _PAGE_BYTES
        if low < high:
            _madvise(low, high - low, _MADV_POPULATE_WRITE)  # a refusal is as good as no Linux


def _find_madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    found: Callable[[int, int, int], int] = madvise
    return found


_madvise = _find_madvise()
