"""Reproducible randomness that leaves the global generators as they were."""

from __future__ import annotations

import numbers
import secrets
from collections.abc import Generator
from contextlib import contextmanager

import torch


def fresh_seed(seed: int | None) -> int:
    """`seed` itself, or one drawn from the operating system when it is None."""
    if seed is None:
        return secrets.randbits(63)
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer or None, got {seed!r}")
    return int(seed)


def generator(seed: int | None) -> torch.Generator:
    """A torch generator started from `seed`."""
    return torch.Generator().manual_seed(fresh_seed(seed))


@contextmanager
def seeded(seed: int | None) -> Generator[None]:
    """Inside, torch's global generator starts from `seed`; afterwards it is what it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(fresh_seed(seed))
        yield


def spawn(seed: int | None, n_children: int) -> list[int]:
    """`n_children` seeds for parallel or repeated work, a pure function of `seed`."""
    drawn = torch.randint(0, 2**62, (n_children,), generator=generator(seed))
    return [int(child) for child in drawn]
