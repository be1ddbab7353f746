"""Many sequences and few states: the passes of `kernels/kalman_packs.py` on numpy arrays, on threads.

    applicable(...)   whether they serve a problem       run(...)   log p(y), and the answer asked for (`Answer`)
    gradients(...)    what the sums of every sequence make of weights of the sequences

Their covariances are those of one of them, and are computed before.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from probseq.ops.kalman_workspace import Inputs, Workspace, kernels
from probseq.ops.pool import lease
from probseq.ops.threads import over_blocks

MOST = 4
"""States, and sensors, up to which a step's numbers stay in registers."""

MANY_SEQUENCES = 8
"""Sequences that share their covariances from which they run side by side."""

AT_ONCE = 32
"""How many operations count as one where it is decided whether a second thread pays: they are that fast."""

Answer = Literal["value", "smoothed", "gradient", "gradient in y"]
"""log p(y); E[z_t given y]; the terms of the gradient; these, and the gradient in y."""


def applicable(inputs: Inputs, lead: int) -> bool:
    """Complete sequences of one length that share covariances and constant parameters."""
    (batch, steps, m), (_, _, *parts) = inputs.y.shape, inputs.parameters
    if lead < 0 or batch < MANY_SEQUENCES or steps == 0 or inputs.diffuse is not None:
        return False
    if max(parts[0].shape[-1], m) > MOST:
        return False
    constant = max(map(len, parts)) == 1 and parts[2].shape[1] == 1
    return constant and inputs.pattern.shape[1] == 0 and bool((inputs.lengths == steps).all())


def shape_of_sums(n: int, m: int, batch: int) -> tuple[int, int]:
    """Rows, and columns for the sequences, padded to whole packs."""
    lib = kernels("kalman_packs")
    return lib.n_sums(n, m), -(-batch // lib.LANES) * lib.LANES


def run(inputs: Inputs, space: Workspace, answer: Answer) -> Workspace:
    """The means of a problem whose covariances are in the workspace: log_prob is written, `sums` or `series` added."""
    (m0, _, a, _, d, c, _), y = inputs.parameters, inputs.y
    (batch, steps, m), n, lib = y.shape, m0.shape[1], kernels("kalman_packs")
    rows = int(space.slot[0].max()) + 1
    table = lib.make_table(a[0], c[0], space.cov[0], space.gain[0], space.whitener[0], rows)
    emission, packs = np.concatenate([c[0].ravel(), d[0, 0]]), -(-batch // lib.LANES)
    sums = lease(*shape_of_sums(n, m, batch)) if answer.startswith("gradient") else np.empty((0, batch))
    smoothed = lease(batch, steps * n if answer == "smoothed" else 0)
    errors = lease(batch, steps * m if answer == "gradient in y" else 0)
    flat = y.reshape(batch, steps * m)

    def block_of(block: slice) -> None:
        members = slice(block.start * lib.LANES, min(block.stop * lib.LANES, batch))
        lib.run_packs(
            (0,) * n, (0,) * m, table, space.slot[0], space.log_norm[0], emission, m0[members], flat[members],
            space.log_prob[members], smoothed[members], errors[members], sums, members.start,
        )  # fmt: skip

    over_blocks(block_of, packs, batch * steps * n * n // AT_ONCE)
    series = smoothed.reshape(batch, steps, n) if answer == "smoothed" else errors.reshape(batch, -1, m)
    return space._replace(sums=sums, series=series)


def gradients(sums: Any, errors: Any, weights: Any, into: list[Any]) -> None:
    """Add the terms of the means to the gradients of the parameters; write that of y where there are errors."""
    m0, p0, a, q, d, c, r, y = into
    n, batch = a.shape[1], len(weights)
    starts = sums[:n, :batch] * weights
    m0 += starts.T
    p0[0] += 0.5 * starts @ sums[:n, :batch].T
    kernels("kalman_packs").unpack(sums[:, :batch] @ weights, a[0], q[0], d[0, 0], c[0], r[0])
    if errors.size:
        np.multiply(errors, -weights[:, None, None], out=y)
