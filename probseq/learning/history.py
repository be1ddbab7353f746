"""The trace of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class History:
    """What happened in a fit: log p(y), plus log prior where there is one, in nats per iteration.

    Densities are in the units of the data.

    `objective` and `validation` (empty without a validation set) belong to the restart that was kept;
    `restarts` holds the final score of each, by which the best was chosen.
    """

    method: str
    objective: list[float] = field(default_factory=list[float])
    validation: list[float] = field(default_factory=list[float])
    restarts: list[float] = field(default_factory=list[float])
    converged: bool = False
    reason: str = ""
    seconds: float = 0.0

    @property
    def n_iterations(self) -> int:
        return max(len(self.objective) - 1, 0)

    def __repr__(self) -> str:
        last = f"{self.objective[-1]:.6g}" if self.objective else "none"
        return (
            f"History({self.method}, {self.n_iterations} iterations, log_prob {last}, "
            f"converged={self.converged}, {self.reason}, {self.seconds:.2f} s)"
        )
