"""A pool of large blocks of memory: what the results and workspaces of one call leave serves the next.

The system hands out large blocks as fresh pages, and writing each for the first time costs more than a recursion over
it. An array of `lease` holds its block through a `Lease`; when the last array and tensor that look at it are gone, the
block goes back to the pool by itself, so no two arrays that exist share memory.

Blocks below LEAST bytes are left to the allocator, which keeps those anyway. At most KEPT bytes wait in the pool.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

LEAST = 1 << 17
KEPT = 1 << 26

# a list gives and takes its last entry as one operation of the interpreter: threads need no lock
_free: dict[int, list[Any]] = {}
_waiting = [0]


class Lease:
    """A block that goes back to the pool when nothing refers to it any more; numpy makes arrays of it."""

    def __init__(self, block: Any, shape: tuple[int, ...]) -> None:
        self._block = block
        self.__array_interface__ = {**block.__array_interface__, "shape": shape, "typestr": "<f8", "strides": None}

    def __del__(self) -> None:
        size = self._block.nbytes
        if _waiting[0] + size <= KEPT:
            _waiting[0] += size
            _free.setdefault(size, []).append(self._block)


def lease(*shape: int) -> Any:
    """An array of float64 without content, in a block of the pool if it is large."""
    size = 8 * math.prod(shape)
    if size < LEAST:
        return np.empty(shape)
    return np.asarray(Lease(_take(_rounded(size)), shape))


def waiting() -> int:
    """Bytes in the pool that nothing uses."""
    return _waiting[0]


def clear() -> None:
    """Give the waiting blocks back to the system."""
    _free.clear()
    _waiting[0] = 0


def _take(size: int) -> Any:
    try:
        block = _free[size].pop()
    except (KeyError, IndexError):
        return np.empty(size // 8)
    _waiting[0] -= size
    return block


def _rounded(size: int) -> int:
    """The next of eight sizes per power of two, so that blocks of nearly the same size serve each other."""
    step = 1 << max(size.bit_length() - 4, 3)
    return -(-size // step) * step
