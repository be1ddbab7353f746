"""The soft window over whole sequences: the compiled function and its adjoint against the loop over steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import probseq as ps
from probseq.handwriting import synthesis_network
from probseq.ops.soft_window import soft_window

ALPHABET = "abcd "
PLACES = 6


def network(hidden_sizes: tuple[int, ...] = (5, 4), dtype: torch.dtype = torch.float64, seed: int = 0) -> ps.RNN:
    """Weights large enough that the window moves and what it shows matters."""
    model = synthesis_network(ALPHABET, hidden_sizes, 3, 3, most_characters=PLACES, pace=0.6, dtype=dtype, seed=seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64).to(dtype))
    return model


def lines(batch: int, steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """y (B, T, 3) and texts as inputs (B, T, PLACES) of uneven length."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.randn(batch, steps, 3, generator=draws, dtype=torch.float64)
    y[..., 2] = (y[..., 2] > 0.5).double()
    codes = torch.randint(1, len(ALPHABET) + 1, (batch, PLACES), generator=draws)
    sizes = torch.randint(1, PLACES + 1, (batch, 1), generator=draws)
    u = torch.where(torch.arange(PLACES) < sizes, codes, 0).double()
    return y, u.unsqueeze(1).expand(batch, steps, PLACES).clone()


def read(model: ps.RNN, y: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """What the cell reads, and its state before."""
    sequences = model._door(y, u).flat()
    return model._inputs(sequences).detach(), model._first(sequences).detach()


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (3, 2), (9, 40), (33, 19)])
@pytest.mark.parametrize("hidden_sizes", [(5,), (17, 4), (4, 3, 35)])
def test_value_and_gradient_are_those_of_the_loop(batch, steps, hidden_sizes):
    model = network(hidden_sizes)
    y, u = lines(batch, steps)
    u[0, steps // 2 :] = 0  # a text that ends before the line does, as in padding
    inputs, start = read(model, y, u)
    weights = torch.randn(batch, steps, sum(hidden_sizes), dtype=torch.float64)
    wanted = [inputs.requires_grad_(), start.requires_grad_(), *model.cell.parameters()]
    results = []
    for outputs in (model.cell.sequence(inputs, start), model.cell.output(model.cell.unrolled(inputs, start))):
        gradients = torch.autograd.grad((outputs * weights).sum(), wanted, allow_unused=True)
        results.append([outputs, *(g for g in gradients if g is not None)])
    assert len(results[0]) == len(results[1])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10 * float(other.detach().abs().max()))


def test_gradient_by_differences():
    model = network((3,))
    y, u = lines(2, 5)
    inputs, start = read(model, y, u)
    weights = [w.detach().clone().requires_grad_() for w in model.cell._weights()]
    codes, n_read = model.cell._one_text(inputs)
    first = start[:, : 6 + len(ALPHABET) + 3].clone().requires_grad_()
    pen = inputs[..., :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: soft_window(*x, codes, n_read), (pen, *weights, first))


def test_states_are_those_of_the_loop():
    model = network()
    inputs, start = read(model, *lines(4, 21))
    with torch.no_grad():
        compiled = model.cell.states(inputs, start)
    torch.testing.assert_close(compiled, model.cell.unrolled(inputs, start).detach(), rtol=1e-12, atol=1e-12)


def test_single_precision_follows_double():
    y, u = lines(32, 60)
    double, single = network((20, 20)), network((20, 20), torch.float32)
    assert float((double.log_prob(y, u) - single.log_prob(y, u)).detach().abs().max()) < 1e-2


def test_several_texts_in_a_line_run_by_the_loop():
    model = network()
    y, u = lines(2, 8)
    u[:, 4:] = lines(2, 4, seed=1)[1]
    filtered = model.filter(y, u)
    belief = model.initial_belief((2,), u[:, 0])
    total = torch.zeros(2, dtype=torch.float64)
    for t in range(8):
        belief, score = model.update(belief, y[:, t], None, u[:, t])
        total = total + score
        belief = model.predict(belief, u[:, min(t + 1, 7)])
    torch.testing.assert_close(filtered.log_prob.sum(-1), total.detach(), rtol=1e-12, atol=1e-12)


def test_no_second_derivatives_and_no_forward_mode():
    model = network()
    inputs, start = read(model, *lines(2, 3))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        model.cell.sequence(forward_ad.make_dual(inputs, torch.ones_like(inputs)), start)
    outputs = model.cell.sequence(inputs, start).square().sum()
    (gradient,) = torch.autograd.grad(outputs, model.cell.window_bias, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivative only"):
        gradient.sum().backward()


def test_the_operator_is_registered_properly():
    model = network((3,))
    inputs, start = read(model, *lines(2, 4))
    weights = [w.detach().clone().requires_grad_() for w in model.cell._weights()]
    arguments = (inputs[..., :3].transpose(0, 1), *weights, start[:, :14], *model.cell._one_text(inputs), False)
    torch.library.opcheck(torch.ops.probseq.soft_window.default, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"characters": "aa"}, "characters must be different"),
        ({"characters": ""}, "characters must be different"),
        ({"hidden_sizes": []}, "at least one layer"),
        ({"n_bells": 0}, "n_bells"),
        ({"pace": 0.0}, "pace must be a positive"),
    ],
)
def test_sizes_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        synthesis_network(**{"characters": "ab", "hidden_sizes": [3], "most_characters": 4, **change})


def test_texts_are_checked():
    cell = network().cell
    torch.testing.assert_close(cell.inputs_for("dab", 2), torch.tensor([[4.0, 1, 2, 0, 0, 0]] * 2).double())
    with pytest.raises(ValueError, match=r"got \['x'\]"):
        cell.inputs_for("axe"[:2], 3)
    with pytest.raises(ValueError, match="at most 6 characters"):
        cell.inputs_for("aaaaaaa", 3)
    with pytest.raises(ValueError, match="there are none"):
        cell.encode("")


def test_numbers_that_are_no_text_are_refused():
    model = network()
    y, u = lines(2, 3)
    u[0, 1, 0] = len(ALPHABET) + 1
    with pytest.raises(ValueError, match=r"whole numbers 0 \.\. 5"):
        model.log_prob(y, u)
