"""The observed information of a model, in a minimal description of its parameters.

    theta   the stored numbers that are free: per row of probabilities all log-odds against the largest one, per row
            of `transition_weights` those of the other targets, the triangle of a factor, logarithms of positive numbers
    I       - d2 log p(y) / d theta2 at the parameters there are

The compiled likelihoods have an exact first derivative only, so I is made of central differences of the gradient with
their first error term removed (Richardson): columns (4 D(h / 2) - D(h)) / 3. A step h is a share of 1 / sqrt(I_ii),
the unit in which I has a diagonal of ones; where theta is a logarithm, of at most 1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from probseq import parameters as P
from probseq.base import StateSpaceModel
from probseq.errors import ConvergenceWarning, IllConditionedWarning
from probseq.parameters import Param, Parametric, parametric_modules
from probseq.sequences import Sequences
from probseq.transitions import InputWeights

#: difference steps as a share of an entry's standard error
STEP = 2e-3
#: an entry whose edge is nearer than this many nats is at the boundary
EDGE = 1e-4
#: eigenvalues of the scaled information below the first are differencing error; up to the second they may stem from
#: a slope of log p(y) as large as they are, which bends along directions of no information
SINGULAR, MOST_SINGULAR = 1e-7, 1e-3
#: estimates further than this from the maximum, in standard errors, are said to be so
DISTANCE = 0.1

FACTORS = (P.semidefinite, P.definite)


# ---- coordinates: the free stored numbers


@dataclass
class Block:
    """One free parameter: where its numbers are stored, and which of them are free.

    Of weights that only count against each other, `reference` (rows, 1, P) is the target against which the others do.
    """

    name: str
    source: tuple[Parametric, Param] | None
    raw: nn.Parameter
    free: Tensor
    reference: Tensor | None = None
    place: slice = field(default_factory=lambda: slice(0))

    @property
    def constraint(self) -> P.Constraint:
        return P.real if self.source is None else self.source[1].constraint

    def value(self, raw: Tensor) -> Tensor:
        """The public value of stored numbers; of weights their difference to the reference, 0 for impossible moves."""
        if self.source is None:
            return raw
        owner, param = self.source
        if self.reference is not None:
            raw = torch.where(self.free, raw - raw.gather(1, self.reference), 0.0)
        return param.forward(owner, raw)

    def is_factor(self) -> bool:
        """Whether the triangle of a matrix is stored."""
        return self.constraint in FACTORS and self.raw.ndim == self.value(self.raw.detach()).ndim

    def edge(self) -> Tensor:
        """d theta / d log(distance to the edge of the set) per stored number; infinite where there is no edge."""
        raw = self.raw.detach()
        never, always = torch.full_like(raw, torch.inf), torch.ones_like(raw)
        if not self.is_factor():
            return never if self.constraint is P.real else always
        diagonal = torch.eye(raw.shape[-1], dtype=torch.bool).expand_as(raw)
        return torch.where(diagonal, raw.abs() / 2 if self.constraint is P.semidefinite else always, never)

    def logarithmic(self) -> Tensor:
        """Where a stored number is a logarithm, so that 1 is a large step."""
        if self.is_factor():
            diagonal = torch.eye(self.raw.shape[-1], dtype=torch.bool).expand_as(self.raw)
            return diagonal & (self.constraint is P.definite)
        return torch.full(self.raw.shape, self.constraint is not P.real)


def coordinates(model: nn.Module) -> list[Block]:
    """The free numbers of a model. Satisfies sum of block.free.sum() == model.n_parameters.

    Of an LDS whose states may be taken in any coordinates there are more.
    """
    blocks: list[Block] = []
    declared: set[int] = set()
    for path, module in parametric_modules(model):
        for name, param in module.params().items():
            raw = module._parameters[param.raw_name]
            assert raw is not None
            declared.add(id(raw))
            if raw.requires_grad and raw.numel():
                param.raw(module)  # NotFitted where there is no value
                free = torch.isfinite(raw.detach())
                free = free & ~module.held_entries[name] if name in module.held_entries else free
                block = Block(f"{path}.{name}" if path else name, (module, param), raw, free)
                blocks.append(_reduced(block))
    for name, raw in model.named_parameters():
        if id(raw) not in declared and raw.requires_grad and raw.numel():
            blocks.append(Block(name, None, raw, torch.isfinite(raw.detach())))
    start = 0
    for block in blocks:
        if block.raw.dtype != torch.float64:
            raise ValueError(f"standard errors need float64 parameters, but {block.name} is {block.raw.dtype}")
        block.place = slice(start, start := start + int(block.free.sum()))
    return blocks


def _reduced(block: Block) -> Block:
    """Leave one reference per row of probabilities or weights, the most probable, and the triangle of a factor."""
    if block.source is not None and isinstance(block.source[1], InputWeights):
        rows: Any = block.source[0]._parameters["raw_transition_matrix"]
        largest = rows.detach().argmax(-1, keepdim=True)
        possible = torch.isfinite(rows.detach()).scatter(-1, largest, False)
        block.free = possible.unsqueeze(-1).expand_as(block.raw).clone()
        block.reference = largest.unsqueeze(-1).expand(-1, 1, block.raw.shape[-1])
        return block
    if block.constraint is P.simplex:
        largest = block.raw.detach().argmax(-1, keepdim=True)
        block.free = block.free.scatter(-1, largest, False)
    elif block.is_factor():
        block.free = block.free.tril()
    return block


# ---- the information


class _Gradient:
    """theta -> d log p(y) / d theta; the model is left at whatever was asked last."""

    def __init__(self, model: StateSpaceModel[Any], data: Sequences, blocks: list[Block]) -> None:
        self.model, self.data, self.blocks = model, data, blocks
        self.theta = torch.cat([block.raw.detach()[block.free] for block in blocks])

    def __call__(self, theta: Tensor) -> Tensor:
        self.place(theta)
        raws = [block.raw for block in self.blocks]
        with torch.enable_grad():
            total = self.model._log_prob(self.data).sum()
            found = torch.autograd.grad(total, raws, allow_unused=True, materialize_grads=True)
        return torch.cat([part[block.free] for part, block in zip(found, self.blocks, strict=True)])

    def place(self, theta: Tensor) -> None:
        with torch.no_grad():
            for block in self.blocks:
                block.raw[block.free] = theta[block.place]

    def slope(self, i: int, step: Tensor) -> Tensor:
        """- d gradient / d theta_i by a central difference."""
        move = torch.zeros_like(self.theta)
        move[i] = step
        return (self(self.theta - move) - self(self.theta + move)) / (2 * step)

    def column(self, i: int, step: Tensor) -> Tensor:
        """The same with the error term of order step^2 removed."""
        return (4 * self.slope(i, step / 2) - self.slope(i, step)) / 3


def _scales(gradient: _Gradient) -> Tensor:
    """1 / sqrt(I_ii): the unit of every entry, found by differences with a unit that is corrected until it fits."""
    seen = gradient.data.values[gradient.data.observed]
    spread = (seen.square().mean().sqrt() if len(seen) else torch.ones(())).item() or 1.0
    first, limit = [], []
    for block in gradient.blocks:
        raw, log = block.raw.detach()[block.free], block.logarithmic()[block.free]
        size = raw.abs()
        size = torch.where(size > 0, size, size.amax() if len(size) and bool(size.any()) else spread)
        first.append(torch.where(log, 1.0, size))
        limit.append(torch.where(log, 1.0, torch.inf))
    scale, most = torch.cat(first), torch.cat(limit)
    for i in range(len(scale)):
        for _ in range(8):
            information = gradient.slope(i, STEP * scale[i])[i].abs()
            better = torch.minimum(information.rsqrt(), most[i]) if information > 0 else scale[i]
            settled = scale[i] / 3 < better < 3 * scale[i]
            scale[i] = better
            if settled:
                break
    return scale


@dataclass
class Curvature:
    """Cov(theta) over the entries that are not `held` at a boundary, in units of `scale`, and its null space."""

    blocks: list[Block]
    held: Tensor
    scale: Tensor
    cov: Tensor
    null: Tensor
    maximum: bool
    distance: float

    @staticmethod
    def at(model: StateSpaceModel[Any], data: Sequences) -> Curvature:
        blocks = coordinates(model)
        if not blocks:
            empty = torch.zeros(0, dtype=torch.float64)
            return Curvature([], empty.bool(), empty, empty.reshape(0, 0), empty.reshape(0, 0), True, 0.0)
        gradient = _Gradient(model, data, blocks)
        try:
            slope, scale = gradient(gradient.theta), _scales(gradient)
            columns = [gradient.column(i, STEP * scale[i]) for i in range(len(scale))]
        finally:
            gradient.place(gradient.theta)
        information = torch.stack(columns, -1) * scale * scale.unsqueeze(-1) if columns else torch.zeros(0, 0).double()
        edge = torch.cat([block.edge()[block.free] for block in blocks]) / scale
        held = (information.diagonal().abs() * edge.square() < EDGE) & torch.isfinite(edge)
        return Curvature._of(blocks, (information + information.mT) / 2, held, scale, slope * scale)

    @staticmethod
    def _of(blocks: list[Block], information: Tensor, held: Tensor, scale: Tensor, slope: Tensor) -> Curvature:
        kept = ~held
        values, vectors = torch.linalg.eigh(information[kept][:, kept])
        least = float(slope[kept].norm().clamp(SINGULAR, MOST_SINGULAR))
        known = values > least
        cov = (vectors[:, known] / values[known]) @ vectors[:, known].mT
        distance = float((slope[kept] @ cov @ slope[kept]).clamp(min=0).sqrt())
        maximum = not bool((values < -least).any())
        _report(maximum, int((~known).sum()), distance)
        return Curvature(blocks, held, scale, cov, vectors[:, ~known], maximum, distance)


def _report(maximum: bool, n_null: int, distance: float) -> None:
    if not maximum:
        warnings.warn(
            "log p(y) curves upwards at these parameters, so they are no maximum and have no standard errors; "
            "fit further, with a smaller tolerance",
            ConvergenceWarning,
        )
    elif n_null:
        warnings.warn(
            f"the information is singular in {n_null} directions; entries that move along them are not identified",
            IllConditionedWarning,
        )
    if maximum and distance > DISTANCE:
        warnings.warn(
            f"the maximum of log p(y) is {distance:.2g} standard errors away; fit further, with a smaller tolerance",
            ConvergenceWarning,
        )
