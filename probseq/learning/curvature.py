"""The Gauss-Newton matrix of a network's log-likelihood, as products with vectors.

    a = V h(theta) + c,  J = da / d theta                       # all outputs that a target is compared with
    G v = J' H J v                                              # H: curvature of -log p(y | a) in a
    S v = K' W K v,  K = ds / d theta                           # the same for the states s: structural damping

J v takes two backward passes: z -> J' z is linear, and its own transpose is J (Pearlmutter 1994 by way of the
double-backward trick). The network therefore runs by `Cell.unrolled`, of torch's operations alone: compiled kernels
have one derivative. The graphs are built once; a product then costs about one forward and one backward pass.

H is positive semi-definite, the Fisher information of what the head says wherever that is known in closed form; see
`probseq.learning.fisher`.

W is the curvature of a distance between states: 1 / f'(z) for logistic and tanh units, f being their function, which
is that of the divergence whose derivative is f (in z it is f'(z)); 1 for all others, the squared distance.

Schraudolph, N. (2002). Fast curvature matrix-vector products. Neural Computation 14, 1723-1738.
Martens, J. & Sutskever, I. (2011). Learning recurrent neural networks with Hessian-free optimization. ICML, sec. 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from probseq.learning.fisher import HeadCurvature
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
                self._metric = done.metric
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
        images = [self._head.product(moved), *(structural * self._metric * change for change in states)]
        return self.free.gather(self._pull(images)) / self.n_steps
