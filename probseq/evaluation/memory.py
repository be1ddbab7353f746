"""How much of the past a model uses: its score against the number of past steps that it is given.

    h_k = - E log p(y_t | y_{t-k} .. y_{t-1})          k = 0, 1, 2, ...: nats per step, falling with k
    I_k = sum over j < k of (h_j - h_last)             what the last k steps tell about the future

A model that is given k steps starts as if the series began there. I_last is the predictive information, the mutual
information between past and future that the model makes use of (the excess entropy of Crutchfield and Feldman 2003;
Bialek, Nemenman and Tishby 2001), exactly for a model scored on its own stationary samples and a past long enough. A
hidden Markov model with K states carries no more than log2 K bits from one step to the next, and so no more than that
from past to future: the bound is drawn beside its value. Nothing but its size bounds a network.

Scores on real data are cross entropies: h_k need not fall then, and I can exceed the bound by what it is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from probseq import plot_style as style
from probseq.base import StateSpaceModel
from probseq.checks import whole_number
from probseq.models.hmm import HMM
from probseq.plot_style import INK, PALETTE
from probseq.randomness import fresh_seed
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass
class Memory:
    """`scores`: mean log-probability of a step by model (columns) and number of past steps (rows), nats."""

    scores: Any
    #: I_last in bits, by model
    information: dict[str, float]
    #: log2 K of the models that are hidden Markov models
    bounds: dict[str, float]

    def __str__(self) -> str:
        lines = [self.scores.to_string(float_format=lambda x: f"{x:.4f}"), ""]
        for name, bits in self.information.items():
            bound = f", at most log2 K = {self.bounds[name]:.2f}" if name in self.bounds else ""
            lines.append(f"{name}: {bits:.3f} bits between past and future{bound}")
        return "\n".join(lines)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Bits used of the last k steps against k, with the bounds of the hidden Markov models dashed."""
        axes = style.axes_or_new(axes)
        ends: list[tuple[float, str, str]] = []
        for i, name in enumerate(self.scores.columns):
            colour = PALETTE[i % len(PALETTE)]
            bits = used(self.scores[name].to_numpy())
            axes.plot(self.scores.index, bits, "-", marker="o", markersize=3, color=colour)
            ends.append((float(bits[-1]), name, colour))
            if name in self.bounds:
                axes.axhline(self.bounds[name], color=colour, linestyle="--", linewidth=0.9)
                ends.append((self.bounds[name], f"log2 K, {name}", colour))
        for height, text, colour in ends:
            axes.annotate(
                text, (1.0, height), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                va="center", color=colour, **style.SMALL,
            )  # fmt: skip
        axes.set_xlabel("past steps given")
        axes.set_ylabel("bits about the future")
        axes.axhline(0.0, color=INK, linewidth=0.6)
        return axes


def used(scores: Any) -> Any:
    """Bits that the last k steps tell about the future, for every k: sum over j < k of h_j - h_last."""
    scores = np.asarray(scores, dtype=np.float64)
    return np.concatenate([[0.0], (scores[-1] - scores[:-1]).cumsum()]) / math.log(2)


@torch.no_grad()
def context_ablation(
    models: Mapping[str, StateSpaceModel[Any]],
    y: Any,
    u: Any = None,
    *,
    lengths: Any = None,
    max_context: int = 16,
    n_windows: int = 1000,
    seed: int | None = 0,
) -> Memory:
    """Score every model on the same steps of y with 0, 1, .. `max_context` steps of the past given.

    At most `n_windows` steps that have such a past, without gaps, are drawn. ValueError where there is none.
    """
    if not models:
        raise ValueError("models must hold at least one model, by name")
    max_context = whole_number("max_context", max_context)
    sequences = next(iter(models.values()))._door(y, u, lengths, least=1).flat()
    windows, inputs = _windows(sequences, max_context, whole_number("n_windows", n_windows), seed)
    import pandas as pd

    table = pd.DataFrame(index=pd.Index(range(max_context + 1), name="past steps"))
    for name, model in models.items():
        table[name] = [_score(model, windows, inputs, max_context - k) for k in range(max_context + 1)]
    information = {name: float(used(table[name].to_numpy())[-1]) for name in models}
    bounds = {name: math.log2(model.n_states) for name, model in models.items() if isinstance(model, HMM)}
    return Memory(table, information, bounds)


def _score(model: StateSpaceModel[Any], windows: Tensor, inputs: Tensor | None, skipped: int) -> float:
    """The mean log-probability of the last step of every window when the first steps are left out."""
    data = model._door(windows[:, skipped:], None if inputs is None or not model.input_dim else inputs[:, skipped:])
    return float(model._filter(data.flat(), None).log_prob[:, -1].mean())


def _windows(sequences: Sequences, max_context: int, n_windows: int, seed: int | None) -> tuple[Tensor, Tensor | None]:
    """Windows (N, max_context + 1, D) of y that are complete, and those of u."""
    size = max_context + 1
    if sequences.n_steps < size:
        raise ValueError(f"y must have at least {size} steps in a sequence, got {sequences.n_steps}")
    whole = (sequences.observed.all(-1) & sequences.inside).unfold(1, size, 1).all(-1)
    places = whole.nonzero()
    if not len(places):
        raise ValueError(f"y must have {size} complete steps in a row somewhere, there are none")
    chosen = np.sort(np.random.default_rng(fresh_seed(seed)).permutation(len(places))[:n_windows])
    rows, times = places[torch.from_numpy(chosen)].unbind(-1)
    steps = times.unsqueeze(-1) + torch.arange(size)
    u = sequences.inputs
    return sequences.values[rows.unsqueeze(-1), steps], None if u is None else u[rows.unsqueeze(-1), steps]
