"""First calls: with an empty kernel cache, and in later processes; and peak memory of a large posterior."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

IMPORTS = "import torch, numba, numpy, time, resource"
BODIES = {
    "LDS": "m = ps.LDS(transition_matrix=[[1.0]], transition_cov=[[1.0]], emission_matrix=[[1.0]], "
    "emission_cov=[[1.0]], initial_mean=[0.0], initial_cov=[[1.0]])",
    "HMM": "m = ps.HMM(initial_probs=[0.5, 0.5], transition_matrix=[[0.9, 0.1], [0.1, 0.9]], "
    "emission=ps.emissions.Gaussian(means=[[0.0], [1.0]], covs=[[[1.0]], [[1.0]]]))",
}


def run(body: str, cache: str) -> tuple[float, float]:
    """Seconds of `import probseq` plus the first log_prob beyond torch and numba, and megabytes at the end."""
    script = (
        f"{IMPORTS}\nstart = time.perf_counter()\nimport probseq as ps\n{body}\n"
        "m.log_prob(numpy.arange(50.0))\n"
        "print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    return float(shown[0]), float(shown[1])


def results() -> list[str]:
    rows = [
        "| model | first call, empty cache, s | later processes, s (median of 5) | memory, MB |",
        "|---|---|---|---|",
    ]
    for name, body in BODIES.items():
        with tempfile.TemporaryDirectory() as cache:
            cold, memory = run(body, cache)
            time.sleep(0.5)
            warm = sorted(run(body, cache)[0] for _ in range(5))[2]
        rows.append(f"| {name} | {cold:.1f} | {warm:.2f} | {memory:.0f} |")
    return rows
