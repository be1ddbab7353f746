"""The curvature H of -log p(y | a) in the outputs a of a network, as products with vectors.

    D(a) = divergence of the distribution at a from that at a_0;    H = Hessian of D at a = a_0

Where D is the Kullback-Leibler divergence, H is the Fisher information: positive semi-definite whatever y was, and for
natural parameters the Hessian of -log p(y | a) itself, which then does not depend on y (Martens 2020, section 9).

| head                                | D                                                                           |
|-------------------------------------|-----------------------------------------------------------------------------|
| Categorical, Bernoulli,             | Kullback-Leibler; natural parameters                                        |
| the mean of a Gaussian              |                                                                             |
| Gaussian, Poisson                   | Kullback-Leibler, of the marginal of what was observed                      |
| StudentT                            | the quadratic of its Fisher information in location, scale matrix and dofs  |
| MixtureDensity, MixtureOfBernoullis | sum_k r_k D(component k) + D(weights), r = p(component | y) at a_0: the     |
|                                     | Fisher information of (y, component), y given; EM's bound, and not less     |
|                                     | curved than the mixture itself in its means and weights                     |
| Product                             | the sum of its parts                                                        |

Martens, J. (2020). New insights and perspectives on the natural gradient method. JMLR 21, 146.
Lange, K., Little, R. & Taylor, J. (1989). Robust statistical modeling using the t distribution. JASA 84, appendix B.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as D

from probseq.emissions.head import Head
from probseq.emissions.product import Columns
from probseq.emissions.student import MultivariateStudentT


class HeadCurvature:
    """z -> H z at outputs (N, n_outputs), for targets `values` (N, D) where `observed`."""

    def __init__(self, head: Head, outputs: Tensor, values: Tensor, observed: Tensor) -> None:
        with torch.enable_grad():
            self._at = outputs.detach().to(torch.float64).requires_grad_()
            base, other = head._say(self._at.detach(), head.units), head._say(self._at, head.units)
            total = divergence(base, other, values, observed).sum()
            (self._slope,) = torch.autograd.grad(total, self._at, create_graph=True)

    def product(self, vector: Tensor) -> Tensor:
        """H z, in the precision of z."""
        (image,) = torch.autograd.grad(self._slope, self._at, vector.to(torch.float64), retain_graph=True)
        return image.to(vector.dtype)


def divergence(base: D.Distribution, other: D.Distribution, values: Tensor, observed: Tensor) -> Tensor:
    """D of the observed coordinates, (*batch,), 0 where other = base; values and observed (*batch, D)."""
    if isinstance(base, D.Independent) and isinstance(other, D.Independent):
        return torch.where(observed, D.kl_divergence(base.base_dist, other.base_dist), 0.0).sum(-1)
    if isinstance(base, D.MultivariateNormal) and isinstance(other, D.MultivariateNormal):
        return D.kl_divergence(_marginal(base, observed), _marginal(other, observed))
    if isinstance(base, MultivariateStudentT) and isinstance(other, MultivariateStudentT):
        return _student(base, other, observed)
    if isinstance(base, D.MixtureSameFamily) and isinstance(other, D.MixtureSameFamily):
        return _mixture(base, other, values, observed)
    if isinstance(base, Columns) and isinstance(other, Columns):
        columns = zip(
            base.parts, other.parts, values.split(base.widths, -1), observed.split(base.widths, -1), strict=True
        )
        return torch.stack([divergence(*part) for part in columns]).sum(0)
    raise TypeError(f"no curvature is known for a head that says {type(base).__name__}")


def _mixture(base: D.MixtureSameFamily, other: D.MixtureSameFamily, values: Tensor, observed: Tensor) -> Tensor:
    parts, seen, rows = base.component_distribution, observed.unsqueeze(-2), values.unsqueeze(-2)
    if isinstance(parts, D.Independent):
        scores = torch.where(seen, parts.base_dist.log_prob(rows), 0.0).sum(-1)
    else:
        assert isinstance(parts, D.MultivariateNormal)
        scores = _marginal(parts, seen).log_prob(torch.where(seen, rows, 0.0))
    shares = (base.mixture_distribution.logits + scores).softmax(-1)
    inside = (shares * divergence(parts, other.component_distribution, rows, seen)).sum(-1)
    among = D.kl_divergence(base.mixture_distribution, other.mixture_distribution)
    return torch.where(observed.any(-1), inside + among, 0.0)


def _student(base: MultivariateStudentT, other: MultivariateStudentT, observed: Tensor) -> Tensor:
    """Half the square of the changes of location, scale matrix and dofs, by the Fisher information at `base`."""
    v, p = base.dofs, observed.sum(-1).to(torch.float64)
    root = torch.linalg.cholesky(_scale_matrix(base, observed))
    away = torch.where(observed, other.means - base.means, 0.0).unsqueeze(-1)
    distance = torch.linalg.solve_triangular(root, away, upper=False).square().sum((-2, -1))
    half = torch.linalg.solve_triangular(root, _scale_matrix(other, observed) - root @ root.mT, upper=False)
    change = torch.linalg.solve_triangular(root, half.mT, upper=False)  # of the scale matrix, whitened
    trace = change.diagonal(dim1=-2, dim2=-1).sum(-1)
    shape = (v + p) / (v + p + 2)
    square = shape * (distance + 0.5 * (change.square().sum((-2, -1)) - trace.square() / (v + p)))
    tail = other.dofs - v
    return 0.5 * (square + dof_information(v, p) * tail.square() - 2 * trace * tail / ((v + p) * (v + p + 2)))


def dof_information(dofs: Tensor, dim: Tensor) -> Tensor:
    """-E d^2 log t / d dofs^2 of a t in `dim` dimensions."""
    v, p = dofs, dim
    gammas = 0.25 * (torch.polygamma(1, v / 2) - torch.polygamma(1, (v + p) / 2))
    squared = v * (v + 2) / ((v + p) * (v + p + 2))  # E (1 + distance / v)^-2
    return gammas - p / (2 * v * v) - p / (v * (v + p)) + (v + p) / (2 * v * v) * (1 - squared)


def _scale_matrix(student: MultivariateStudentT, observed: Tensor) -> Tensor:
    return _block(student.factor @ student.factor.mT, observed)


def _marginal(normal: D.MultivariateNormal, observed: Tensor) -> D.MultivariateNormal:
    """The observed coordinates of a Gaussian, beside N(0, 1) for the others."""
    if bool(observed.all()):
        return normal
    mean = torch.where(observed, normal.loc, 0.0)
    return D.MultivariateNormal(mean, _block(normal.covariance_matrix, observed), validate_args=False)


def _block(matrix: Tensor, observed: Tensor) -> Tensor:
    """The rows and columns observed, beside the identity for the others."""
    both = observed.unsqueeze(-1) & observed.unsqueeze(-2)
    return torch.where(both, matrix, torch.diag_embed((~observed).to(torch.float64)))
