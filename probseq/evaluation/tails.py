"""log P(Y < y) and log P(Y >= y) of every coordinate of a predictive distribution, far out too.

| law                     | below y                                                                                 |
|-------------------------|-----------------------------------------------------------------------------------------|
| normal                  | log Phi, without forming Phi                                                            |
| Student t               | I_x(v / 2, 1 / 2) / 2 at x = v / (v + t^2), by a continued fraction where it underflows |
| von Mises               | angles count up from -pi; Gauss-Legendre sums over panels that follow the decay         |
| counts                  | sums of probabilities; of multinomial rows the binomial law given the row's total       |
| mixtures                | the weighted sum of the components'                                                     |
| products                | part by part; NaN for a part of symbols, which have no order                            |

References: Abramowitz and Stegun (1964), 26.5.8 (continued fraction), 26.7.1 (Student t); Mardia and Jupp (2000),
Directional Statistics, sec. 3.5.4.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as D

from probseq.emissions.circular import Circular
from probseq.emissions.multinomial import Counts
from probseq.emissions.product import Columns
from probseq.emissions.student import MultivariateStudentT
from probseq.marginals import coordinates_of, is_symbolic

#: the log of a share of a tail that is below rounding
NEGLIGIBLE = -40.0

Tails = tuple[Tensor, Tensor]


def log_tails(distribution: D.Distribution, y: Tensor) -> tuple[Tails, Tails]:
    """(log P(Y < y), log P(Y >= y)) and (log P(Y <= y), log P(Y > y)) per coordinate of rows y (*batch, D).

    The two pairs are one and the same object for continuous data. Raises ValueError for symbols and for laws without a
    distribution function.
    """
    if isinstance(distribution, D.MixtureSameFamily):
        log_weights: Any = distribution.mixture_distribution.logits
        lower, upper = log_tails(distribution.component_distribution, y.unsqueeze(-2))
        mixed = _mix(log_weights, lower)
        return mixed, mixed if upper is lower else _mix(log_weights, upper)
    if isinstance(distribution, Columns):
        parts = zip(distribution.parts, y.split(distribution.widths, -1), strict=True)
        pairs = [_part(part, columns) for part, columns in parts]
        lower = _side_by_side([pair[0] for pair in pairs])
        return lower, lower if all(a is b for a, b in pairs) else _side_by_side([pair[1] for pair in pairs])
    if is_symbolic(distribution):
        raise ValueError("symbols have no order, so they have no pseudo-residuals")
    if isinstance(distribution, Counts):
        totals = y.sum(-1, keepdim=True).expand(torch.broadcast_shapes(y.shape, distribution.log_probs.shape))
        return _discrete(D.Binomial(totals, probs=distribution.log_probs.exp(), validate_args=False), y)
    base = coordinates_of(distribution)[1]
    if getattr(base.support, "is_discrete", False):
        return _discrete(base, y)
    both = _continuous(base, y)
    return both, both


def _mix(log_weights: Tensor, tails: Tails) -> Tails:
    """log sum_m w_m p_m over the components, the axis before the last."""
    below, above = (torch.logsumexp(log_weights.unsqueeze(-1) + tail, -2) for tail in tails)
    return below, above


def _part(part: D.Distribution, columns: Tensor) -> tuple[Tails, Tails]:
    if not is_symbolic(part):
        return log_tails(part, columns)
    unknown = torch.full(torch.broadcast_shapes(columns.shape, (*part.batch_shape, 1)), torch.nan, dtype=torch.float64)
    return (unknown, unknown), (unknown, unknown)


def _side_by_side(tails: list[Tails]) -> Tails:
    below, above = (torch.cat([pair[side] for pair in tails], -1) for side in (0, 1))
    return below, above


def _discrete(base: Any, y: Tensor) -> tuple[Tails, Tails]:
    """Sums of probabilities over 0, 1, ..., y; the tail above continues until it adds nothing."""
    total = torch.full(torch.broadcast_shapes(y.shape, base.batch_shape), -torch.inf, dtype=torch.float64)
    below, above, at = total, total, total
    most = 1 if isinstance(base, D.Bernoulli) else getattr(base.support, "upper_bound", None)
    top = None if most is None else int(torch.as_tensor(most).max())
    count, last = 0, int(y.max()) if y.numel() else 0
    while top is None or count <= top:
        place = torch.full_like(total, count)
        inside = place <= (torch.inf if most is None else most)
        mass = torch.where(inside, base.log_prob(torch.where(inside, place, 0.0)), -torch.inf)
        below = torch.where(place < y, torch.logaddexp(below, mass), below)
        at = torch.where(place == y, mass, at)
        above = torch.where(place > y, torch.logaddexp(above, mass), above)
        past = count > last and bool((count > base.mean).all())
        if past and bool(((mass == -torch.inf) | (mass - above < NEGLIGIBLE)).all()):
            break
        count += 1
    return (below, torch.logaddexp(at, above)), (torch.logaddexp(below, at), above)


def _continuous(base: Any, y: Tensor) -> Tails:
    if isinstance(base, D.Normal):
        from scipy.special import log_ndtr

        z = ((y - base.loc) / base.scale).numpy()
        return torch.as_tensor(log_ndtr(z)), torch.as_tensor(log_ndtr(-z))
    if isinstance(base, MultivariateStudentT):
        t = ((y - base.means) / base.factor.square().sum(-1).sqrt()).numpy()
        far = student_log_tail(np.abs(t), base.dofs.unsqueeze(-1).expand(t.shape).numpy())
        near = np.log1p(-np.exp(far))
        return torch.as_tensor(np.where(t < 0, far, near)), torch.as_tensor(np.where(t < 0, near, far))
    if isinstance(base, Circular):
        return circular_log_tails(y, base.loc, base.exact)
    try:
        below = base.cdf(y)
    except NotImplementedError as error:
        name = type(base).__name__
        raise ValueError(f"{name} has no distribution function in closed form, so no pseudo-residuals") from error
    return below.log(), (1 - below).log()


# -------------------------------------------------------------------------------------------------- Student t


def student_log_tail(t: Any, dofs: Any) -> Any:
    """log P(T > t) for t >= 0, arrays of one shape."""
    from scipy.special import betainc, betaincc

    ratio = t / np.sqrt(dofs)
    length = np.hypot(1, ratio)
    x = np.square(1 / length)
    near = betaincc(0.5, dofs / 2, np.square(ratio / length))
    share = 0.5 * np.where(ratio < 1, near, betainc(dofs / 2, 0.5, x))
    lost = np.minimum(x, share) < np.finfo(np.float64).tiny
    result = np.log(np.where(lost, 1.0, share))
    result[lost] = _far_out(ratio[lost], dofs[lost])
    return result


def _far_out(ratio: Any, dofs: Any) -> Any:
    """log(I_x(a, b) / 2) at a = dofs / 2, b = 1 / 2, x = 1 / (1 + ratio^2), by the continued fraction 26.5.8."""
    from scipy.special import betaln

    length = np.hypot(1, ratio)
    a, b, x = dofs / 2, 0.5, np.square(1 / length)
    front = -2 * a * np.log(length) + 2 * b * np.log(ratio / length) - np.log(a) - betaln(a, b)
    c, d = np.ones_like(a), 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 1000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            c, d = 1 + step / c, 1 / (1 + step * d)
            fraction = fraction * c * d
        if np.all(np.abs(c * d - 1) < 1e-15):
            break
    return front + np.log(fraction) - math.log(2)


# -------------------------------------------------------------------------------------------------- von Mises

#: panels of an arc, each at most as long as the density takes to fall by a factor e, and nodes in each
PANELS, NODES = 40, 8


def circular_log_tails(y: Tensor, means: Tensor, concentrations: Tensor) -> Tails:
    """log of the mass from -pi up to y (taken in [-pi, pi)) and of the rest of the turn."""
    shape = torch.broadcast_shapes(y.shape, means.shape)
    angle, center, c = (part.expand(shape) for part in (y, means, concentrations))
    cut, place = _centred(-math.pi - center), _centred(_centred(angle) - center)
    (cut_below, cut_above), (below, above) = _sides(cut, c), _sides(place, c)
    after = place >= cut
    outside = torch.where(after, torch.logaddexp(cut_below, above), torch.logaddexp(below, cut_above))  # through +-pi
    right, left = torch.minimum(cut, place) >= 0, torch.maximum(cut, place) <= 0
    one_side = torch.where(right, _log_difference(cut_above, above), _log_difference(cut_below, below))
    between = torch.where(right | left, one_side, _log_rest(outside))
    return torch.where(after, between, outside), torch.where(after, outside, between)


def _centred(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi)."""
    inside = (angle >= -math.pi) & (angle < math.pi)
    return torch.where(inside, angle, torch.remainder(angle + math.pi, 2 * math.pi) - math.pi)


def _log_rest(log_share: Tensor) -> Tensor:
    """log(1 - p)."""
    return torch.log1p(-log_share.exp().clamp(max=1))


def _log_difference(one: Tensor, other: Tensor) -> Tensor:
    """log |p - q|."""
    most = torch.maximum(one, other)
    gap = torch.where(most == -torch.inf, 0.0, -(one - other).abs())
    return most + torch.log(-torch.expm1(gap))


def _sides(angle: Tensor, c: Tensor) -> Tails:
    """log of the mass of VonMises(0, c) on [-pi, angle] and on [angle, pi]."""
    far = _log_arc(angle.abs(), c) - _log_arc(torch.zeros_like(angle), c) - math.log(2)
    near = _log_rest(far)
    return torch.where(angle < 0, far, near), torch.where(angle < 0, near, far)


def _log_arc(start: Tensor, c: Tensor) -> Tensor:
    """log of the integral of exp(c (cos x - 1)) from start >= 0 to pi."""
    decay = 1 / torch.maximum(c.sqrt(), c * start.sin())
    width = torch.minimum(decay, (math.pi - start) / PANELS)
    points, weights = np.polynomial.legendre.leggauss(NODES)
    places = (np.arange(PANELS)[:, None] + (points + 1) / 2).ravel()
    total = torch.zeros_like(start)
    for place, weight in zip(places, np.tile(weights / 2, PANELS), strict=True):
        # cos x - cos start, by a product that does not cancel
        fall = -2 * (start + place * width / 2).sin() * (place * width / 2).sin()
        total = total + weight * torch.exp(c * fall)
    return total.log() + width.log() - 2 * c * (start / 2).sin().square()
