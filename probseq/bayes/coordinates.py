"""The coordinates of a posterior: unconstrained numbers theta, one to one with what is free in a model.

    theta  ->  stored numbers  ->  public values x
    log p(theta, y) = log p(y) + log prior(x) + log |dx / d theta|

A `Block` is one parameter. What it is a density over ("x") are the numbers that are free:

| stored as            | theta                            | density over       | log |dx / d theta|                 |
|----------------------|----------------------------------|--------------------|------------------------------------|
| real x               | x                                | x                  | 0                                  |
| log x                | log x                            | x (variances)      | sum theta                          |
| log-odds             | log-odds                         | p                  | sum log p (1 - p)                  |
| Interval (log-odds)  | log-odds                         | x                  | sum log width share (1 - share)    |
| logits of K          | K - 1 coordinates, centred       | p_1 .. p_{K-1}     | sum log p_k + 1/2 log K            |
| factor L of S (n, n) | below the diagonal; logs on it   | lower triangle     | n log 2 + sum (n - i + 2) log L_ii |
| stationary (AR)      | atanh partial correlations r     | coefficients       | of r, and sum log (1 - r_k^2)      |
| any other, one size  | as stored                        | the value          | log |det| by autograd              |

with i = 1 .. n. Structural zeros, held entries and parameters that are not learned are no coordinates. Logits are
stored with one number too many; the basis of the centred ones is orthonormal (isometric log-ratios: Egozcue et al.
2003, Mathematical Geology 35). The factor's determinant: Muirhead, Aspects of Multivariate Statistical Theory (1982),
thm 2.1.9. That of the partial correlations: Jones (1987), Applied Statistics 36, p. 38.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from probseq import parameters as P
from probseq.constraints import Interval, stationary_coefficients
from probseq.parameters import Param, Parametric, parametric_modules

Kind = Literal["real", "log", "share", "interval", "simplex", "factor", "stationary", "other"]


@dataclass(eq=False)
class Block:
    """One free parameter of a model: its name, its owner, and where its coordinates stand in theta."""

    name: str
    owner: Any  # a Parametric, None for a plain tensor
    param: Any  # a Param, or None
    stored: nn.Parameter
    kind: Kind
    free: Tensor
    place: slice = field(default_factory=lambda: slice(0))
    #: the stored numbers where nothing is free
    template: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.template = self.stored.detach().to(torch.float64).clone()

    @property
    def size(self) -> int:
        """How many coordinates."""
        return self.place.stop - self.place.start

    @cached_property
    def basis(self) -> Tensor | None:
        """Of logits: (free - 1, all) from coordinates to centred logits, None where every row is whole."""
        if self.whole:
            return None
        rows = self.free.reshape(-1, self.free.shape[-1])
        parts = [_spread(_centred(int(row.sum())), row) for row in rows]
        return torch.block_diag(*parts)

    @cached_property
    def centred(self) -> Tensor:
        return _centred(self.template.shape[-1])

    @cached_property
    def whole(self) -> bool:
        return bool(self.free.all())

    @cached_property
    def definite(self) -> bool:
        """Whether the diagonal of a factor is stored as logarithms."""
        return self.param is not None and self.param.constraint is P.definite

    # ---- there: stored numbers, public values, volume

    def raw(self, theta: Tensor) -> Tensor:
        """The stored numbers at these coordinates (size,)."""
        shape = self.template.shape
        if self.kind == "simplex":
            if self.basis is None:
                return (theta.reshape(-1, shape[-1] - 1) @ self.centred).reshape(shape)
            return torch.where(self.free, (theta @ self.basis).reshape(shape), -torch.inf)
        if self.kind == "factor":
            lower = torch.zeros(shape, dtype=theta.dtype).masked_scatter(self.free, theta)
            if self.definite:
                return lower
            return lower.tril(-1) + torch.diag_embed(lower.diagonal(dim1=-2, dim2=-1).exp())
        return theta.reshape(shape) if self.whole else self.template.masked_scatter(self.free, theta)

    def public(self, raw: Tensor) -> Tensor:
        """What the prior is a density of, shape of what is stored, and of matrices the matrices."""
        if self.kind == "log":
            return raw.exp()
        if self.kind == "simplex":
            return raw.softmax(-1)
        if self.kind == "factor":
            return (P.definite if self.definite else P.semidefinite).forward(raw)
        if self.kind == "real" or self.param is None:
            return raw
        if self.kind == "other" and self.owner is not None:
            return self.param.forward(self.owner, raw)
        return self.param.constraint.forward(raw)

    def log_volume(self, theta: Tensor, raw: Tensor) -> Tensor:
        """log |d public / d theta|."""
        if self.kind == "real":
            return _outside_stable(self, raw)
        if self.kind == "log":
            return theta.sum()
        if self.kind in ("share", "interval"):
            return _log_slope(theta).sum() + theta.numel() * self._log_width
        if self.kind == "simplex":
            rows = self.free.sum(-1)
            log_probs = torch.where(self.free, raw.log_softmax(-1), 0.0)
            return log_probs.sum() + 0.5 * float(rows.to(raw.dtype).log().sum())
        if self.kind == "factor":
            return _factor_volume(self, raw)
        if self.kind == "stationary":
            return _stationary_volume(theta)
        return _volume_by_autograd(self, raw)

    @cached_property
    def _log_width(self) -> float:
        constraint = None if self.param is None else self.param.constraint
        return math.log(constraint.width) if isinstance(constraint, Interval) else 0.0

    # ---- and back

    def theta(self, raw: Tensor) -> Tensor:
        """The coordinates of stored numbers. Satisfies public(raw(theta(x))) == public(x)."""
        raw = raw.detach().to(torch.float64)
        if self.kind == "simplex":
            if self.basis is None:
                return (raw @ self.centred.mT).flatten()
            return self.basis @ torch.where(self.free, raw, 0.0).flatten()
        if self.kind == "factor" and not self.definite:
            cov = P.semidefinite.forward(raw)
            lower = P.psd_factor(cov)
            least = 1e-6 * cov.diagonal(dim1=-2, dim2=-1).amax(-1, keepdim=True).clamp(min=1e-300).sqrt()
            diagonal = lower.diagonal(dim1=-2, dim2=-1)
            raw = lower.tril(-1) + torch.diag_embed(torch.maximum(diagonal, least.expand_as(diagonal)).log())
        return raw[self.free]

    def place_raw(self, raw: Tensor) -> None:
        """Write stored numbers into the model."""
        with torch.no_grad():
            self.stored.copy_(raw)

    def value(self) -> Tensor:
        """The public value of the model as it is, in full."""
        if self.owner is None or self.param is None:
            return self.stored.detach().clone()
        with torch.no_grad():
            return self.param.__get__(self.owner, type(self.owner)).detach().clone()


def blocks_of(model: nn.Module) -> list[Block]:
    """Every free parameter of a model that has values, in its order. ValueError where nothing is free."""
    blocks: list[Block] = []
    declared: set[int] = set()
    for path, module in parametric_modules(model):
        for name, param in module.params().items():
            stored = module._parameters[param.raw_name]
            assert stored is not None
            declared.add(id(stored))
            if stored.requires_grad and stored.numel():
                param.raw(module)  # NotFitted where there is no value
                blocks.append(_declared(f"{path}.{name}" if path else name, module, param, stored))
    for name, stored in model.named_parameters():
        if id(stored) not in declared and stored.requires_grad and stored.numel():
            blocks.append(Block(name, None, None, stored, "real", torch.ones_like(stored, dtype=torch.bool)))
    start, kept = 0, []
    for block in blocks:
        count = int(block.free.sum())
        if block.kind == "simplex":
            count -= int((block.free.sum(-1) > 0).sum())
        block.place = slice(start, start := start + count)
        kept += [block] if count else []
    if not kept:
        raise ValueError(f"this {type(model).__name__} has no free parameter to draw")
    return kept


def _declared(name: str, module: Parametric, param: Param, stored: nn.Parameter) -> Block:
    kind = _kind(module, param, stored)
    free = torch.ones_like(stored, dtype=torch.bool)
    if kind in ("simplex", "log", "share"):  # zeros, and ones of probabilities, stay what they are
        free = torch.isfinite(stored.detach())
    if kind == "factor":
        free = free.tril()
    held = module.held_entries.get(name.rpartition(".")[2])
    if held is not None:
        free = free & ~held
    return Block(name, module, param, stored, kind, free)


def _kind(module: Parametric, param: Param, stored: nn.Parameter) -> Kind:
    constraint = param.constraint
    if constraint is P.real:
        return "real"
    if constraint in (P.semidefinite, P.definite):
        is_factor = stored.ndim == len(param.value_shape(module))
        return "factor" if is_factor else "log"
    if constraint is P.nonnegative:
        return "log"
    if constraint is P.probability:
        return "share"
    if constraint is P.simplex:
        return "simplex"
    if isinstance(constraint, Interval):
        return "interval"
    return "stationary" if constraint is stationary_coefficients else "other"


def _centred(k: int) -> Tensor:
    """An orthonormal basis (k - 1, k) of the vectors that sum to zero (Helmert's)."""
    rows = torch.zeros(max(k - 1, 0), k, dtype=torch.float64)
    for i in range(1, k):
        rows[i - 1, :i] = 1 / math.sqrt(i * (i + 1))
        rows[i - 1, i] = -i / math.sqrt(i * (i + 1))
    return rows


def _spread(rows: Tensor, free: Tensor) -> Tensor:
    wide = rows.new_zeros(len(rows), len(free))
    wide[:, free] = rows
    return wide


def _log_slope(theta: Tensor) -> Tensor:
    """log of the slope of the logistic function."""
    return nn.functional.logsigmoid(theta) + nn.functional.logsigmoid(-theta)


def _factor_volume(block: Block, raw: Tensor) -> Tensor:
    diagonal = raw.diagonal(dim1=-2, dim2=-1)
    logs = diagonal if block.definite else diagonal.log()
    n = raw.shape[-1]
    powers = torch.arange(n + 1, 1, -1, dtype=raw.dtype)
    return (logs @ powers).sum() + raw[..., 0, 0].numel() * n * math.log(2)


def _stationary_volume(theta: Tensor) -> Tensor:
    """Partial correlations r = tanh theta to coefficients: prod (1 - r_k)^[k / 2] (1 + r_k)^[(k - 1) / 2]."""
    k = torch.arange(1, len(theta) + 1)
    log_less, log_more = nn.functional.logsigmoid(-2 * theta), nn.functional.logsigmoid(2 * theta)
    both = math.log(2)  # 1 - tanh x = 2 sigmoid(-2 x)
    slopes = (log_less + log_more + 2 * both).sum()
    return slopes + ((k // 2) * (log_less + both)).sum() + (((k - 1) // 2) * (log_more + both)).sum()


def _outside_stable(block: Block, raw: Tensor) -> Tensor:
    """-inf where the model would shrink the matrix to keep it stable: the prior is cut off there."""
    owner, zero = block.owner, raw.new_zeros(())
    if owner is None or block.param is None or block.name.rpartition(".")[2] != "transition_matrix":
        return zero
    kept = block.param.forward(owner, raw.detach())
    return zero if kept.shape != raw.shape or torch.equal(kept, raw.detach()) else zero - torch.inf


def _volume_by_autograd(block: Block, raw: Tensor) -> Tensor:
    jacobian: Any = torch.autograd.functional.jacobian(block.public, raw, create_graph=True)
    square = jacobian.reshape(-1, raw.numel())
    if square.shape[0] != square.shape[1]:
        raise ValueError(f"{block.name} has {square.shape[0]} public numbers but {square.shape[1]} stored ones")
    return torch.linalg.slogdet(square)[1]
