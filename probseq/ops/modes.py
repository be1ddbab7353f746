"""Which ways of differentiation a compiled function allows: reverse mode, once.

A kernel is opaque to torch, so its derivative is written by hand, as a second kernel. What a caller may ask for:

| asked for                                        | what runs                                                       |
|--------------------------------------------------|-----------------------------------------------------------------|
| the value, watched by nothing (`untracked`)      | the kernel itself: dispatch would cost more than a short one    |
| `backward()`, `torch.func.grad`                  | value and adjoint as an autograd function                       |
| compilation, tensor subclasses, `torch.func.vmap`| the registered operator, with its shapes and the same adjoint   |
| second derivatives                               | NotImplementedError                                             |
| forward mode (dual numbers, `torch.func.jvp`)    | NotImplementedError; an operator alone would return zeros       |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

Run = Callable[..., Any]
_PLAIN = {Tensor, nn.Parameter}
_SAVED = object()  # stands for a tensor among the arguments that a derivative keeps


class Operator(NamedTuple):
    """A function that reads and writes the memory of tensors, and the same one behind torch's dispatcher."""

    run: Run
    dispatched: Any


def operator(name: str, schema: str, shapes: Run) -> Callable[[Run], Operator]:
    """Register the decorated function as `torch.ops.probseq.<name>`; `shapes` returns empty tensors like its results.

    It must not change its arguments, nor return one of them.
    """

    def register(run: Run) -> Operator:
        options: dict[str, Any] = {"mutates_args": (), "device_types": "cpu", "schema": schema}
        dispatched = torch.library.custom_op(f"probseq::{name}", run, **options)
        dispatched.register_fake(shapes)
        return Operator(run, dispatched)

    return register


class OnceDifferentiable:
    """`value`, whose first output has the derivative `adjoint` in its first `n_inputs` arguments.

    adjoint(gradient, *arguments at the places `kept`, *further outputs) returns a gradient for each of these inputs.
    The further outputs are workspaces without derivatives. `at_once` may return the value of one member (1,) and its
    gradients together, or None; they are asked for where plain reverse mode watches.
    """

    def __init__(
        self, words: str, value: Operator, adjoint: Operator, *, n_inputs: int, kept: Sequence[int],
        at_once: Run | None = None,
    ) -> None:  # fmt: skip
        self.words = words
        self.at_once = at_once
        self.value, self.adjoint = value, adjoint
        self.n_inputs, self.kept = n_inputs, kept
        value.dispatched.register_autograd(self.pull_back, setup_context=self.save)
        adjoint.dispatched.register_autograd(self._refuse, setup_context=_nothing_to_save)

    def __call__(self, *arguments: Any) -> Any:
        inputs = arguments[: self.n_inputs]
        if _opaque(inputs) or not _differentiated(inputs):
            return self.value.dispatched(*arguments)
        if torch._C._are_functorch_transforms_active():
            return _Value.apply(self, *arguments)
        found = None if self.at_once is None else self.at_once(*arguments)
        if found is None:
            return _Plain.apply(self, *arguments)
        value, gradients = found
        places = [i for i, one in enumerate(inputs) if one.requires_grad or _forward_mode()]

        def scaled(outer: Tensor) -> list[Tensor]:
            return [outer * gradients[i] for i in places]

        return (attach(self.words, value, [inputs[i] for i in places], scaled),)

    def value_and_gradient(self, *arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The first output and the gradients of its sum in the inputs, by the kernels alone: nothing may watch."""
        found = None if self.at_once is None else self.at_once(*arguments)
        if found is not None:
            return found
        value, *workspaces = self.value.run(*arguments)
        return value, self.adjoint.run(torch.ones_like(value), *(arguments[i] for i in self.kept), *workspaces)

    def save(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        workspaces = output[1:] if isinstance(output, tuple) else ()
        ctx.mark_non_differentiable(*workspaces)
        ctx.set_materialize_grads(False)
        kept = [inputs[i] for i in self.kept]
        ctx.constants = [_SAVED if isinstance(argument, Tensor) else argument for argument in kept]
        ctx.n_arguments = len(inputs)
        ctx.save_for_backward(*(argument for argument in kept if isinstance(argument, Tensor)), *workspaces)

    def pull_back(self, ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        return self._gradients(ctx, gradient, self.adjoint.dispatched)

    def _gradients(self, ctx: Any, gradient: Tensor | None, adjoint: Run) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * ctx.n_arguments
        saved = iter(ctx.saved_tensors)
        arguments = [next(saved) if constant is _SAVED else constant for constant in ctx.constants]
        return (*adjoint(gradient, *arguments, *saved), *(None,) * (ctx.n_arguments - self.n_inputs))

    def _refuse(self, *_: Any) -> Any:
        raise NotImplementedError(self.no_second)

    @property
    def no_second(self) -> str:
        return _no_second_derivative(self.words)


class _Value(torch.autograd.Function):
    """A `OnceDifferentiable` for eager calls: unlike its operator, this serves `torch.func.grad`."""

    @staticmethod
    def forward(function: OnceDifferentiable, *arguments: Any) -> Any:
        return function.value.run(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.function = inputs[0]
        ctx.function.save(ctx, inputs[1:], output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        function: OnceDifferentiable = ctx.function

        def adjoint(*arguments: Any) -> Any:
            return run_adjoint(function.words, function.adjoint.run, *arguments)

        return (None, *function._gradients(ctx, gradients[0], adjoint))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        raise NotImplementedError(_no_forward_mode(ctx.function.words))


class _Plain(torch.autograd.Function):
    """`_Value` outside of transforms; torch looks up the signature of one with `setup_context` at every call, 40 us."""

    @staticmethod
    def forward(ctx: Any, function: OnceDifferentiable, *arguments: Any) -> Any:
        output = function.value.run(*arguments)
        _Value.setup_context(ctx, (function, *arguments), output)
        return output

    backward = _Value.backward
    jvp = _Value.jvp


class _Pulled(torch.autograd.Function):
    """A value whose gradients a function makes of the outer one: (words, value, function), inputs."""

    @staticmethod
    def forward(ctx: Any, known: tuple[str, Tensor, Callable[[Tensor], Any]], *inputs: Any) -> Any:
        ctx.known = known
        ctx.save_for_backward(*inputs)
        return known[1]

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> Any:
        words, _, pull = ctx.known
        return (None, *run_adjoint(words, lambda gradient, *_: tuple(pull(gradient)), outer[0], *ctx.saved_tensors))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        raise NotImplementedError(_no_forward_mode(ctx.known[0]))


def attach(words: str, value: Tensor, inputs: Sequence[Tensor], pull: Callable[[Tensor], Any]) -> Tensor:
    """`value` as a function of `inputs`, differentiable once: `pull` makes their gradients of that in the value."""
    return _Pulled.apply((words, value, pull), *inputs)  # type: ignore[return-value]


class _Final(torch.autograd.Function):
    """A function whose result cannot be differentiated in any mode, as `refusal` says."""

    @staticmethod
    def forward(refusal: str, run: Run, *arguments: Any) -> Any:
        return run(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.refusal = inputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        raise NotImplementedError(ctx.refusal)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        raise NotImplementedError(ctx.refusal)


def array_of(tensor: Tensor) -> Any:
    """The memory of a tensor as a C-contiguous array, without its history."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    return (tensor if tensor.is_contiguous() else tensor.contiguous()).numpy()


def untracked(*tensors: Tensor) -> bool:
    """Whether nothing watches this call, neither derivatives nor tracing nor a transform: kernels may run as such."""
    return not (_opaque(tensors) or torch._C._are_functorch_transforms_active() or _differentiated(tensors))


def eager(*tensors: Tensor) -> bool:
    """Whether at most reverse mode watches this call."""
    return not (_opaque(tensors) or torch._C._are_functorch_transforms_active() or _forward_mode())


def refuse_forward_mode(words: str, *tensors: Tensor) -> None:
    """Raise NotImplementedError if a tensor carries a tangent: for functions that have no derivatives at all."""
    if _forward_mode():
        _Final.apply(_no_forward_mode(words), lambda *_: torch.empty(0), *tensors)


def run_adjoint(words: str, run: Run, *arguments: Any) -> Any:
    """run(*arguments), so that differentiating the result raises NotImplementedError."""
    if untracked(*(argument for argument in arguments if isinstance(argument, Tensor))):
        return run(*arguments)
    return _Final.apply(_no_second_derivative(words), run, *arguments)


def derivatives_wanted(*tensors: Tensor) -> bool:
    """Whether this call is one that plain reverse mode watches, and nothing else."""
    return eager(*tensors) and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _no_second_derivative(words: str) -> str:
    return f"the {words} has an exact first derivative only: take second derivatives as its differences"


def _no_forward_mode(words: str) -> str:
    return f"the {words} has no forward-mode derivative: use reverse mode"


def _nothing_to_save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _differentiated(tensors: tuple[Tensor, ...]) -> bool:
    """Whether a derivative may be asked of the result."""
    return (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)) or _forward_mode()


def _forward_mode() -> bool:
    return getattr(forward_ad, "_current_level", 0) >= 0  # -1 outside every dual level


def _opaque(tensors: tuple[Tensor, ...]) -> bool:
    """Whether torch must see the operator by name: while it compiles, and for the subclasses it traces with."""
    return torch.compiler.is_compiling() or not _PLAIN.issuperset(map(type, tensors))
