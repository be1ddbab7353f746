"""While a fit runs, memory that is freed stays with the process.

A training step makes and drops the same large arrays again and again. glibc hands each back to the system at once and
asks for it anew, page by page, which for networks can take longer than the arithmetic. Inside `freed_memory_kept` it
does not; at the end what is free goes back, and the allocator is set as it sets itself once a process has freed a
block of 32 MB (mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD). Other C libraries are left alone.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
INSIDE = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 1 << 28}
OUTSIDE = {MMAP_MAX: 1 << 16, MMAP_THRESHOLD: 1 << 25, TRIM_THRESHOLD: 1 << 26, TOP_PAD: 1 << 17}

_lock = threading.Lock()
_inside = 0


@contextmanager
def freed_memory_kept() -> Generator[None]:
    """Inside, what is freed is kept for what is allocated next; nested and in several threads, until the last ends."""
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1 and (libc := _glibc()) is not None:
            _set(libc.mallopt, INSIDE)


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if not _inside and (libc := _glibc()) is not None:
            _set(libc.mallopt, OUTSIDE)
            libc.malloc_trim(0)


def _set(mallopt: Callable[[int, int], int], options: dict[int, int]) -> None:
    for name, value in options.items():
        mallopt(name, value)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (AttributeError elsewhere)
    except (AttributeError, OSError, TypeError):
        return None
    return libc
