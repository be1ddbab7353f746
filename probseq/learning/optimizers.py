"""What moves parameters against a gradient: three small optimisers of our own, and any of torch's.

| name                   | one update, g the gradient of the loss at x (at x + mu v for "nesterov")                    |
|------------------------|---------------------------------------------------------------------------------------------|
| "adam"                 | m = b1 m + (1 - b1) g;  s = b2 s + (1 - b2) g^2;                                            |
|                        | x -= rate m / (1 - b1^t) / (sqrt(s / (1 - b2^t)) + epsilon)                                 |
| "momentum", "nesterov" | v = mu v - rate g;  x += v                                                                  |
| another name or class  | `torch.optim`'s; building one imports torch's compiler, a second or two, which "adam" saves |

Kingma, D. & Ba, J. (2015). Adam: a method for stochastic optimization. arXiv:1412.6980, algorithm 1.
Sutskever, I., Martens, J., Dahl, G. & Hinton, G. (2013). On the importance of initialization and momentum in deep
learning. ICML, equations (1)-(4): classical momentum and Nesterov's accelerated gradient.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

#: those that need no compiler
OWN = ("adam", "momentum", "nesterov")
#: torch's that want to evaluate the loss themselves
REFUSED = ("LBFGS", "SparseAdam")
_NOTHING = nullcontext()


class Optimiser(abc.ABC):
    """To write: `step`, and what it remembers, as tensors and plain numbers."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)

    def ahead(self, momentum: float) -> AbstractContextManager[None]:
        """Inside, the parameters stand where the gradient is wanted."""
        return _NOTHING

    @abc.abstractmethod
    def step(self, gradients: Sequence[Tensor], rate: float, momentum: float) -> None:
        """Move every parameter against its gradient; only those with a velocity read `momentum`."""

    @abc.abstractmethod
    def memory(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All it remembers: tensors, and what JSON can hold. `remember` puts it back."""

    @abc.abstractmethod
    def remember(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None: ...


class Adam(Optimiser):
    """Adaptive moment estimation; see the module's table."""

    def __init__(
        self, parameters: Sequence[Tensor], betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8
    ) -> None:
        super().__init__(parameters)
        self.betas, self.epsilon = betas, epsilon
        self.mean = [torch.zeros_like(p) for p in self.parameters]
        self.square = [torch.zeros_like(p) for p in self.parameters]
        self.n_steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float, momentum: float = 0.0) -> None:
        self.n_steps += 1
        first, second = self.betas
        for x, g, m, v in zip(self.parameters, gradients, self.mean, self.square, strict=True):
            m.lerp_(g, 1 - first)
            v.mul_(second).addcmul_(g, g, value=1 - second)
            size = (v / (1 - second**self.n_steps)).sqrt_().add_(self.epsilon)
            x.addcdiv_(m, size, value=-rate / (1 - first**self.n_steps))

    def memory(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return _named(mean=self.mean, square=self.square), {"n_steps": self.n_steps}

    def remember(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        _put_back(tensors, mean=self.mean, square=self.square)
        self.n_steps = int(plain["n_steps"])


class Momentum(Optimiser):
    """Classical momentum, or with `nesterov` the gradient taken where the velocity leads; see the module's table."""

    def __init__(self, parameters: Sequence[Tensor], nesterov: bool = False) -> None:
        super().__init__(parameters)
        self.nesterov = nesterov
        self.velocity = [torch.zeros_like(p) for p in self.parameters]

    def ahead(self, momentum: float) -> AbstractContextManager[None]:
        return self._moved(momentum) if self.nesterov else _NOTHING

    @contextmanager
    def _moved(self, momentum: float) -> Generator[None]:
        kept = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for p, v in zip(self.parameters, self.velocity, strict=True):
                p.add_(v, alpha=momentum)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self.parameters, kept, strict=True):
                    p.copy_(value)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float, momentum: float) -> None:
        for x, g, v in zip(self.parameters, gradients, self.velocity, strict=True):
            v.mul_(momentum).add_(g, alpha=-rate)
            x.add_(v)

    def memory(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return _named(velocity=self.velocity), {}

    def remember(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        _put_back(tensors, velocity=self.velocity)


class FromTorch(Optimiser):
    """Any optimiser of `torch.optim` that needs gradients alone."""

    def __init__(self, parameters: Sequence[Tensor], make: Callable[..., Any], options: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self.inner = make(self.parameters, lr=1.0, **options)
        if not isinstance(self.inner, torch.optim.Optimizer):
            raise TypeError(f"optimizer must make a torch.optim.Optimizer, got {self.inner!r}")

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], rate: float, momentum: float = 0.0) -> None:
        for group in self.inner.param_groups:
            group["lr"] = rate
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = g
        self.inner.step()
        for p in self.parameters:
            p.grad = None

    def memory(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = self.inner.state_dict()["state"]
        entries = {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}
        tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
        return tensors, {name: value for name, value in entries.items() if name not in tensors}

    def remember(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        state: dict[int, dict[str, Any]] = {}
        for name, value in [*tensors.items(), *plain.items()]:
            place, _, leaf = name.partition(".")
            state.setdefault(int(place), {})[leaf] = value
        self.inner.load_state_dict({**self.inner.state_dict(), "state": state})


def find_optimizer(given: Any) -> str | Callable[..., Any]:
    """One of `OWN`, or a class of `torch.optim` by name in any case; a class is left as it is. ValueError otherwise."""
    if callable(given) and not isinstance(given, str):
        named = getattr(given, "__name__", "")
        if named not in REFUSED:
            return given
    elif isinstance(given, str):
        if given.lower() in OWN:
            return given.lower()
        known = {name.lower(): name for name in dir(torch.optim) if _is_optimizer(getattr(torch.optim, name))}
        if given.lower() in known and known[given.lower()] not in REFUSED:
            return getattr(torch.optim, known[given.lower()])
    raise ValueError(
        'optimizer must be "lbfgs", "adam", "momentum", "nesterov", or a class of torch.optim or its name that needs '
        f"gradients alone, got {given!r}"
    )


def make_optimizer(
    given: str | Callable[..., Any], parameters: Sequence[Tensor], options: Mapping[str, Any]
) -> Optimiser:
    """What `find_optimizer` found, for these parameters. Options of "adam" are those of `torch.optim.Adam`."""
    if given == "adam" and options:
        given = torch.optim.Adam
    if given == "adam":
        return Adam(parameters)
    if isinstance(given, str):
        if options:
            raise ValueError(f"optimizer_options are for torch.optim, got {sorted(options)} with {given!r}")
        return Momentum(parameters, nesterov=given == "nesterov")
    return FromTorch(parameters, given, options)


def _is_optimizer(entry: Any) -> bool:
    return isinstance(entry, type) and issubclass(entry, torch.optim.Optimizer) and entry is not torch.optim.Optimizer


def _named(**lists: list[Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{i}": tensor for name, tensors in lists.items() for i, tensor in enumerate(tensors)}


def _put_back(stored: Mapping[str, Tensor], **lists: list[Tensor]) -> None:
    for name, tensor in _named(**lists).items():
        tensor.copy_(stored[name])


def clip(
    gradients: Sequence[Tensor], norm: float | None = None, value: float | None = None
) -> tuple[list[Tensor], float]:
    """Every entry brought into [-value, value], then all scaled together to a joint norm of at most `norm`.

    Returns them with the norm that they had at first, which is finite if and only if they were.
    """
    found = clipped = list(gradients)
    before = size = _joint_norm(found)
    if value is not None:
        clipped = [g.clamp(-value, value) for g in clipped]
        size = before if norm is None else _joint_norm(clipped)
    if norm is not None and size > norm:
        clipped = [g * (norm / size) for g in clipped]
    return clipped, before


def _joint_norm(gradients: Sequence[Tensor]) -> float:
    return float(torch.stack([g.norm() for g in gradients]).norm()) if gradients else 0.0
