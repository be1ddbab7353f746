"""The pool of blocks: memory that is in use is never handed out again, and what is free is."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator

import numpy as np
import pytest
import torch

from probseq.ops import pool

LARGE = (pool.LEAST // 64, 8)


@pytest.fixture(autouse=True)
def empty_pool() -> Generator[None]:
    gc.collect()
    pool.clear()
    yield
    pool.clear()


def place(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_a_block_serves_again_once_nothing_looks_at_it() -> None:
    array = pool.lease(*LARGE)
    assert (array.shape, array.dtype) == (LARGE, np.float64)
    assert array.flags["C_CONTIGUOUS"]
    first, view = place(array), torch.from_numpy(array)[3:]
    del array
    assert pool.waiting() == 0, "a tensor still looks at it"
    other = pool.lease(*LARGE)
    assert place(other) != first
    other[:] = 1.0
    view[:] = 2.0
    assert (other == 1.0).all()
    del view
    assert pool.waiting() >= 8 * LARGE[0] * LARGE[1]
    assert place(pool.lease(LARGE[0] * LARGE[1])) == first


def test_small_arrays_are_left_to_the_allocator() -> None:
    for shape in ((0, 3), (4,), (2, 0, 5)):
        assert pool.lease(*shape).shape == shape
    assert pool.waiting() == 0


def test_it_keeps_a_limited_number_of_bytes() -> None:
    blocks = [pool.lease(pool.KEPT // 32) for _ in range(6)]
    del blocks
    assert 0 < pool.waiting() <= pool.KEPT


def test_threads_never_share_a_block() -> None:
    wrong: list[int] = []

    def work(mark: int) -> None:
        for _ in range(200):
            array = pool.lease(*LARGE)
            array[::97] = mark
            if not (array[::97] == mark).all():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
