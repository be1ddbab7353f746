"""The Gauss-Newton matrix of a network's log-likelihood, as products with vectors.

    a = V h(theta) + c,  J = da / d theta                       # all outputs that a target is compared with
    G v = J' H J v                                              # H: curvature of -log p(y | a) in a
    S v = K' W K v,  K = ds / d theta                           # the same for the states s: structural damping

J v takes two backward passes: z -> J' z is linear, and its own transpose is J (Pearlmutter 1994 by way of the
double-backward trick). The network therefore runs by `Cell.unrolled`, of torch's operations alone: compiled kernels
have one derivative. The graphs are built once; a product then costs about one forward and one backward pass.

H is the Fisher information of the head's distribution at a, which is positive semi-definite; it is the Hessian of
D(p_a0 || p_a) at a = a0, and taken as such:

| head                                | H                                                                           |
|-------------------------------------|-----------------------------------------------------------------------------|
| Categorical, Bernoulli, Poisson,    | the Hessian of -log p(y | a) itself: the outputs are natural parameters,    |
| the mean of a Gaussian              | of which it does not depend on y                                            |
| Gaussian with its scale or factor   | Fisher information, in the outputs; missing coordinates marginalised        |

W is the curvature of a distance between states: 1 / f'(z) for logistic and tanh units, f being their function, which
is that of the divergence whose derivative is f (in z it is f'(z)); 1 for all others, the squared distance.

Schraudolph, N. (2002). Fast curvature matrix-vector products. Neural Computation 14, 1723-1738.
Martens, J. & Sutskever, I. (2011). Learning recurrent neural networks with Hessian-free optimization. ICML, sec. 3.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, kl_divergence

from probseq.cells import Cell, Elman, Stack
from probseq.emissions.head import Head
from probseq.parameters import free_entries
from probseq.sequences import Sequences


class FreeVector:
    """The free numbers of a model as one vector, float64, (n,)."""

    def __init__(self, model: nn.Module) -> None:
        entries = free_entries(model)
        self.parameters = [parameter for parameter, _ in entries]
        self._masks = [mask for _, mask in entries]
        self._sizes = [int(mask.sum()) for mask in self._masks]

    @property
    def size(self) -> int:
        return sum(self._sizes)

    def read(self) -> Tensor:
        """Where the model is."""
        return self.gather([parameter.detach() for parameter in self.parameters])

    def write(self, vector: Tensor) -> None:
        """Move the model. Unseen by torch: a graph made at a point is valid again once the model is back there."""
        for parameter, mask, part in zip(self.parameters, self._masks, vector.split(self._sizes), strict=True):
            parameter.data[mask] = part.to(parameter.dtype)

    def gather(self, tensors: Iterable[Tensor]) -> Tensor:
        """One vector from tensors shaped like the parameters."""
        parts = [tensor[mask].to(torch.float64) for tensor, mask in zip(tensors, self._masks, strict=True)]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def spread(self, vector: Tensor) -> list[Tensor]:
        """Tensors shaped like the parameters, zero where nothing is free."""
        made = [torch.zeros_like(parameter) for parameter in self.parameters]
        for tensor, mask, part in zip(made, self._masks, vector.split(self._sizes), strict=True):
            tensor[mask] = part.to(tensor.dtype)
        return made


class GaussNewton:
    """v -> (G + structural * S) v / n at the parameters of the moment; n is the number of observed steps."""

    def __init__(self, model: Any, sequences: Sequences, free: FreeVector, *, structural: bool = False) -> None:
        self.free = free
        with torch.enable_grad():
            done = model._unrolled(sequences)
            rows = done.observed.any(-1)
            raw = model.head._outputs(done.outputs[rows])
            self.n_steps = max(len(raw), 1)
            self._head = HeadCurvature(model.head, raw.detach(), done.values[rows], done.observed[rows])
            self._images = [raw]
            if structural and done.states.requires_grad:
                inside = sequences.inside.unsqueeze(-1)
                self._weights = torch.where(inside, state_weights(model.cell, done.states.detach()), 0.0)
                self._images.append(done.states)
            self._seeds = [torch.zeros_like(image).requires_grad_() for image in self._images]
            pulled = self._pull(self._seeds, create_graph=True)
        self._pulled = [(k, tensor) for k, tensor in enumerate(pulled) if tensor.requires_grad]

    def _pull(self, vectors: Sequence[Tensor], *, create_graph: bool = False) -> tuple[Tensor, ...]:
        """J' z (and K' z), shaped like the parameters."""
        return torch.autograd.grad(
            self._images,
            self.free.parameters,
            vectors,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )

    def push(self, vector: Tensor) -> tuple[Tensor, ...]:
        """J v (and K v), shaped like the outputs (and the states)."""
        parts = self.free.spread(vector)
        return torch.autograd.grad(
            [tensor for _, tensor in self._pulled],
            self._seeds,
            [parts[k] for k, _ in self._pulled],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )

    def product(self, vector: Tensor, structural: float = 0.0) -> Tensor:
        """(G + structural * S) v / n, (n_free,)."""
        moved, *states = self.push(vector)
        images = [self._head.product(moved), *(structural * self._weights * change for change in states)]
        return self.free.gather(self._pull(images)) / self.n_steps


class HeadCurvature:
    """z -> H z, H the Fisher information of a head's distribution in its outputs a, (N, n_outputs) both."""

    def __init__(self, head: Head, outputs: Tensor, values: Tensor, observed: Tensor) -> None:
        with torch.enable_grad():
            self._at = outputs.to(torch.float64).requires_grad_()
            direct = _direct(head)
            base = direct.distribution(self._at.detach())
            total = divergence(base, direct.distribution(self._at), values, observed)
            (self._slope,) = torch.autograd.grad(total, self._at, create_graph=True)

    def product(self, vector: Tensor) -> Tensor:
        """H z, in the precision of z."""
        (image,) = torch.autograd.grad(self._slope, self._at, vector.to(torch.float64), retain_graph=True)
        return image.to(vector.dtype)


def _direct(head: Head) -> Head:
    """A copy of the head that reads its outputs a instead of activities, in float64."""
    made = copy.deepcopy(head)
    size = len(head.bias)
    made.weights = nn.Parameter(torch.eye(size, dtype=torch.float64), requires_grad=False)
    made.bias = nn.Parameter(torch.zeros(size, dtype=torch.float64), requires_grad=False)
    return made


def divergence(base: Distribution, other: Distribution, values: Tensor, observed: Tensor) -> Tensor:
    """D(base || other) of the observed coordinates, summed; its Hessian at other = base is the Fisher information."""
    if isinstance(base, Independent) and isinstance(other, Independent):
        return torch.where(observed, kl_divergence(base.base_dist, other.base_dist), 0.0).sum()
    if isinstance(base, MultivariateNormal) and isinstance(other, MultivariateNormal):
        return kl_divergence(_marginal(base, observed), _marginal(other, observed)).sum()
    raise TypeError(f"no curvature is known for a head that says {type(base).__name__}")


def _marginal(normal: MultivariateNormal, observed: Tensor) -> MultivariateNormal:
    """The observed coordinates of a Gaussian, beside N(0, 1) for the others."""
    if bool(observed.all()):
        return normal
    both = observed.unsqueeze(-1) & observed.unsqueeze(-2)
    cov = torch.where(both, normal.covariance_matrix, torch.diag_embed((~observed).to(torch.float64)))
    return MultivariateNormal(torch.where(observed, normal.loc, 0.0), cov, validate_args=False)


def state_weights(cell: Cell, states: Tensor) -> Tensor:
    """W, (B, T, state_size): what the square of a change of each state counts."""
    if isinstance(cell, Stack):
        pairs = zip(cell._cells, cell._parts(states), strict=True)
        return torch.cat([state_weights(layer, part) for layer, part in pairs], -1)
    if not isinstance(cell, Elman) or cell.activation == "relu":
        return torch.ones_like(states)
    slope = 1 - states * states if cell.activation == "tanh" else states * (1 - states)
    return torch.where(slope > 0, 1 / slope, 0.0)  # a saturated unit does not move
