"""Threads over the members of a batch: contiguous blocks, one per thread, and results that do not depend on how many.

The number of threads is torch's: `torch.set_num_threads(2)`, or what it was where `keep_threads` began. Kernels release
the interpreter's lock, so blocks run side by side. What a kernel writes per member is the same whoever computes it;
what it adds up over members goes to `GROUPS` partial sums, which are fixed by the batch alone and added in order, so
that one thread and two give the same digits.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: partial sums of what is added up over the members of a batch
GROUPS = 8
#: operations below which handing work to another thread costs more than it saves
WORTHWHILE = 1 << 16
_kept: ContextVar[int] = ContextVar("threads of blocks", default=0)


def n_groups(n_members: int) -> int:
    """How many partial sums there are."""
    return max(1, min(GROUPS, n_members))


def group(member: int, n_members: int) -> int:
    """The partial sum that a member adds to: contiguous stretches of members."""
    return member * n_groups(n_members) // max(n_members, 1)


def first_of(group: int, n_members: int) -> int:
    """The first member of a group. Satisfies group(first_of(g)) == g and group(first_of(g) - 1) == g - 1."""
    return -(-group * n_members // n_groups(n_members))


def groups_of(n_members: int) -> NDArray[np.int64]:
    """The group of every member, (n_members,)."""
    if n_members == 1:
        return np.zeros(1, dtype=np.int64)
    return np.arange(n_members, dtype=np.int64) * n_groups(n_members) // max(n_members, 1)


@contextmanager
def keep_threads() -> Generator[None]:
    """Inside, blocks have the threads that torch had before, even where torch itself is held to one."""
    token = _kept.set(n_threads())
    try:
        yield
    finally:
        _kept.reset(token)


def n_threads() -> int:
    """Threads that blocks are handed to."""
    return _kept.get() or torch.get_num_threads()


def over_blocks(run: Callable[[slice], Any], n_members: int, n_operations: int) -> list[Any]:
    """Call run(slice) for contiguous blocks that cover the members, and return what came back, in order.

    No two blocks share a group. Everything runs here where there is one thread or little to do.
    """
    several = 1 if n_operations < WORTHWHILE else min(n_threads(), n_groups(n_members))
    if several <= 1:
        return [run(slice(0, n_members))]
    ends = [first_of(n_groups(n_members) * i // several, n_members) for i in range(several + 1)]
    blocks = [slice(begin, end) for begin, end in itertools.pairwise(ends)]
    others = [_pool(several - 1).submit(run, block) for block in blocks[1:]]
    return [run(blocks[0]), *(other.result() for other in others)]


@functools.cache
def _pool(n_workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_workers, thread_name_prefix="probseq")
