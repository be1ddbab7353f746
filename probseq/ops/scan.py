"""Recurrences by an associative operation: all prefixes at once, or one after the other.

    associative_scan(combine, (x_0, .., x_{T-1})) = x_0, x_0 * x_1, x_0 * x_1 * x_2, ...        where * is `combine`
    linear_scan: h_t = a_t h_{t-1} + b_t, the prefixes of (a, b) * (a', b') = (a a', a' b + b')

The scan pairs neighbours, scans the half as many pairs, and fills in the rest: about log2 T rounds, each one call on
all steps, which is what an accelerator wants; it does twice the work of the loop. On a CPU `linear_scan` therefore
runs a compiled loop with its adjoint, which has a first derivative in reverse mode only; elsewhere, and where asked
to, the associative one, which can be differentiated as often as one likes.

Blelloch, G. (1990). Prefix sums and their applications. Report CMU-CS-90-190.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from probseq.kernels import scan as kernels
from probseq.ops.modes import OnceDifferentiable, array_of, operator

Elements = tuple[Tensor, ...]


def associative_scan(combine: Callable[[Elements, Elements], Elements], elements: Elements, dim: int = -2) -> Elements:
    """All prefixes of `elements` along `dim`. Satisfies result[t] == combine(result[t - 1], elements[t]).

    `combine` takes two tuples of slices, earlier and later, and must be associative.
    """
    dim = dim % elements[0].ndim

    def every_other(parts: Elements, first: int, count: int) -> Elements:
        return tuple(part.narrow(dim, first, max(2 * count - 1, 0))[_every_second(part.ndim, dim)] for part in parts)

    def scan(parts: Elements) -> Elements:
        n = parts[0].shape[dim]
        if n < 2:
            return parts
        pairs, rest = n // 2, (n - 1) // 2
        odd = scan(combine(every_other(parts, 0, pairs), every_other(parts, 1, pairs)))  # prefixes that end at 1, 3, ..
        even = combine(tuple(part.narrow(dim, 0, rest) for part in odd), every_other(parts, 2, rest)) if rest else ()
        firsts = [part.narrow(dim, 0, 1) for part in parts]
        return tuple(
            _interleave(torch.cat([first, *([even[k]] if rest else [])], dim), odd[k], dim)
            for k, first in enumerate(firsts)
        )

    return scan(elements)


def _every_second(ndim: int, dim: int) -> tuple[slice, ...]:
    return tuple(slice(None, None, 2) if axis == dim else slice(None) for axis in range(ndim))


def _interleave(even: Tensor, odd: Tensor, dim: int) -> Tensor:
    """even_0, odd_0, even_1, odd_1, ...; even has as many entries as odd, or one more."""
    n = odd.shape[dim]
    both = torch.stack([even.narrow(dim, 0, n), odd], dim + 1).flatten(dim, dim + 1)
    return torch.cat([both, even.narrow(dim, n, even.shape[dim] - n)], dim)


def linear_scan(
    decay: Tensor, drive: Tensor, start: Tensor, method: Literal["serial", "associative"] | None = None
) -> Tensor:
    """h_t = decay_t * h_{t-1} + drive_t, elementwise: decay, drive and result (B, T, N), start (B, N), real or complex.

    `method` None: the compiled loop on a CPU, the associative scan elsewhere.
    """
    if method is None:
        method = "serial" if drive.device.type == "cpu" else "associative"
    if method == "serial":
        return _differentiable(decay, drive, start)
    drive = torch.cat([(decay[:, :1] * start.unsqueeze(1) + drive[:, :1]), drive[:, 1:]], 1)
    return associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (decay, drive))[1]


@torch.no_grad()
def _forward(decay: Tensor, drive: Tensor, start: Tensor) -> Tensor:
    out = torch.empty_like(drive, memory_format=torch.contiguous_format)
    kernels.forward(_resolved(decay), _resolved(drive), _resolved(start), out.numpy())
    return out


def _resolved(tensor: Tensor) -> Any:
    return array_of(tensor.resolve_conj().resolve_neg())


@torch.no_grad()
def _backward(gradient: Tensor, decay: Tensor, drive: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = _forward(decay, drive, start)
    made = _adjoint_shapes(gradient, decay, drive, start)
    arrays = map(_resolved, (gradient, decay, start, out))
    kernels.backward(*arrays, *(tensor.numpy() for tensor in made))
    return made


def _shapes(decay: Tensor, drive: Tensor, start: Tensor) -> Tensor:
    return torch.empty_like(drive, memory_format=torch.contiguous_format)


def _adjoint_shapes(gradient: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    decay, drive, start = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs)
    return decay, drive, start


_differentiable = OnceDifferentiable(
    "linear recurrence",
    operator("linear_scan", "(Tensor decay, Tensor drive, Tensor start) -> Tensor", _shapes)(_forward),
    operator(
        "linear_scan_backward",
        "(Tensor gradient, Tensor decay, Tensor drive, Tensor start) -> (Tensor, Tensor, Tensor)",
        _adjoint_shapes,
    )(_backward),
    n_inputs=3,
    kept=range(3),
)
