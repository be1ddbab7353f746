"""What a filtered problem leaves for the smoother, and the part of the smoother that runs on square roots.

The adjoint recursion serves the steps after `until`; before it, the recursion of `kernels/kalman_root_smoother.py`:
for the steps of a diffuse start, and for all of them with numerics="square_root".
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probseq.errors import ImproperBelief
from probseq.ops import kalman_arrays as arrays
from probseq.ops import kalman_backward as adjoint
from probseq.ops import kalman_packs as packs
from probseq.ops import kalman_workspace as memory
from probseq.ops.kalman_system import LinearGaussianSystem, check, shared_lead
from probseq.ops.kalman_workspace import Inputs
from probseq.ops.modes import array_of, refuse_forward_mode


class Backward(NamedTuple):
    """Of each state given the next: gains and what is left, with the updated covariances; see the kernel's table."""

    back: Any
    rest: Any
    rest_diffuse: Any
    updated: Any
    updated_diffuse: Any


class Given:
    """A system with every axis, its data and the complete workspace of its filter, outside autograd."""

    def __init__(
        self, system: LinearGaussianSystem, observed: Tensor | None, lengths: Tensor, lead: int, space: arrays.Workspace
    ) -> None:
        self.system, self.space, self.lead = system, space, lead
        self.pattern = memory.pattern_of(observed, system.emission_matrix.shape[-2])
        self.lengths = array_of(lengths)

    @classmethod
    def of(
        cls,
        system: LinearGaussianSystem,
        y: Tensor,
        observed: Tensor | None,
        lengths: Tensor,
        diffuse: Tensor | None,
        numerics: str,
        *,
        per_step: bool = False,
        smoothing: bool = False,
    ) -> Given:
        """The filter is run; where packs of sequences serve `smoothing`, they leave smoothed means in `series`."""
        check(system, y, observed, lengths, diffuse)
        refuse_forward_mode("Kalman smoother", *system, y)
        lead, inputs = shared_lead(system, observed, lengths, diffuse), Inputs.of(system, y, observed, lengths, diffuse)
        packed = "smoothed" if smoothing and packs.applicable(inputs, lead) else None
        space = arrays.run_forward(inputs, lead, numerics, keep=True, keep_roots=True, per_step=per_step, packed=packed)
        given = cls(system.full(y.shape[0]), observed, lengths, lead, space)
        given.y = array_of(y)
        return given

    y: Any

    @property
    def until(self) -> Any:
        """(G,) the first step that the adjoint recursion smooths."""
        steps = self.space.slot.shape[1]
        return np.full_like(self.space.until, steps) if self.space.square_root else self.space.until

    def diffuse_covs(self) -> tuple[Tensor, Tensor]:
        """The diffuse parts of the predicted and updated beliefs, (B, T, n, n): zero from `until` on."""
        (groups, steps), n, batch = self.space.slot.shape, self.space.cov.shape[-1], len(self.lengths)
        covs = torch.zeros(2, groups, steps, n, n, dtype=torch.float64)
        for g, until in enumerate(self.space.until.tolist()):
            parts = torch.from_numpy(self.space.diffuses[g, :until])
            covs[:, g, :until] = (parts @ parts.mT).movedim(1, 0)
        return covs[0].expand(batch, -1, -1, -1), covs[1].expand(batch, -1, -1, -1)

    def is_diffuse(self) -> Tensor:
        """Which steps start from a diffuse belief, (G, T)."""
        return torch.arange(self.space.slot.shape[1]) < torch.from_numpy(self.space.until)[:, None]

    def corrections(self) -> Tensor:
        """K v (B, T, n), from the gains themselves."""
        space = self.space
        gain = torch.from_numpy(space.gain)[torch.arange(space.slot.shape[0])[:, None], torch.from_numpy(space.slot)]
        expected = self.system.emission_matrix @ torch.from_numpy(space.mean)[..., None]
        residual = torch.from_numpy(self.y) - expected[..., 0]
        if self.pattern.shape[1]:
            residual = torch.where(torch.from_numpy(self.pattern), residual, 0.0)
        inside = torch.arange(space.slot.shape[1]) < torch.from_numpy(self.lengths)[:, None]
        residual = torch.where(inside[..., None], residual, 0.0)
        return (gain.mT @ residual[..., None])[..., 0]

    @cached_property
    def backward(self) -> Backward:
        system, space, until = self.system, self.space, self.until
        n = space.cov.shape[-1]
        groups = len(until)
        result = Backward(*(np.zeros((groups, int(until.max(initial=0)), n, n)) for _ in Backward._fields))
        roots = memory.roots_of(list(map(array_of, system)), None, True)
        leads = np.arange(groups) if self.lead < 0 else np.array([self.lead])
        memory.kernels("kalman_root_smoother").smoothing_gains(
            array_of(system.transition_matrix), array_of(system.emission_matrix), roots.transition, roots.emission,
            self.pattern, leads, space.roots, self._diffuses(), space.slot,
            np.minimum(until, self.lengths[leads]), *result,
        )  # fmt: skip
        return result

    def _diffuses(self) -> Any:
        """The diffuse parts by step, without columns where the start is not diffuse."""
        groups, _, _, n, d = self.space.diffuses.shape
        return self.space.diffuses if d else np.zeros((groups, self.space.slot.shape[1], 2, n, 0))

    def smooth_start(self, cov: Any, improper: Any, lagged: Any, mean: Any) -> None:
        """Continue all posterior moments before `until`."""
        spaces, spans, group_spaces, _ = adjoint.groups(self.lengths, self.space.slot.shape[0])
        self.smooth_covariances(spans, group_spaces, cov, improper, lagged)
        self.smooth_means(self.y, spaces, self.space.mean, mean)

    def smooth_covariances(self, spans: Any, spaces: Any, cov: Any, improper: Any, lagged: Any) -> None:
        """Continue the posterior covariances (H, T, n, n), their diffuse parts and the lag-one ones before `until`."""
        kernel = memory.kernels("kalman_root_smoother")
        kernel.smoothed_covariances(*self.backward, self.until, spans, spaces, cov, improper, lagged)

    def smooth_means(self, y: Any, spaces: Any, mean: Any, smoothed: Any) -> None:
        """Continue the posterior means of paths (N B, T, n) before `until`."""
        memory.kernels("kalman_root_smoother").smoothed_means(
            array_of(self.system.emission_matrix), y, self.pattern, self.lengths, spaces, self.until, self.space.gain,
            self.backward.back, self.space.slot, mean, smoothed,
        )  # fmt: skip

    def refuse_unresolved(self) -> None:
        """Raise ImproperBelief where the data leave part of a diffuse start unresolved, so that no posterior exists."""
        if not self.space.until.any():
            return
        until = self.space.until
        n, steps = self.space.cov.shape[-1], self.space.slot.shape[1]
        _, spans, group_spaces, group_of = adjoint.groups(self.lengths, len(until))
        cov, lagged = np.zeros((len(spans), steps, n, n)), np.zeros((len(spans), 0, n, n))
        improper = np.zeros_like(cov)
        self.smooth_covariances(spans, group_spaces, cov, improper, lagged)
        bad = np.any(improper != 0, axis=(1, 2, 3), keepdims=True).reshape(-1)[group_of]
        if bad.any():
            raise ImproperBelief(
                f"the diffuse start of sequence {int(bad.argmax())} is not resolved by its data, so that its states "
                "have no posterior to draw from; observe more steps or give those elements a proper start"
            )
