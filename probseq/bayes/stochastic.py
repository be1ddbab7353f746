"""Stochastic recurrent models: a state that the network does not know, only a guide that guesses it.

The likelihood integrates over all states, which nobody can. What is on offer, each with its kind:

| what                                       | kind         | is                                                       |
|--------------------------------------------|--------------|----------------------------------------------------------|
| what `fit` climbs                          | bound        | ELBO by one draw from the guide, KL annealed             |
| `estimate_log_prob(kind="bound")`          | "bound"      | the mean of `n_samples` such draws, not annealed         |
| `estimate_log_prob(kind="importance")`     | "importance" | log of the mean of `n_samples` importance weights        |
| `estimate_log_prob(kind="particle")`       | "particle"   | log of the mean of `n_samples` particle filters          |
| `log_prob`, `filter`, `score`, the 4 steps | bound        | one particle filter, whose random numbers `seed` fixes   |

All lie below log p(y) on average, so that `likelihood_kind` is "bound"; importance and particles come nearer with more
samples and particles. The first three use the guide as it was learned, with all of y before it. A filter cannot look
ahead: with few particles its value lies far below the others where states are hard to guess from the past alone.

In a fit the weight of KL climbs to 1 over the first `kl_warmup` updates, so that states are put to use before they are
priced (Bowman et al. 2016, arXiv:1511.06349, section 3.1); scores of a fit are never annealed.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from probseq import beliefs as B
from probseq.bayes import bounds
from probseq.bayes.cloud import Cloud
from probseq.checks import whole_number
from probseq.models.particle_draws import FAR
from probseq.models.particle_filter import Estimate
from probseq.randomness import fresh_seed, seeded
from probseq.sequences import Sequences

#: particles times sequences that are run at once by estimates
ROWS = 20_000
#: draws behind a score of a fit
SCORED = 4
EstimateKind = Literal["bound", "importance", "particle"]
KINDS: tuple[str, ...] = ("bound", "importance", "particle")


class StochasticRecurrent(Cloud):
    """To write: what `Cloud` asks for, and `_unrolled`.  You get: bounds, estimates, fits by bounds."""

    optimizer: ClassVar[Literal["lbfgs", "adam"]] = "adam"
    validation_share: ClassVar[float | None] = 0.2

    @abc.abstractmethod
    def _unrolled(self, sequences: Sequences, noise: Tensor) -> bounds.Pass:
        """States of a flat batch drawn from the guide by the noise (B, T, n), T > 0."""

    def _log_prob(self, sequences: Sequences) -> Tensor:
        return self._evidence(sequences, torch.zeros(len(sequences.lengths), dtype=torch.int64))

    def _objective(self, sequences: Sequences) -> Tensor:
        """The ELBO: annealed and by one fresh draw in training, else by `SCORED` draws that the seed fixes."""
        if not self.training:
            return self._repeated(sequences, "bound", SCORED, self.seed).mean(0)
        self.n_updates += 1
        weight = min(1.0, float(self.n_updates) / self.kl_warmup) if self.kl_warmup else 1.0
        said, price = self._terms(sequences)
        return said - weight * price

    def _terms(self, sequences: Sequences, *, exact: bool = True) -> tuple[Tensor, Tensor]:
        """log p(y | z) and what the draw costs, KL or with `exact=False` log q(z) - log p(z); (B,) each."""
        longest = int(sequences.lengths.max()) if len(sequences.lengths) else 0
        if longest == 0:
            nothing = torch.zeros(len(sequences.lengths), dtype=torch.float64)
            return nothing, nothing
        short = sequences.steps(0, longest)
        noise = torch.randn(*short.inside.shape, self.state_dim, dtype=self.dtype)
        drawn = self._unrolled(short, noise)
        price = bounds.divergence(drawn) if exact else bounds.log_ratio(drawn)
        return self._said(drawn.features, short), torch.where(short.inside, price, 0.0).sum(-1)

    def _said(self, features: Tensor, sequences: Sequences) -> Tensor:
        """log p(y | z), (B,), without the padding."""
        inside = sequences.inside
        if sequences.rectangular:
            observed = None if sequences.complete else sequences.observed
            return self.head.log_prob(features, sequences.values, observed).sum(-1)
        observed = None if sequences.complete else sequences.observed[inside]
        scores = self.head.log_prob(features[inside], sequences.values[inside], observed)
        return torch.zeros(inside.shape, dtype=torch.float64).masked_scatter(inside, scores).sum(-1)

    @torch.no_grad()
    def _evidence(self, sequences: Sequences, draw: Tensor) -> Tensor:
        """The particle filter's estimate, (B,), with the random numbers that `draw` starts."""
        order = sequences.lengths.argsort(descending=True, stable=True)
        rows, totals, belief = sequences.select(order), torch.zeros(len(order), dtype=torch.float64), None
        running = rows.inside.sum(0).tolist()  # the longest come first: those that have ended are left out
        for t, n in enumerate(running[: int(rows.lengths.max()) if len(order) else 0]):
            u = None if rows.inputs is None else rows.inputs[:n, t]
            if belief is None:
                belief = self._begin(draw[order[:n]], u)
            else:
                belief = self.predict(B.map_tensors(lambda field, _, n=n: field[:n], belief), u)
            observed = None if rows.complete else rows.observed[:n, t]
            belief, log_prob = self.update(belief, rows.values[:n, t], observed, u)
            totals[:n] += log_prob
        return torch.empty_like(totals).index_copy_(0, order, totals)

    @torch.no_grad()
    def estimate_log_prob(
        self,
        y: Any,
        u: Any = None,
        *,
        lengths: Any = None,
        kind: EstimateKind = "bound",
        n_samples: int = 10,
        seed: int | None = None,
    ) -> Estimate:
        """What is known of log p(y), (*batch,), of the kind asked for, with its standard error; see the module's table.

        The error of a log of a mean is that to first order. ValueError for another kind.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
        sequences = self._door(y, u, lengths)
        runs = self._repeated(sequences.flat(), kind, whole_number("n_samples", n_samples), fresh_seed(seed))
        value, error = bounds.mean(runs) if kind == "bound" else bounds.log_mean(runs)
        shape = sequences.batch_shape
        return Estimate(value.reshape(shape), kind, error.reshape(shape))

    @torch.no_grad()
    def _repeated(self, flat: Sequences, kind: str, n_samples: int, seed: int) -> Tensor:
        """Independent runs, (n_samples, B)."""
        size, runs = len(flat.lengths), []
        each = max(1, ROWS // max(size * (self.n_particles if kind == "particle" else 1), 1))
        own = self.seed
        try:
            self.seed = seed
            with seeded(seed):
                for begin in range(0, n_samples, each):
                    repeats = torch.arange(begin, min(begin + each, n_samples))
                    rows = flat.select(torch.arange(size).repeat(len(repeats)))
                    found = self._run(rows, kind, (repeats * FAR).repeat_interleave(size))
                    runs.append(found.reshape(-1, size))
        finally:
            self.seed = own
        return torch.cat(runs)

    def _run(self, rows: Sequences, kind: str, draw: Tensor) -> Tensor:
        if kind == "particle":
            return self._evidence(rows, draw)
        said, price = self._terms(rows, exact=kind == "bound")
        return said - price

    def _value_and_gradient(self, sequences: Sequences, parameters: list[torch.nn.Parameter]) -> Any:
        raise ValueError(f"a {type(self).__name__} is learned by small steps on draws: optimizer must not be 'lbfgs'")

    # ---- starts, units

    def _outside(self, values: Tensor) -> tuple[Tensor, str] | None:
        return None if self.real_valued else (self.head.invalid(values), self.head.support)

    def _rescale(self, scale: Tensor, shift: Tensor) -> None:
        self.head.standardise(scale * self.head.shift + shift, scale * self.head.scale)

    def _start(self, sequences: Sequences, seed: int) -> None:
        """Draw the weights; the head starts at the marginal of the data, inputs are standardised."""
        self._draw(seed)
        self.n_updates.zero_()
        if self.real_valued:
            self.head.standardise(torch.zeros_like(self.head.shift), torch.ones_like(self.head.scale))
        self.head.start_from(sequences.values, sequences.observed, seed)
        if sequences.inputs is not None:
            shift, scale = sequences.input_units()
            self.input_shift.copy_(shift)
            self.input_scale.copy_(scale)
