"""Room for the large arrays that one call makes and drops: it is kept for the next one.

Fresh pages cost more than a recursion over them. What a call filled is used again by the next call of this thread once
nothing refers to it, as an array or as a tensor; there is one such room for every purpose, of at most `KEPT` numbers.
"""

from __future__ import annotations

import math
import sys
import threading

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: numbers up to which a room is kept, 8 MB
KEPT = 1 << 20
#: numbers in a cache line
LINE = 8
_rooms = threading.local()


def _references(array: Array) -> int:
    """References to an array; those of one that a single local variable holds are `UNSHARED`."""
    return sys.getrefcount(array)


def _held_once() -> int:
    array = np.empty(0)
    return _references(array)


UNSHARED = _held_once()


def aligned(shape: tuple[int, ...], room: Array | None = None) -> Array:
    """An array, in `room` if given, that begins with a cache line: registers that long are read half as fast across."""
    size = math.prod(shape)
    room = np.empty(size + LINE) if room is None else room
    first = -(room.ctypes.data // room.itemsize) % LINE
    return room[first : first + size].reshape(shape)


def empty(purpose: str, shape: tuple[int, ...]) -> Array:
    """An array without content, in the room that this thread used last for the purpose if it is free and large enough.

    No two arrays that exist at the same time share memory.
    """
    size = math.prod(shape) + LINE
    if size > KEPT + LINE:
        return aligned(shape)
    room: Array | None = _rooms.__dict__.pop(purpose, None)
    if room is None or room.size < size or _references(room) > UNSHARED:
        room = np.empty(size)
    _rooms.__dict__[purpose] = room
    return aligned(shape, room)
