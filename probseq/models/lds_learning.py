"""The M-step of a linear dynamical system: three regressions with expected moments.

    initial      z_0 on 1               [initial_mean]                                              initial_cov
    transition   z_t on (z_{t-1}, u_t, 1)   [transition_matrix | transition_input_matrix | offset]  transition_cov
    emission     y_t on (z_t, u_t, 1)       [emission_matrix | emission_input_matrix | offset]      emission_cov

Each maximises E[log p] = -(N log det Q + tr(Q^-1 S(W))) / 2 + log prior over the weights W and the covariance Q of its
noise, S(W) being the expected scatter of the residuals. Without priors on W and with whole blocks held the best W does
not depend on Q: least squares. With a ridge or single held entries it does; then W is best for the last Q and Q for
the new W, two steps that each raise the bound (ECM: Meng and Rubin 1993, Biometrika 80). A missing coordinate of y_t
enters through its conditional mean and covariance given the state and the observed ones.

References: Shumway and Stoffer (1982), J. Time Series Analysis 3; Ghahramani and Hinton (1996), CRG-TR-96-2.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from probseq.errors import SingularInnovation, StateOverflow
from probseq.matrix_priors import InverseWishart, Normal
from probseq.models.lds_parameters import CovarianceParam, stable_step
from probseq.models.normal import symmetric
from probseq.ops.modes import array_of
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from probseq.models.lds import LDS

INITIAL = ("initial_mean",)
TRANSITION = ("transition_matrix", "transition_input_matrix", "transition_offset")
EMISSION = ("emission_matrix", "emission_input_matrix", "emission_offset")


@dataclass
class Regression:
    """Expected moments of target_{t+shift} = W (state_t, u_{t+shift}, 1) + noise; see `kernels/regression.py`."""

    state: Tensor  # (B, T, n) means
    inputs: Tensor | None  # (B, T, p)
    target: Tensor  # (B, T, d) means
    rows: Tensor | None  # (B, T - shift) which steps, all where None
    shift: int
    state_cov: Tensor  # (n, n) summed over the rows, as are the next two
    cross: Tensor  # (d, n)
    target_cov: Tensor  # (d, d)

    def __post_init__(self) -> None:
        n, d = self.state.shape[-1], self.target.shape[-1]
        k = n + (0 if self.inputs is None else self.inputs.shape[-1]) + 1
        self.design_cov = torch.nn.functional.pad(self.state_cov, (0, k - n, 0, k - n))
        self.cross = torch.nn.functional.pad(self.cross, (0, k - n))
        gram, moment = np.zeros((k, k)), np.zeros((d, k))
        #: how many rows there are
        self.count: int = _sums().moments(*self._arrays(), gram, moment)
        self.gram, self.moment = torch.from_numpy(gram) + self.design_cov, torch.from_numpy(moment) + self.cross

    def _arrays(self) -> tuple[Any, ...]:
        inputs = np.empty((len(self.state), 0, 0)) if self.inputs is None else array_of(self.inputs)
        rows = np.empty((len(self.state), 0), dtype=np.bool_) if self.rows is None else array_of(self.rows)
        return array_of(self.state), inputs, array_of(self.target), rows, self.shift

    def scatter(self, weights: Tensor) -> Tensor:
        """S(W), the expected sum of residual residual'; positive semidefinite up to rounding."""
        total = np.zeros(self.target_cov.shape)
        _sums().scatter(*self._arrays(), array_of(weights), total)
        left = self.target_cov - 2 * symmetric(weights @ self.cross.mT) + weights @ self.design_cov @ weights.mT
        return _rounded(symmetric(left + torch.from_numpy(total)))


@functools.cache
def _sums() -> Any:
    """The compiled sums, imported when first needed."""
    return importlib.import_module("probseq.kernels.regression")


def maximise(model: LDS, sequences: Sequences, mean: Tensor, cov: Tensor, lag_one: Tensor) -> None:
    """Set every free parameter of the model to its best under these smoothed moments, (B, T, ...)."""
    first = sequences.lengths > 0
    begun, nothing = mean[first, 0].unsqueeze(0), mean.new_zeros(0, 0)
    starts = Regression(begun[..., :0], None, begun, None, 0, nothing, nothing.new_zeros(mean.shape[-1], 0),
                        cov[first, 0].sum(0))  # fmt: skip
    moves = _transition(sequences, mean, cov, lag_one)
    emitted = _emission(model, sequences, mean, cov)
    for names, noise, regression in (
        (INITIAL, "initial_cov", starts),
        (TRANSITION, "transition_cov", moves),
        (EMISSION, "emission_cov", emitted),
    ):
        if regression.count and not all(model.is_frozen(name) for name in (*names, noise)):
            _maximise(model, names, noise, regression)


def maximise_stationary(
    model: LDS, sequences: Sequences, mean: Tensor, cov: Tensor, lag_one: Tensor, objective: Tensor
) -> None:
    """`maximise` where the start follows from the dynamics, which its bound does not know.

    So the new dynamics are taken only as far, halving the way, as the objective itself does not fall; the emission,
    on which the start does not depend, is taken as it is.
    """
    moving = [f"raw_{name}" for name in (*TRANSITION, "transition_cov")]
    old = {name: raw.detach().clone() for name in moving if (raw := model._parameters[name]) is not None}
    maximise(model, sequences, mean, cov, lag_one)
    new = {name: model.get_parameter(name).detach().clone() for name in old}
    steps = {name: torch.where(torch.isfinite(new[name] - old[name]), new[name] - old[name], 0.0) for name in old}
    for share in (1.0, 0.5, 0.25, 0.125, 0.0):
        for name, step in steps.items():
            model.get_parameter(name).copy_(old[name] + share * step)
        try:
            if share == 0 or model._log_prob(sequences).sum() + model.log_prior() >= objective:
                return
        except (SingularInnovation, StateOverflow):
            continue


def _maximise(model: LDS, names: tuple[str, ...], noise: str, regression: Regression) -> None:
    d = regression.target.shape[-1]
    blocks = [getattr(model, name).reshape(d, -1) for name in names]
    old, free = (
        torch.cat(blocks, -1),
        torch.cat([_free(model, name, block) for name, block in zip(names, blocks, strict=True)], -1),
    )
    weights = old
    if bool(free.any()):
        weights = _best_weights(regression, old, free, _ridge(model, names, blocks), getattr(model, noise))
        if model.stable and names == TRANSITION:
            weights = stable_step(old, weights, model.state_dim)
        for name, section in zip(names, weights.split([block.shape[1] for block in blocks], -1), strict=True):
            if section.numel():
                model.assign(**{name: section.reshape(model.params()[name].value_shape(model))})
    model.assign(**{noise: _best_cov(model, noise, regression.scatter(weights), regression.count)})


def _free(model: LDS, name: str, block: Tensor) -> Tensor:
    if model.is_frozen(name):
        return torch.zeros_like(block, dtype=torch.bool)
    held = model.held_entries.get(name)
    return torch.ones_like(block, dtype=torch.bool) if held is None else ~held.reshape(block.shape)


def _ridge(model: LDS, names: tuple[str, ...], blocks: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Means and precisions of the normal priors on the weights, zero precision where there is none."""
    priors = [model.priors.get(name) for name in names]
    if not any(priors):
        return None
    means, precisions = [], []
    for prior, block in zip(priors, blocks, strict=True):
        known = isinstance(prior, Normal)
        means.append(prior.mean.reshape(block.shape) if known else torch.zeros_like(block))
        precisions.append(prior.standard_deviation.reshape(block.shape).pow(-2) if known else torch.zeros_like(block))
    return torch.cat(means, -1), torch.cat(precisions, -1)


def _best_weights(
    regression: Regression, old: Tensor, free: Tensor, ridge: tuple[Tensor, Tensor] | None, noise: Tensor
) -> Tensor:
    """The weights with the largest expected log-density plus log prior, given the noise covariance where it matters."""
    gram, moment = regression.gram, regression.moment
    if ridge is None and bool((free == free[0]).all()):
        columns, weights = free[0], old.clone()
        target = moment[:, columns] - old[:, ~columns] @ gram[~columns][:, columns]
        weights[:, columns] = _solve(gram[columns][:, columns], target.mT).mT
        return weights
    mean, precision = (old, torch.zeros_like(old)) if ridge is None else ridge
    slope = moment - old @ gram
    if bool((noise == torch.diag(noise.diagonal())).all()):  # then every row is a problem of its own
        weights = old.clone()
        for row, variance in enumerate(noise.diagonal()):
            f = free[row]
            if variance > 0 and bool(f.any()):
                pull = slope[row] + variance * precision[row] * (mean - old)[row]
                weights[row, f] += _solve(gram[f][:, f] + torch.diag(variance * precision[row, f]), pull[f])
        return weights
    values, vectors = torch.linalg.eigh(noise)
    proper = values > len(values) * torch.finfo(noise.dtype).eps * values[-1]
    inverse = (vectors[:, proper] / values[proper]) @ vectors[:, proper].mT
    f = free.flatten()
    curvature = torch.kron(inverse, gram)[f][:, f] + torch.diag(precision.flatten()[f])
    pull = (inverse @ slope + precision * (mean - old)).flatten()[f]
    step = torch.zeros_like(f, dtype=old.dtype)
    if bool(proper.all()):
        step[f] = _solve(curvature, pull)
    else:  # what has no noise must not move: only steps within the range of the noise
        rigid = torch.kron(vectors[:, ~proper].mT.contiguous(), torch.eye(old.shape[1], dtype=old.dtype))[:, f]
        basis = _null_space(rigid)
        step[f] = basis @ _solve(basis.mT @ curvature @ basis, basis.mT @ pull)
    return old + step.reshape(old.shape)


def _best_cov(model: LDS, name: str, scatter: Tensor, count: int) -> Tensor:
    """The noise covariance of the model's type for this scatter, the mode if there is a prior."""
    prior, total = model.priors.get(name), float(count)
    if isinstance(prior, InverseWishart):
        scatter, total = scatter + prior.scale, total + prior.extra_counts()
    param: Any = model.params()[name]
    cov = scatter / total
    return param.restricted(model, cov) if isinstance(param, CovarianceParam) else cov


# ---- expected moments


def _transition(sequences: Sequences, mean: Tensor, cov: Tensor, lag_one: Tensor) -> Regression:
    rows = None if sequences.rectangular else sequences.inside[:, 1:]
    state_cov, cross, target_cov = (_total(part, rows) for part in (cov[:, :-1], lag_one, cov[:, 1:]))
    return Regression(mean, sequences.inputs, mean, rows, 1, state_cov, cross, target_cov)


def _emission(model: LDS, sequences: Sequences, mean: Tensor, cov: Tensor) -> Regression:
    """Rows with nothing observed say nothing and are left out."""
    rows = None if sequences.complete and sequences.rectangular else sequences.seen
    observed = None if rows is None else sequences.observed[rows]
    y, state_cov = sequences.values, _total(cov, rows)
    if rows is None or observed is None or bool(observed.all()):
        none = y.new_zeros(y.shape[-1], mean.shape[-1]), y.new_zeros(y.shape[-1], y.shape[-1])
        return Regression(mean, sequences.inputs, y, rows, 0, state_cov, *none)
    mean, inputs = mean[rows], None if sequences.inputs is None else sequences.inputs[rows]
    y, gain, own = _complete(model, y[rows], observed, mean, inputs)
    reach, one = gain @ cov[rows], None if inputs is None else inputs.unsqueeze(0)
    own = own + torch.einsum("tik,tjk->ij", reach, gain)
    return Regression(mean.unsqueeze(0), one, y.unsqueeze(0), None, 0, state_cov, reach.sum(0), own)


def _complete(model: LDS, y: Tensor, observed: Tensor, mean: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """E[y_t | z_t = mean, observed y_t], its derivative in z_t per row, and the covariance left, summed over rows."""
    offset = model.emission_offset_at(u)
    matrix, noise = model.emission_matrix, model.emission_cov
    expected = mean @ matrix.mT + (0.0 if offset is None else offset)
    y = torch.where(observed, y, expected)
    gain = torch.where(observed.unsqueeze(-1), 0.0, matrix)
    if bool((noise == torch.diag(noise.diagonal())).all()):  # then what is observed says nothing about what is not
        return y, gain, torch.diag(noise.diagonal() * (~observed).sum(0))
    own = torch.zeros_like(noise)
    for rows in _by_pattern(observed):
        pattern = observed[rows[0]]
        o, h = pattern.nonzero().squeeze(-1), (~pattern).nonzero().squeeze(-1)
        if not len(h):
            continue
        slope = noise[h][:, o] @ torch.linalg.pinv(noise[o][:, o], hermitian=True)
        y[rows.unsqueeze(-1), h] += (y[rows][:, o] - expected[rows][:, o]) @ slope.mT
        gain[rows.unsqueeze(-1), h] -= slope @ matrix[o]
        own[h.unsqueeze(-1), h] += len(rows) * (noise[h][:, h] - slope @ noise[o][:, h])
    return y, gain, own


def _by_pattern(observed: Tensor) -> list[Tensor]:
    """The rows (N, m) in groups with the same entries."""
    packed = np.packbits(observed.numpy(), axis=1)
    _, group, counts = np.unique(packed, axis=0, return_inverse=True, return_counts=True)
    order = torch.from_numpy(np.argsort(group.reshape(-1), kind="stable"))
    return list(order.split(counts.tolist()))


def _total(values: Tensor, rows: Tensor | None) -> Tensor:
    """The sum of the marked steps of values (B, T, ...), or of all of them; a batch may share them (a stride of 0)."""
    if rows is not None:
        return values[rows].sum(0)
    return values[0].sum(0) * len(values) if len(values) and values.stride(0) == 0 else values.sum((0, 1))


# ---- linear algebra


def _solve(matrix: Tensor, target: Tensor) -> Tensor:
    """The solution of least norm; target (k,) or (k, r)."""
    columns = target if target.ndim == 2 else target.unsqueeze(-1)
    return torch.linalg.lstsq(matrix, columns, driver="gelsd").solution.reshape(target.shape)


def _null_space(matrix: Tensor) -> Tensor:
    """Orthonormal columns v with matrix v = 0."""
    _, sizes, directions = torch.linalg.svd(matrix)
    rank = int((sizes > max(matrix.shape) * torch.finfo(matrix.dtype).eps * sizes[0]).sum()) if len(sizes) else 0
    return directions[rank:].mT


def _rounded(cov: Tensor) -> Tensor:
    """A covariance that is a difference of sums: eigenvalues below zero are their rounding errors, and become zero."""
    values, vectors = torch.linalg.eigh(cov)
    if bool((values >= 0).all()):
        return cov
    return symmetric(vectors * values.clamp(min=0).unsqueeze(-2) @ vectors.mT)
