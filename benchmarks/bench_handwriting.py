"""The networks of Graves (2013) at full size: one step of training, and how fast they write.

`python -m benchmarks.bench_handwriting [--small]`: three layers of 400 cells over a window of 10 bells on 57
characters, 20 bivariate Gaussians, 32 lines of 700 points with texts of 30 characters, float32, one thread. Beside it
the same network by the loop over steps and torch's own operations; values and gradients are asserted equal first.
Writing: the compiled loop beside a loop over the four steps without gradients.
"""

from __future__ import annotations

import string
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

import probseq as ps
from probseq.handwriting import synthesis_network, write
from probseq.learning.allocation import freed_memory_kept
from probseq.sequences import Sequences

#: the paper's characters: letters, and the more frequent others
CHARACTERS = string.ascii_letters + " .,'?"
#: about as many lines as IAM-OnDB has; the paper does not say how many passes it took, so this number is a guess
LINES, PASSES = 12_000, 30


def data(batch: int, steps: int) -> tuple[Tensor, Tensor]:
    """Scribbles, and texts of 30 characters as inputs."""
    draws = torch.Generator().manual_seed(0)
    y = torch.randn(batch, steps, 3, generator=draws, dtype=torch.float64)
    y[..., 2] = (y[..., 2] > 1.5).double()
    codes = torch.randint(1, len(CHARACTERS) + 1, (batch, 1, 30), generator=draws).double()
    return y, codes.expand(batch, steps, 30)


def fused(model: ps.RNN, sequences: Sequences) -> Tensor:
    return model._log_prob(sequences).sum()


def looped(model: ps.RNN, sequences: Sequences) -> Tensor:
    """The same network, a Python loop over the steps."""
    inputs, start = model._inputs(sequences), model._first(sequences)
    outputs = model.cell.output(model.cell.unrolled(inputs, start))
    return model.head.log_prob(outputs, sequences.values).sum()


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Of processor time, the least of several calls: other work may run meanwhile."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def step(model: ps.RNN, sequences: Sequences, value: Callable[[ps.RNN, Sequences], Tensor]) -> Callable[[], object]:
    def run() -> object:
        return torch.autograd.grad(value(model, sequences), list(model.parameters()), allow_unused=True)

    return run


def training(hidden: int, batch: int, steps: int, repeats: int) -> None:
    model = synthesis_network(CHARACTERS, [hidden] * 3, 10, 20, most_characters=30, seed=0)
    ours, theirs = step(model, s := model._door(*data(batch, steps)).flat(), fused), step(model, s, looped)
    short = model._door(*data(4, 25)).flat()
    for one, other in zip(step(model, short, fused)(), step(model, short, looped)(), strict=True):  # type: ignore[call-overload]
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
    ours()
    times = seconds(ours, repeats), seconds(theirs, max(1, repeats // 2))
    outputs = torch.randn(batch, steps, 3 * hidden, requires_grad=True)
    head = seconds(lambda: model.head.log_prob(outputs, s.values).sum().backward(), repeats)
    updates = LINES * PASSES / batch
    print(
        f"one step, 3 x {hidden} cells, {batch} lines of {steps}: {times[0]:.2f} s (the head {head:.2f} of it), "
        f"by the loop {times[1]:.2f} s: {times[1] / times[0]:.2f} times faster"
    )
    print(
        f"{PASSES} passes over {LINES} lines, {updates:.0f} updates: {updates * times[0] / 3600:.1f} hours on one core"
    )


def writing(hidden: int, repeats: int) -> None:
    model, n = synthesis_network(CHARACTERS, [hidden] * 3, 10, 20, most_characters=30, seed=0), 200
    text = "a line of handwriting"
    u = model.cell.inputs_for(text, n)  # type: ignore[operator]

    def ours() -> None:
        write(model, text, seed=0, most_points=n)

    def theirs() -> None:
        model.sample(n, u=u, seed=0)

    points = len(write(model, text, seed=0, most_points=n).strokes)
    ours()
    times = seconds(ours, repeats) / points, seconds(theirs, 1) / n
    print(
        f"writing, 3 x {hidden} cells: {1e3 * times[0]:.2f} ms a point, by the four steps {1e3 * times[1]:.2f} ms: "
        f"{times[1] / times[0]:.1f} times faster"
    )


def main() -> None:
    torch.set_num_threads(1)
    small = "--small" in sys.argv[1:]
    with freed_memory_kept():
        training(64 if small else 400, 8 if small else 32, 50 if small else 700, 3)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an untrained window may not leave its text
        writing(64, 3)
        writing(400, 3)


if __name__ == "__main__":
    main()
