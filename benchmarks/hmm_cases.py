"""Hidden Markov models against hmmlearn's two implementations (public calls, emission tables included)."""

from __future__ import annotations

import numpy as np
import torch
from hmmlearn import hmm as rival

import probseq as ps
from benchmarks.timing import Result, agree, medians


def problem(k: int, d: int, t: int) -> tuple[ps.HMM, dict[str, rival.GaussianHMM], np.ndarray]:
    draws = np.random.default_rng(k)
    matrix = 0.7 * np.eye(k) + 0.3 * draws.dirichlet(np.ones(k), size=k)
    means, half = 1.5 * draws.normal(size=(k, d)), 0.3 * np.tril(draws.normal(size=(k, d, d))) + 0.8 * np.eye(d)
    covs = half @ half.transpose(0, 2, 1)
    start = np.full(k, 1 / k)
    others = {}
    for implementation in ("scaling", "log"):
        other = rival.GaussianHMM(k, "full", implementation=implementation)
        other.startprob_, other.transmat_, other.means_, other.covars_ = start, matrix, means, covs
        others[implementation] = other
    ours = ps.HMM(initial_probs=start, transition_matrix=matrix, emission=ps.emissions.Gaussian(means=means, covs=covs))
    return ours, others, others["log"].sample(t, random_state=0)[0]


def results() -> list[Result]:
    rows: list[Result] = []
    for k, d, t in [(3, 2, 1_000), (8, 4, 10_000), (32, 8, 10_000), (128, 8, 2_000)]:
        ours, others, y = problem(k, d, t)
        sequences = ps.Sequences.of(y)
        case = f"HMM, {k} states, {d} columns, {t:,} steps"
        with torch.no_grad():
            table = ours._arguments(sequences.flat())
        for implementation, other in others.items():

            def score(other: rival.GaussianHMM = other) -> float:
                return other.score(y)

            def decode(other: rival.GaussianHMM = other) -> np.ndarray:
                return other.decode(y)[1]

            def posterior(other: rival.GaussianHMM = other) -> np.ndarray:
                return other.predict_proba(y)

            from probseq.ops import hmm as op

            with torch.no_grad():
                agree(ours.log_prob(sequences), score())
                agree(ours.decode(sequences), decode())
                agree(ours.smooth(sequences).probs, posterior(), 1e-8)
                for name, mine, theirs, alone in [
                    ("log-likelihood", lambda: ours.log_prob(sequences), score, lambda: op.log_prob(*table)),
                    ("Viterbi", lambda: ours.decode(sequences), decode, lambda: op.viterbi(*table)),
                    ("posterior", lambda: ours.smooth(sequences), posterior, lambda: op.posterior(*table)),
                ]:
                    first, second, third = medians(mine, theirs, alone)
                    rows.append(Result(case, name, first, f"hmmlearn {implementation}", second, third))
    return rows
