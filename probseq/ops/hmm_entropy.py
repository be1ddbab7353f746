"""The entropy of the posterior path of a hidden Markov model.

Given y, the path is a Markov chain backwards in time, so that its entropy is a sum over steps,

    H(z_{0:T} | y) = H(z_{T-1} | y) + sum_{t >= 1} sum_j p(z_t = j | y) H(z_{t-1} | z_t = j, y)

and given z_t = j and y, z_{t-1} = i has probability proportional to p(z_{t-1} = i | y_{<t}) A_ij, whatever follows.

Reference: Hernando, Crespi & Cybenko (2005), IEEE Trans. Information Theory 51, who run the same sum forwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: numbers held at once while summing over steps
CHUNK = 2**20


def path_entropy(log_filtered: Tensor, gamma: Tensor, log_transition: Tensor, lengths: Tensor) -> Tensor:
    """H(z_{0:T} | y) (B,), from log p(z_t | y_<=t) and p(z_t | y), (B, T, K), and log_transition (S, R, K, K).

    An unobserved step counts like any other; a sequence of length 0 has entropy 0.
    """
    b, t, k = gamma.shape
    last = (lengths - 1).clamp(min=0).reshape(b, 1, 1).expand(b, 1, k)
    total = torch.special.entr(gamma.gather(1, last)).sum((1, 2))
    inside = torch.arange(t) < lengths.unsqueeze(-1)
    size = max(1, CHUNK // max(b * k * k, 1))
    for begin in range(1, t, size):
        steps = slice(begin, min(begin + size, t))
        moves = log_transition if log_transition.shape[1] == 1 else log_transition[:, steps]
        joint = log_filtered[:, begin - 1 : steps.stop - 1].unsqueeze(-1) + moves
        top = joint.amax(-2, keepdim=True)
        weights = (joint - torch.where(top > -torch.inf, top, 0.0)).exp()
        mass = weights.sum(-2, keepdim=True)
        backward = weights / torch.where(mass > 0, mass, 1.0)
        terms = (gamma[:, steps] * torch.special.entr(backward).sum(-2)).sum(-1)
        total = total + torch.where(inside[:, steps], terms, 0.0).sum(-1)
    return torch.where(lengths > 0, total, 0.0)
