"""The fused peephole LSTM beside torch.nn.LSTM, which has no peepholes, the loop over steps and the products alone.

`python -m benchmarks.bench_cells [seconds]`: forward and backward, float32, one thread. Agreement is asserted first:
values and gradients with the loop, and, at zero peepholes, with torch.nn.LSTM. Times are medians of processor time,
taken in turn as `timing.turns` says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import turns
from probseq.cells import LSTM
from probseq.kernels.tiles import product, width_of
from probseq.learning.allocation import freed_memory_kept

CASES = [(32, 100, 3, 128, 1), (64, 300, 3, 400, 3)]


def stacked(width: int, hidden: int, layers: int) -> list[LSTM]:
    return [LSTM(hidden, peepholes=True, input_size=width if k == 0 else hidden, seed=k) for k in range(layers)]


def run(cells: list[LSTM], inputs: Tensor, fused: bool) -> Tensor:
    for cell in cells:
        start = cell.initial_state((len(inputs),))
        inputs = cell.sequence(inputs, start) if fused else cell.output(cell.unrolled(inputs, start))
    return inputs


def gradients(run_once: Callable[[], Tensor], weights: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return [*torch.autograd.grad((run_once() * weights).sum(), parameters)]


def weights_of(cells: list[LSTM]) -> list[Tensor]:
    return [p for cell in cells for p in (cell.input_weights, cell.recurrent_weights, cell.bias)]


def copy_into(peer: nn.LSTM, cells: list[LSTM]) -> list[Tensor]:
    """Give torch's module the same weights; returns its parameters in the order of `weights_of`."""
    found: list[Tensor] = []
    with torch.no_grad():
        for k, cell in enumerate(cells):
            names = ("weight_ih_l", "weight_hh_l", "bias_ih_l")
            own = [getattr(peer, f"{name}{k}") for name in names]
            for parameter, value in zip(own, weights_of([cell]), strict=True):
                parameter.copy_(value)
            getattr(peer, f"bias_hh_l{k}").zero_()
            found += own
    return found


def agree(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def floor(batch: int, steps: int, width: int, hidden: int, layers: int) -> Callable[[], None]:
    """The matrix products of a pass and its adjoint and nothing else, by the library behind torch."""
    u, h, gates = torch.randn(4 * hidden, hidden), torch.randn(batch, hidden), torch.randn(batch, 4 * hidden)
    all_gates, all_hidden = torch.randn(steps * batch, 4 * hidden), torch.randn(steps * batch, hidden)
    room = [torch.empty_like(tensor) for tensor in (gates, h, u, all_gates, all_hidden)]

    def products() -> None:
        for layer in range(layers):
            for _ in range(steps):
                torch.mm(h, u.t(), out=room[0])
            for _ in range(steps):
                torch.mm(gates, u, out=room[1])
            torch.mm(all_gates.t(), all_hidden, out=room[2])
            if layer:  # the first layer's inputs are narrow
                torch.mm(all_hidden, u.t(), out=room[3])
                torch.mm(all_gates, u, out=room[4])
                torch.mm(all_gates.t(), all_hidden, out=room[2])

    return products


def rate(batch: int, hidden: int) -> tuple[float, float]:
    """Billions of operations a second of one step's product: the library's, and the tiles'."""
    u, h, out = torch.randn(4 * hidden, hidden), torch.randn(batch, hidden), torch.empty(batch, 4 * hidden)
    width = width_of("float32")
    panels = torch.randn(-(-4 * hidden // width), hidden, width).numpy()
    left, room = h.numpy().ravel(), torch.empty(panels.shape[0] * batch * width).numpy()
    calls = [
        lambda: torch.mm(h, u.t(), out=out),
        lambda: product(left, 0, hidden, width, panels, 0, len(panels), room, 0, batch, False),
    ]
    times = medians({"library": calls[0], "tiles": calls[1]}, seconds=0.5)
    return tuple(8e-6 * batch * hidden**2 / t for t in times)


def medians(calls: dict[str, Callable[[], object]], seconds: float) -> list[float]:
    return [float(np.median(times)) for times in turns(calls, seconds, "processor").values()]


def main() -> None:
    torch.set_num_threads(1)
    with freed_memory_kept():  # as inside a fit
        table()


def table() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    print("| batch, T, input, hidden, layers | ours, ms | torch | loop | products | ours / torch | loop / ours |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        batch, steps, width, hidden, layers = case
        torch.manual_seed(0)
        inputs, weights = torch.randn(batch, steps, width), torch.randn(batch, steps, hidden)
        cells, peer = stacked(width, hidden, layers), nn.LSTM(width, hidden, layers, batch_first=True)
        theirs = copy_into(peer, cells)
        peeps = [cell.peephole_weights for cell in cells]
        ours = [*weights_of(cells), *peeps]

        def fused() -> list[Tensor]:
            return gradients(lambda: run(cells, inputs, True), weights, ours)

        def looped() -> list[Tensor]:
            return gradients(lambda: run(cells, inputs, False), weights, ours)

        def torchs() -> list[Tensor]:
            return gradients(lambda: peer(inputs)[0], weights, theirs)

        agree(fused(), looped())
        kept = [p.detach().clone() for p in peeps]
        with torch.no_grad():
            for p in peeps:
                p.zero_()
        agree(fused()[: len(theirs)], torchs())
        with torch.no_grad():
            for p, value in zip(peeps, kept, strict=True):
                p.copy_(value)
        calls = {"fused": fused, "torch": torchs, "loop": looped, "products": floor(*case)}
        own, rival, slow, alone = medians(calls, seconds)
        row = f"| {', '.join(map(str, case))} | {own:.1f} | {rival:.1f} | {slow:.1f} | {alone:.1f} "
        print(row + f"| {own / rival:.2f} | {slow / own:.1f} |", flush=True)
        library, tiles = rate(batch, hidden)
        print(f"  one step's product: {library:.0f} Gflop/s by the library, {tiles:.0f} by tiles", flush=True)


if __name__ == "__main__":
    main()
