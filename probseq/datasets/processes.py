"""Processes whose exact filter is known: teachers for belief probes, each the model itself, to be sampled and filtered.

    teacher = datasets.mess3()
    y = teacher.sample(64, (1000,), seed=0);   teacher.filter(y).predicted          # the belief a network should find

An edge-emitting process is told by its matrices T^x, T^x_ij = p(next state j, symbol x | state i). Here states emit, so
that a state is the pair (where the process arrived, the symbol it said on the way), and the start is stationary.

| function            | symbols | what it is                                                                   |
|---------------------|---------|------------------------------------------------------------------------------|
| `mess3`             | 3       | three states, each fond of a symbol: beliefs form a fractal in the simplex   |
| `even`              | 2       | runs of ones have even length                                                |
| `golden_mean`       | 2       | no two zeros in a row                                                        |
| `zero_one_random`   | 2       | 0, 1, a fair coin, and again (Z1R)                                           |
| `random_random_xor` | 2       | two fair coins, then their exclusive or, flipped with probability `noise`    |
| `local_level`       | real    | a random walk in noise, stationary if `decay` < 1                            |
| `oscillator`        | real    | a noisy damped rotation, of which one axis is seen in noise                  |

Known pasts left aside, a step of `even`, `golden_mean` and `random_random_xor()` costs 2/3 log 2 nats, one of
`zero_one_random` 1/3 log 2.

Marzen, S. & Crutchfield, J. (2017). Nearly maximally predictive features and their dimensions. Phys. Rev. E 95.
Shai, A. et al. (2024). Transformers represent belief state geometry in their residual stream. NeurIPS.
Crutchfield, J. & Feldman, D. (2003). Regularities unseen, randomness observed. Chaos 13 (even, golden mean, RRXOR).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from probseq.emissions import Categorical
from probseq.models.hmm import HMM
from probseq.models.lds import LDS
from probseq.stationary import stationary_law


def from_edges(edges: dict[tuple[int, int], dict[int, float]], n_symbols: int) -> HMM:
    """The state-emitting model of an edge-emitting process, `edges[state, symbol] = {next state: probability}`.

    States are the pairs (next state, symbol) that occur, in order; the start is the stationary law.
    """
    pairs = sorted({(after, symbol) for (_, symbol), moves in edges.items() for after in moves})
    matrix = torch.zeros(len(pairs), len(pairs), dtype=torch.float64)
    for row, (state, _) in enumerate(pairs):
        for column, (after, symbol) in enumerate(pairs):
            matrix[row, column] = edges.get((state, symbol), {}).get(after, 0.0)
    says = torch.tensor([[float(symbol == x) for x in range(n_symbols)] for _, symbol in pairs], dtype=torch.float64)
    return HMM(emission=Categorical(probs=says), transition_matrix=matrix, initial_probs=stationary_law(matrix))


def mess3(stay: float = 0.9, fond: float = 0.85) -> HMM:
    """Three states that stay with probability `stay` and say their own symbol with probability `fond`.

    In the literature's letters stay = 1 - 2 x and fond = a. Beliefs spread wider the closer both are to 1.
    """
    _probability("stay", stay)
    _probability("fond", fond)
    eye = np.eye(3)
    return HMM(
        emission=Categorical(probs=_circle(fond, eye)),
        transition_matrix=_circle(stay, eye),
        initial_probs=np.full(3, 1 / 3),
    )


def even() -> HMM:
    """A coin is thrown: tails says 0; heads says 1 and then 1 again."""
    return from_edges({(0, 0): {0: 0.5}, (0, 1): {1: 0.5}, (1, 1): {0: 1.0}}, 2)


def golden_mean() -> HMM:
    """A coin is thrown: heads says 1; tails says 0, and then comes a 1."""
    return from_edges({(0, 1): {0: 0.5}, (0, 0): {1: 0.5}, (1, 1): {0: 1.0}}, 2)


def zero_one_random() -> HMM:
    """0, then 1, then a fair coin; nothing tells at first which of the three is next."""
    return from_edges({(0, 0): {1: 1.0}, (1, 1): {2: 1.0}, (2, 0): {0: 0.5}, (2, 1): {0: 0.5}}, 2)


def random_random_xor(noise: float = 0.0) -> HMM:
    """Two fair coins and their exclusive or, again and again; the third bit is wrong with probability `noise`."""
    _probability("noise", noise)
    edges: dict[tuple[int, int], dict[int, float]] = {(0, bit): {1 + bit: 0.5} for bit in (0, 1)}
    for first in (0, 1):  # states 1, 2: the first coin; 3, 4: the exclusive or that is due
        edges |= {(1 + first, bit): {3 + (first ^ bit): 0.5} for bit in (0, 1)}
    for due in (0, 1):
        shares = {due: 1 - noise, 1 - due: noise}
        edges |= {(3 + due, bit): {0: share} for bit, share in shares.items() if share > 0}
    return from_edges(edges, 2)


def local_level(drift: float = 0.3, noise: float = 1.0, decay: float = 1.0) -> LDS:
    """z' = decay z + N(0, drift^2), y = z + N(0, noise^2): what a moving average with the right weights predicts best.

    A level that decays starts in its stationary law, a random walk at N(0, noise^2).
    """
    if not (drift > 0 and noise > 0):
        raise ValueError(f"drift and noise must be positive, got {drift!r} and {noise!r}")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must lie in [0, 1], got {decay!r}")
    spread = noise**2 if decay == 1 else drift**2 / (1 - decay**2)
    return LDS(
        transition_matrix=[[decay]],
        transition_cov=[[drift**2]],
        emission_matrix=[[1.0]],
        emission_cov=[[noise**2]],
        initial_mean=[0.0],
        initial_cov=[[spread]],
    )


def oscillator(period: float = 12.0, damping: float = 0.95, noise: float = 0.5) -> LDS:
    """A state that turns once in `period` steps, shrinks by `damping` and is driven; its first coordinate is seen.

    The driving has such a size that the state has variance 1 in either coordinate, which is also its start.
    """
    if not (period > 0 and noise > 0 and 0 <= damping < 1):
        raise ValueError(
            f"period and noise must be positive, damping in [0, 1); got {period!r}, {noise!r}, {damping!r}"
        )
    angle = 2 * math.pi / period
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return LDS(
        transition_matrix=damping * turn,
        transition_cov=(1 - damping**2) * np.eye(2),
        emission_matrix=[[1.0, 0.0]],
        emission_cov=[[noise**2]],
        initial_mean=[0.0, 0.0],
        initial_cov=np.eye(2),
    )


def _circle(share: float, eye: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows with `share` on the diagonal and the rest in equal parts."""
    return share * eye + (1 - share) / 2 * (1 - eye)


def _probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability, got {value!r}")
