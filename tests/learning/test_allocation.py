"""Memory that is freed inside a fit is kept for the next step, and goes back when the fit ends."""

from __future__ import annotations

import ctypes
import resource
import sys

import numpy as np
import pytest
import torch

from probseq.learning import allocation
from probseq.learning.allocation import freed_memory_kept

GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version") if sys.platform == "linux" else False
PAGES = 64 * (1 << 20) // resource.getpagesize()


def faults(n_repeats: int) -> int:
    """Pages touched for the first time while arrays of 64 MB come and go."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n_repeats):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not GLIBC, reason="only glibc's allocator is steered")
def test_pages_are_touched_once_inside_and_anew_outside():
    with freed_memory_kept(), freed_memory_kept():
        faults(1)
        assert faults(8) < 4 * PAGES
    assert faults(8) > 6 * PAGES


@pytest.mark.skipif(not GLIBC, reason="only glibc's allocator is steered")
def test_memory_goes_back_at_the_end():
    with freed_memory_kept():
        np.ones(1 << 25)
        kept = resident()
    assert resident() < kept - 200


def resident() -> float:
    """Megabytes that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocation, "_glibc", lambda: None)
    with freed_memory_kept():
        assert np.ones(3).sum() == 3


def test_an_error_inside_gives_the_memory_back():
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        raise ValueError("inside")
    assert allocation._inside == 0
