"""Room that is used again: never while anything refers to it."""

from __future__ import annotations

import torch

from probseq.ops import memory


def place(purpose: str, n: int) -> int:
    return memory.empty(purpose, (n,)).ctypes.data


def test_a_room_is_used_again_once_nothing_refers_to_it() -> None:
    first = memory.empty("a", (20, 4))
    where = first.ctypes.data
    assert where % 64 == 0
    assert place("b", 80) != where
    part = first[0, 1:]
    del first
    assert place("a", 80) != where  # an array looks at it
    tensor = torch.from_numpy(memory.empty("a", (80,)))
    row = tensor[3:5].detach()
    del part, tensor
    where = place("a", 80)
    assert row.data_ptr() - where != 24  # a tensor does
    del row
    assert place("a", 80) == where
    assert place("a", 8) == where
    assert place("a", 81) != 0


def test_large_arrays_are_not_kept() -> None:
    size = memory.KEPT + 1
    first = memory.empty("large", (size,))
    assert first.shape == (size,)
    assert "large" not in memory._rooms.__dict__
