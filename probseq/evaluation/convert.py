"""Filters as networks, networks as filters.

    RNN.from_lds(lds)                      the Kalman filter, its matrices as weights
    RNN.from_lds(lds, steady_state=True)   a linear network, h' = A (I - K C) h + A K y + B u, the gain settled
    RNN.from_hmm(hmm)                      the forward algorithm: beliefs times likelihoods
    distill(teacher, cell)                 a network that learns a model from its samples

The converted networks give the likelihood of their models, gradients included, and are trained like any other from
there. In a gap a network reads its own expectation instead of integrating out, so that only complete rows are exact
(and, of an HMM, rows that are missing as a whole).

The steady-state network is exact where the filter's covariance has settled from the start (`initial_cov` is the
solution of the Riccati equation), and beyond the settling time elsewhere.

Reference: Anderson and Moore (1979), Optimal filtering, ch. 4 (the steady state).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.cells import Cell, Elman, Kalman, Multiplicative
from probseq.checks import whole_number
from probseq.constraints import psd_factor
from probseq.emissions import heads
from probseq.emissions.heads import Head
from probseq.emissions.heads.scales import factor_outputs, inverse_softplus
from probseq.models.hmm import HMM
from probseq.models.linear_gaussian import LinearGaussianModel, System
from probseq.models.rnn import RNN
from probseq.randomness import spawn

DOUBLE = torch.float64


# ------------------------------------------------------------------------------------------ linear dynamical systems


@torch.no_grad()
def from_lds(lds: LinearGaussianModel, *, steady_state: bool = False) -> RNN:
    """The filter of a linear system as a network in float64. Satisfies from_lds(lds).log_prob(y) == lds.log_prob(y).

    With `steady_state` the cell is `Elman(activation="linear")`, otherwise `cells.Kalman`. Raises ValueError for
    diffuse starts and for matrices that vary in time.
    """
    if not isinstance(lds, LinearGaussianModel):
        raise TypeError(f"lds must be a linear Gaussian model such as probseq.LDS, got a {type(lds).__name__}")
    if lds.varying or type(lds).system_at is not LinearGaussianModel.system_at:
        raise ValueError("lds must have matrices that are the same at every step: a network's weights are")
    system = lds.system()
    if system.initial_diffuse is not None and bool((system.initial_diffuse != 0).any()):
        raise ValueError("lds must have a proper start: a diffuse belief has no density that a network could say")
    return (_linear_network if steady_state else _kalman_network)(lds, system)


def _offsets(lds: LinearGaussianModel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """B (n, p), b (n,), D (m, p) and d (m,) of B u + b and D u + d, read off their values."""
    n, m, p = len(lds.system().initial_mean), int(lds.event_shape[0]), lds.input_dim
    parts: list[Tensor] = []
    for offset_at, size in ((lds.transition_offset_at, n), (lds.emission_offset_at, m)):
        nothing = torch.zeros(size, dtype=DOUBLE)
        constant = offset_at(torch.zeros(p, dtype=DOUBLE) if p else None)
        constant = nothing if constant is None else constant
        both = offset_at(torch.eye(p, dtype=DOUBLE)) if p else None
        slopes = nothing.new_zeros(size, p) if both is None else (both - constant).mT
        parts += [slopes, constant]
    return parts[0], parts[1], parts[2], parts[3]


def _kalman_network(lds: LinearGaussianModel, system: System) -> RNN:
    n, m = len(system.initial_mean), int(lds.event_shape[0])
    cell = Kalman(n, m)
    model = RNN(m, cell=cell, head=_gaussian_head(), input_dim=lds.input_dim, dtype=DOUBLE, seed=0)
    into, level, shown, shift = _offsets(lds)
    values = {
        "transition_matrix": system.transition_matrix,
        "raw_transition_cov": psd_factor(system.transition_cov),
        "emission_matrix": system.emission_matrix,
        "raw_emission_cov": psd_factor(system.emission_cov),
        "initial_mean": system.initial_mean,
        "raw_initial_cov": psd_factor(system.initial_cov),
        "transition_input_matrix": into,
        "emission_input_matrix": shown,
        "transition_offset": level,
        "emission_offset": shift,
    }
    for name, value in values.items():
        getattr(cell, name).copy_(value)
    model.head.weights.copy_(torch.eye(cell.output_size))
    model.head.bias.zero_()
    model.started = True
    return model


def _gaussian_head() -> heads.Gaussian:
    return heads.Gaussian("full", scale_floor=0.0)


def _linear_network(lds: LinearGaussianModel, system: System) -> RNN:
    """Units: the predicted mean; u_t where the emission reads it; and impulses that make the first mean m_0."""
    n, m, p = len(system.initial_mean), int(lds.event_shape[0]), lds.input_dim
    into, level, shown, shift = _offsets(lds)
    gain, cov = steady_gain(lds)
    reads = bool((shown != 0).any())
    first = system.initial_mean - level + gain @ shift
    kept, once, early = p if reads else 0, int(bool((first != 0).any())), p
    mean, held, impulse, u_0 = torch.arange(n + kept + once + early).split((n, kept, once, early))
    cell = Elman(n + kept + once + early, "linear")
    model = RNN(
        m, cell=cell, head=_gaussian_head(), input_dim=p, start_from_inputs=p > 0, dtype=DOUBLE, seed=0
    )  # fmt: skip
    for part in (*cell.parameters(), *model.head.parameters()):
        part.zero_()
    cell.input_weights[:n, :m], cell.input_weights[:n, m:] = gain, into
    cell.bias[:n] = level - gain @ shift
    recurrent = cell.recurrent_weights
    recurrent[:n, :n] = system.transition_matrix - gain @ system.emission_matrix
    recurrent[:n, impulse] = first.unsqueeze(-1)[:, :once]
    recurrent[:n, u_0] = -into
    cell.initial_activity[impulse] = 1.0
    if model.start_weights is not None:
        model.start_weights[u_0] = torch.eye(p, dtype=DOUBLE)
    if reads:
        cell.input_weights[held, m:] = torch.eye(p, dtype=DOUBLE)
        recurrent[:n, held] = -gain @ shown
        model.head.weights[:m, held] = shown
    spread = system.emission_matrix @ cov @ system.emission_matrix.mT + system.emission_cov
    model.head.weights[:m, mean] = system.emission_matrix
    model.head.bias.copy_(torch.cat([shift, _triangle_outputs(torch.linalg.cholesky(spread))]))
    model.started = True
    return model


def _triangle_outputs(factor: Tensor) -> Tensor:
    """The outputs of a full Gaussian head that say this triangle, however small."""
    outputs = factor_outputs(factor, "full", 0.0)
    outputs[: len(factor)] = inverse_softplus(factor.diagonal())
    return outputs


@torch.no_grad()
def steady_gain(lds: LinearGaussianModel) -> tuple[Tensor, Tensor]:
    """A K (n, m) and P (n, n) of the Kalman filter that has settled: P = A (P - P C' S^-1 C P) A' + Q.

    Satisfies m_{t+1} = A m_t + (A K) (y_t - C m_t). Raises ValueError where there is no such P.
    """
    from scipy.linalg import solve_discrete_are

    _, _, a, q, c, r, _ = lds.system()
    try:
        cov = torch.from_numpy(solve_discrete_are(a.mT.numpy(), c.mT.numpy(), q.numpy(), r.numpy()))
        for _ in range(8):  # the equation itself, which contracts, takes the solver's last digits away
            cov = _riccati(a, q, c, r, cov)[1]
        return _riccati(a, q, c, r, cov)[0], cov
    except (ValueError, torch.linalg.LinAlgError) as error:
        raise ValueError(f"the Riccati equation of this model has no stabilising solution: {error}") from error


def _riccati(a: Tensor, q: Tensor, c: Tensor, r: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """A K, and the predicted covariance one step later."""
    factor = torch.linalg.cholesky(c @ cov @ c.mT + r)
    gain = torch.cholesky_solve(c @ cov, factor).mT
    keep = torch.eye(len(a), dtype=DOUBLE) - gain @ c
    updated = keep @ cov @ keep.mT + gain @ r @ gain.mT
    moved = a @ updated @ a.mT + q
    return a @ gain, (moved + moved.mT) / 2


# ---------------------------------------------------------------------------------------------- hidden Markov models


@torch.no_grad()
def from_hmm(hmm: HMM) -> RNN:
    """The filter of a hidden Markov model as a network in float64: `cells.Multiplicative` and `heads.StateMixture`.

    Satisfies from_hmm(hmm).log_prob(y) == hmm.log_prob(y). Raises ValueError for emissions that read inputs or the
    rows before.
    """
    if not isinstance(hmm, HMM):
        raise TypeError(f"hmm must be a probseq.HMM, got a {type(hmm).__name__}")
    cell = Multiplicative(hmm.n_states)
    head = heads.StateMixture(hmm.emission, direct=True)
    model = RNN(int(hmm.event_shape[0]), cell=cell, head=head, input_dim=hmm.n_drivers, dtype=DOUBLE, seed=0)
    cell.raw_initial_probs.copy_(hmm._log_initial())
    cell.raw_transition_matrix.copy_(hmm._log_transition())
    cell.transition_weights.copy_(hmm.transition_weights)
    model.started = True
    return model


# -------------------------------------------------------------------------------------------------- the other way


def distill(
    teacher: StateSpaceModel[Any],
    cell: Cell,
    head: Head | None = None,
    *,
    n_sequences: int = 2000,
    length: int = 64,
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
    **options: Any,
) -> RNN:
    """A network with this cell, trained on samples of `teacher`; a tenth as many more decide when it has learned.

    `head` is one that suits what the teacher says unless given; `options` are those of `fit`. How much it lost is
    `teacher.score(y) - student.score(y)` on new samples: an estimate of the divergence rate in nats per step.
    """
    if teacher.input_dim:
        raise ValueError("teacher must need no inputs: there are none to draw from")
    n_sequences, length = whole_number("n_sequences", n_sequences), whole_number("length", length)
    data_seed, held_seed, fit_seed = spawn(seed, 3)
    data = teacher.sample(length, (n_sequences,), seed=data_seed)
    held = teacher.sample(length, (max(1, n_sequences // 10),), seed=held_seed)
    head = head_for(teacher, data) if head is None else head
    student = RNN(int(teacher.event_shape[0]), cell=cell, head=head, dtype=dtype, seed=fit_seed)
    return student.fit(data, validation=held, seed=fit_seed, **options)


def head_for(teacher: StateSpaceModel[Any], data: Tensor) -> Head:
    """A head that can say what the teacher says: Gaussian, categories, or binary vectors."""
    if teacher.real_valued:
        return heads.Gaussian("full" if data.shape[-1] > 1 else "diag")
    if isinstance(teacher, HMM):
        n_symbols = getattr(teacher.emission, "n_symbols", None)
        if n_symbols is not None and data.shape[-1] == 1:
            return heads.Categorical(int(n_symbols))
    if isinstance(teacher, RNN):
        fresh: Head = type(teacher.head)(**copy.deepcopy(teacher.head).sizes())
        return fresh
    if bool(((data == 0) | (data == 1)).all()):
        return heads.Bernoulli()
    raise ValueError(f"head must be given for what a {type(teacher).__name__} says")
