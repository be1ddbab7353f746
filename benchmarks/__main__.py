"""Run every benchmark and print the tables: `python -m benchmarks`, one thread, nothing else running."""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import platform  # noqa: E402
from importlib.metadata import version  # noqa: E402

import torch  # noqa: E402

from benchmarks import bench_hmm, lds_cases, start  # noqa: E402
from benchmarks.timing import HEADER  # noqa: E402


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    torch.set_num_threads(1)
    packages = ("torch", "numba", "numpy", "hmmlearn", "dynamax", "jax", "pomegranate", "pyro-ppl", "statsmodels")
    print(f"{processor()}, one thread; " + ", ".join(f"{name} {version(name)}" for name in packages) + "\n")
    print(HEADER)
    for result in lds_cases.results():
        print(result.row(), flush=True)
    print("\n| case | value, ms | value and gradient, ms |\n|---|---|---|")
    for case, value, both in lds_cases.gradients():
        print(f"| {case} | {value:.3g} | {both:.3g} |")
    print("\n" + "\n".join(start.results()) + "\n")
    bench_hmm.everything(seconds=1.0)


if __name__ == "__main__":
    main()
