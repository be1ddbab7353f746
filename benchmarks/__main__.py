"""Run every benchmark and print the tables: `python -m benchmarks`, one thread, nothing else running."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from benchmarks import bench_hmm, bench_lds, start


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
    print("\n" + "\n".join(start.results()) + "\n")
    bench_hmm.everything(seconds=1.0)
    bench_lds.everything(seconds=0.5)


if __name__ == "__main__":
    main()
