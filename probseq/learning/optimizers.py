"""First-order optimisers. (Building one of torch's own imports its compiler, a second at every start.)"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Adam:
    """Adaptive moment estimation (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1).

    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
    x -= rate * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon).
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.parameters = list(parameters)
        self.learning_rate, self.betas, self.epsilon = learning_rate, betas, epsilon
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        self.n_steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move every parameter against its gradient."""
        self.n_steps += 1
        first, second = self.betas
        for x, g, m, v in zip(self.parameters, gradients, self.mean, self.square, strict=True):
            m.lerp_(g, 1 - first)
            v.mul_(second).addcmul_(g, g, value=1 - second)
            size = (v / (1 - second**self.n_steps)).sqrt_().add_(self.epsilon)
            x.addcdiv_(m, size, value=-self.learning_rate / (1 - first**self.n_steps))


def cap_norm(gradients: Sequence[Tensor], largest: float) -> tuple[list[Tensor], float]:
    """The gradients scaled down together so that their joint norm is at most `largest`, and the norm they had."""
    norm = float(torch.stack([g.norm() for g in gradients]).norm())
    factor = largest / norm if norm > largest else 1.0
    return [g * factor for g in gradients] if factor < 1 else list(gradients), norm
