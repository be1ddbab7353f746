"""The fused LSTM: any sizes against the loop over steps, its operators, and the derivatives it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from probseq.cells import LSTM
from probseq.ops import cells as ops

VARIANTS = [
    {"peepholes": True},
    {"coupled": True, "projection_size": 5},
    {"peepholes": True, "full_gate_recurrence": True, "projection_size": 19},
    {"input_gate": False, "output_activation": False},
]
variants = pytest.mark.parametrize("flags", VARIANTS, ids=lambda flags: "-".join(flags))


def random_cell(hidden: int, width: int, flags: dict, dtype: torch.dtype = torch.float64) -> LSTM:
    cell = LSTM(hidden, input_size=width, dtype=dtype, seed=0, **flags)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in cell.parameters():
            noise = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
            parameter.add_(0.3 * noise.to(dtype) / hidden**0.5)
    return cell


def random_case(cell: LSTM, batch: int, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(2)
    shapes = [(batch, steps, cell.input_size), (batch, cell.state_size), (batch, steps, cell.output_size)]
    made = [torch.randn(shape, generator=draws, dtype=torch.float64).to(cell.bias.dtype) for shape in shapes]
    return made[0].requires_grad_(), made[1].requires_grad_(), made[2]


def arguments(cell: LSTM, inputs: Tensor, state: Tensor) -> tuple:
    return (inputs.transpose(0, 1), *cell._weights(), state, list(cell.parts), True)


@variants
@pytest.mark.parametrize(
    ("batch", "steps", "width", "hidden"),
    [(1, 1, 1, 1), (1, 40, 3, 33), (9, 2, 40, 7), (33, 5, 2, 17), (8, 3, 300, 64), (300, 2, 1, 3), (3, 4, 5, 130)],
)
def test_any_sizes_equal_the_loop_with_their_gradients(flags, batch, steps, width, hidden):
    cell = random_cell(hidden, width, flags)
    inputs, state, weights = random_case(cell, batch, steps)
    wanted = [inputs, state, *(p for name, p in cell.named_parameters() if name != "initial_activity")]
    looped = cell._unroll(inputs, state)
    expected = torch.autograd.grad((cell.output(looped) * weights).sum(), wanted)
    fused = cell.sequence(inputs, state)
    torch.testing.assert_close(fused, cell.output(looped), rtol=1e-10, atol=1e-12)
    for one, other in zip(torch.autograd.grad((fused * weights).sum(), wanted), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11 * float(other.abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(cell.states(inputs, state), looped.detach(), rtol=1e-10, atol=1e-12)


@variants
def test_single_precision_is_as_close_as_the_loop(flags):
    double = random_cell(40, 3, flags)
    single = random_cell(40, 3, flags, torch.float32)
    single.load_state_dict({name: value.float() for name, value in double.state_dict().items()})
    inputs, state, weights = random_case(double, 16, 30)

    def gradients(cell: LSTM, fused: bool) -> list[Tensor]:
        x, s, w = (tensor.detach().to(cell.bias.dtype).requires_grad_() for tensor in (inputs, state, weights))
        shown = cell.sequence(x, s) if fused else cell.output(cell._unroll(x, s))
        wanted = [x, s, *(p for name, p in cell.named_parameters() if name != "initial_activity")]
        return [shown, *torch.autograd.grad((shown * w).sum(), wanted)]

    for exact, fused, looped in zip(
        gradients(double, False), gradients(single, True), gradients(single, False), strict=True
    ):
        error, usual = ((found.double() - exact).norm() for found in (fused, looped))
        assert fused.dtype == torch.float32
        assert error <= 3 * usual + 1e-6 * exact.norm()


@variants
def test_extreme_arguments_saturate_and_nan_stays(flags):
    cell = random_cell(3, 2, flags)
    inputs, state, _ = random_case(cell, 4, 3)
    with torch.no_grad():
        inputs = inputs.detach().clone()
        inputs[0], inputs[1], inputs[2, 1, 0] = 1e30, -1e300, torch.nan
        expected = cell.output(cell._unroll(inputs, state))
        torch.testing.assert_close(cell.sequence(inputs, state), expected, rtol=1e-10, atol=1e-12, equal_nan=True)
    assert expected[2, 1:].isnan().all()
    assert not expected[2, 0].isnan().any()


@variants
def test_opcheck(flags):
    cell = random_cell(3, 2, flags)
    inputs, state, weights = random_case(cell, 2, 3)
    values = tuple(v.detach().clone().requires_grad_() for v in arguments(cell, inputs, state)[:8])
    parts = list(cell.parts)
    torch.library.opcheck(torch.ops.probseq.lstm.default, (*values, parts, True))
    saved = [tensor.detach() for tensor in torch.ops.probseq.lstm(*values, parts, True)[1:]]
    incoming, values = weights.transpose(0, 1).contiguous(), tuple(v.detach() for v in values)
    torch.library.opcheck(torch.ops.probseq.lstm_backward.default, (incoming, *values, parts, True, *saved))


def test_what_is_refused():
    cell = random_cell(3, 2, VARIANTS[0])
    inputs, state, _ = random_case(cell, 2, 3)
    first = torch.autograd.grad(cell.sequence(inputs, state).sum(), inputs, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="second derivatives"):
        first.sum().backward()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(inputs.detach(), torch.ones_like(inputs))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            cell.sequence(dual, state)
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: cell.sequence(x, state), (inputs.detach(),), (torch.ones_like(inputs),))


def test_the_adjoint_can_be_taken_twice_and_leaves_its_arguments():
    cell = random_cell(5, 2, VARIANTS[2])
    inputs, state, weights = random_case(cell, 3, 4)
    before = [tensor.detach().clone() for tensor in (inputs, state, *cell.parameters())]
    total = (cell.sequence(inputs, state) * weights).sum()
    once, twice = (torch.autograd.grad(total, inputs, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, twice)
    assert all(torch.equal(a, b) for a, b in zip(before, (inputs, state, *cell.parameters()), strict=True))


def test_every_combination_of_parts_equals_the_loop():
    for coupled, i, f, o, squashed, shown in itertools.product([False, True], repeat=6):
        if coupled and not (i and f):
            continue
        flags = {"coupled": coupled, "input_gate": i, "forget_gate": f, "output_gate": o}
        flags |= {"input_activation": squashed, "output_activation": shown}
        flags |= {"peepholes": True, "full_gate_recurrence": True} if i or f or o else {}
        cell = random_cell(3, 2, flags)
        inputs, state, weights = random_case(cell, 2, 4)
        wanted = [inputs, state, *(p for name, p in cell.named_parameters() if name != "initial_activity")]
        expected = torch.autograd.grad((cell.output(cell._unroll(inputs, state)) * weights).sum(), wanted)
        fused = torch.autograd.grad((ops.lstm(inputs, *cell._weights(), state, cell.parts) * weights).sum(), wanted)
        for one, other in zip(fused, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
