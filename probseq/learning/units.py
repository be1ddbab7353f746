"""The units of a fit: data of zero mean and about unit spread, so that units and offsets do not matter."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from probseq.base import StateSpaceModel
from probseq.emissions.base import Emission
from probseq.errors import say
from probseq.sequences import Sequences


class Units:
    """Inside, data have zero mean and about unit spread, and states a balanced unit where they can."""

    def __init__(self, model: StateSpaceModel[Any], data: Sequences) -> None:
        self.model, self.data = model, data
        self.shift, self.scale = torch.zeros(1), torch.ones(1)
        self.unbalance = lambda: None
        self.priors = [(part, part.prior) for part in model.modules() if isinstance(part, Emission)]

    def __enter__(self) -> Self:
        if self.model.real_valued:
            self.shift, self.scale = self._moments()
            self.model._rescale(1 / self.scale, -self.shift / self.scale)
        self.unbalance = self.model._balance()
        return self

    def __exit__(self, *_: object) -> None:
        self.unbalance()
        if self.model.real_valued:
            self.model._rescale(self.scale, self.shift)
        for part, prior in self.priors:  # to the last digit
            part.prior = prior

    def convert(self, data: Sequences) -> Sequences:
        """The same sequences in the units of the fit."""
        if not self.model.real_valued:
            return data
        values = torch.where(data.observed, (data.values.detach() - self.shift) / self.scale, 0.0)
        return data.with_values(values)

    def jacobian(self, data: Sequences) -> float:
        """log p in the data's own units minus log p in the units of the fit."""
        return -float((data.observed * self.scale.log()).sum())

    def _moments(self) -> tuple[Tensor, Tensor]:
        values, seen = self.data.values.detach(), self.data.observed.to(torch.float64)
        count = seen.sum((0, 1)).clamp(min=1)
        shift = (values * seen).sum((0, 1)) / count
        away = (values - shift) * seen
        largest = away.abs().amax((0, 1))
        unit = torch.where(largest > 0, largest, 1.0)
        spread = unit * ((away / unit).square().sum((0, 1)) / count).sqrt()
        flat = largest <= 1e-14 * shift.abs()
        if bool(flat.any()):
            say("variance floor", "y is constant in a coordinate; its variance is held at a floor")
            spread = torch.where(flat, torch.where(shift != 0, shift.abs(), 1.0), spread)
        if self.model._keeps_origin():
            shift = torch.zeros_like(shift)
        if self.model.common_scale:
            spread = spread.log().mean().exp().expand_as(spread)
        return shift, spread.log2().round().exp2()  # a power of two: scaling there and back is exact
