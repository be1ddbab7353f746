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


class Loan:
    """Arrays without content, each beginning with a cache line, in one room that was given back before if one fits.

    Whoever borrowed gives back, once, when nothing of his refers to the arrays any more; what is never given back goes
    the way of all arrays.
    """

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        sizes = [-(-math.prod(shape) // LINE) * LINE for shape in shapes]
        self._room: Array | None = _take(sum(sizes))
        self.arrays: list[Array] = []
        start = 0
        for size, shape in zip(sizes, shapes, strict=True):
            self.arrays.append(self._room[start : start + math.prod(shape)].reshape(shape))
            start += size

    def give_back(self) -> None:
        """Let the next loan have the room; the arrays are gone."""
        room, self._room, self.arrays = self._room, None, []
        if room is not None and room.size <= LARGEST:
            _free.append(room)
            del _free[:-SPARE]


#: rooms that wait for their next use, and the numbers that one may have (32 MB)
SPARE, LARGEST = 2, 1 << 22
_free: list[Array] = []


def _take(size: int) -> Array:
    """The room given back last that is large enough, or a new one."""
    for _ in range(len(_free)):
        try:
            room = _free.pop()
        except IndexError:  # another thread was faster
            break
        if room.size >= size:
            return room
        _free.insert(0, room)
    return aligned((size,))
