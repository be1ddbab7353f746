"""No variance falls below a share of the data's: the likelihood of a state that shrinks onto one point has no bound.

Raising variances, or eigenvalues in units of the floor, is the exact M-step over the covariances that are at least the
floor, so that EM still never falls.
"""

from __future__ import annotations

import torch
from torch import Tensor

from probseq.errors import say

#: the smallest variance an M-step may leave, relative to that of the column in the data, outliers apart (`Floor`)
VARIANCE_FLOOR = 1e-6
#: half the distance between the quartiles of a standard normal
QUARTILE = 0.6744897501960817


class Floor:
    """The smallest variances an M-step may leave: `share` times those of the columns of the data.

    A single outlier can make a column's variance larger than any state's by more than that factor. So where the floor
    would bite, the smaller of two measures counts: the variance, or what the distance between the quartiles implies.
    """

    def __init__(self, values: Tensor, observed: Tensor, common: bool = False, share: float = VARIANCE_FLOOR) -> None:
        self.values, self.observed, self.common, self.share = values, observed, common, share
        count = observed.sum(0).clamp(min=1)
        centre = (values * observed).sum(0) / count
        self.variance = ((values - centre).square() * observed).sum(0) / count

    def coarse(self) -> Tensor:
        """An upper bound, at little cost: (D,), or a number where `common`."""
        return self._of(self.variance)

    def fine(self) -> Tensor:
        """The floor itself."""
        stride = 1 + len(self.values) // 100_000  # quartiles of a share of very many rows
        shown = torch.where(self.observed, self.values, torch.nan)[::stride]
        low, high = shown.nanquantile(torch.tensor([0.25, 0.75], dtype=shown.dtype), 0)
        middle = ((high - low) / (2 * QUARTILE)).square()
        return self._of(torch.where(middle > 0, torch.minimum(middle, self.variance), self.variance))

    def _of(self, variance: Tensor) -> Tensor:
        floor = self.share * (variance.mean() if self.common else variance)
        return torch.where(floor > 0, floor, self.share)


def lift(variances: Tensor, floor: Floor) -> Tensor:
    """Variances raised to a floor, said aloud."""
    if not bool((variances < floor.coarse()).any()):
        return variances
    least = floor.fine()
    if bool((variances < least).any()):
        _say_floor(floor.share)
    return torch.maximum(variances, least)


def lift_matrix(covs: Tensor, floor: Floor) -> Tensor:
    """Covariances with the eigenvalues, in units of the floor, raised to 1, said aloud."""
    for least in (floor.coarse, floor.fine):
        unit = least().sqrt()
        values, vectors = torch.linalg.eigh(covs / unit / unit.unsqueeze(-1))
        low = (values < 1).any(-1)
        if not bool(low.any()):
            return covs
    _say_floor(floor.share)
    lifted = vectors * values.clamp(min=1).unsqueeze(-2) @ vectors.mT * unit * unit.unsqueeze(-1)
    return torch.where(low[:, None, None], (lifted + lifted.mT) / 2, covs)


def _say_floor(share: float) -> None:
    say(
        "variance floor",
        f"a state's variance collapsed and was held at {share:g} of the data's: "
        "fewer states or a simpler covariance may be needed",
    )
