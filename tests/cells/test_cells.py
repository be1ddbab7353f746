"""Recurrent cells: the compiled runs against the plain equations, and starts that touch nobody's generator."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn
from torch.func import functional_call

from probseq.cells import GRU, LRU, LSTM, Cell, Elman, MinGRU, MinLSTM, Reservoir
from probseq.cells.gated import GatedCell

FACTORIES: dict[str, Callable[..., Cell]] = {
    "tanh": lambda *args, **options: Elman(*args, activation="tanh", **options),
    "relu": lambda *args, **options: Elman(*args, activation="relu", **options),
    "logistic": lambda *args, **options: Elman(*args, activation="logistic", **options),
    "irnn": partial(Elman, activation="relu", recurrent_start="identity"),
    "gru": GRU,
    "lstm": LSTM,
    "tanh-normalised": partial(Elman, layer_norm=True),
    "gru-normalised": partial(GRU, layer_norm=True),
    "peephole-normalised": partial(LSTM, peepholes=True, layer_norm=True),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "peephole": {"peepholes": True},
    "no-input-gate": {"peepholes": True, "input_gate": False},
    "no-forget-gate": {"peepholes": True, "forget_gate": False},
    "no-output-gate": {"peepholes": True, "output_gate": False},
    "no-input-activation": {"peepholes": True, "input_activation": False},
    "no-output-activation": {"peepholes": True, "output_activation": False},
    "coupled": {"coupled": True},
    "coupled-peephole": {"peepholes": True, "coupled": True},
    "full-gate-recurrence": {"peepholes": True, "full_gate_recurrence": True},
    "projection": {"projection_size": 3},
    "wide-projection": {"projection_size": 6},
    "gateless": {"input_gate": False, "forget_gate": False, "output_gate": False},
    "everything": {"peepholes": True, "coupled": True, "projection_size": 2, "full_gate_recurrence": True},
    "linear": {"projection_size": 3, "input_activation": False, "output_activation": False},
}
FACTORIES |= {
    "min-gru": MinGRU,
    "min-lstm": MinLSTM,
    "lru": partial(LRU, n_modes=5),
    "reservoir": partial(Reservoir, leak=0.4, sparsity=0.3, spectral_radius=1.2),
}
FACTORIES |= {name: partial(LSTM, **flags) for name, flags in VARIANTS.items()}
COMPILED = (*VARIANTS, "min-gru", "min-lstm", "lru", "stack", "skips")  # kernels of ours: no second derivatives
GATED = [name for name in FACTORIES if isinstance(FACTORIES[name](2), GatedCell)]
# our own message, or that of the type checker where the run has one
REFUSALS = (ValueError, TypeCheckError)
every_cell = pytest.mark.parametrize("name", FACTORIES)


def random_cell(name: str, hidden: int = 4, width: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0) -> Cell:
    """A cell whose every parameter is random, biases and start included."""
    cell = FACTORIES[name](hidden, input_size=width, dtype=dtype, seed=seed)
    draws = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64).to(dtype))
    return cell


def random_inputs(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_steps(cell: Cell, inputs: Tensor, state: Tensor) -> Tensor:
    states = []
    for time in range(inputs.shape[-2]):
        state = cell.step(inputs[..., time, :], state)
        states.append(state)
    return torch.stack(states, dim=-2)


def textbook(name: str, cell: Cell, x: Tensor, state: Tensor) -> Tensor:
    """One step from the equations in scalars: no matrix product, no shared code."""
    if isinstance(cell, LSTM):
        return textbook_lstm(cell, x, state)
    if not isinstance(cell, GatedCell):
        return textbook_linear(cell, x, state)
    size, previous = cell.hidden_size, state[: cell.hidden_size]

    def row(block: int, unit: int) -> tuple[Tensor, Tensor]:
        index = block * size + unit
        from_input = sum(w * v for w, v in zip(cell.input_weights[index], x, strict=True)) + cell.bias[index]
        return from_input, sum(w * v for w, v in zip(cell.recurrent_weights[index], previous, strict=True))

    def logistic(value: Tensor) -> Tensor:
        return 1 / (1 + torch.exp(-value))

    hidden = []
    for unit in range(size):
        if name == "gru":
            reset, keep = logistic(sum(row(0, unit))), logistic(sum(row(1, unit)))
            from_input, past = row(2, unit)
            candidate = torch.tanh(from_input + reset * (past + cell.bias[3 * size + unit]))
            hidden.append((1 - keep) * candidate + keep * previous[unit])
        else:
            total = sum(row(0, unit))
            functions = {"tanh": torch.tanh, "relu": lambda a: a if a > 0 else 0 * a, "logistic": logistic}
            function = functions[cell.activation]
            hidden.append(function(total))
    return torch.stack(hidden)


def textbook_linear(cell: Cell, x: Tensor, state: Tensor) -> Tensor:
    """One step of the reservoir and of the cells that run by scan, unit by unit."""
    size, bias = cell.hidden_size, cell.bias
    drive = [
        sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(cell.input_weights, bias, strict=True)
    ]
    if isinstance(cell, Reservoir):
        pull = [sum(w * v for w, v in zip(row, state, strict=True)) for row in cell.recurrent_weights]
        moved = [torch.tanh(d + p) for d, p in zip(drive, pull, strict=True)]
        return torch.stack([(1 - cell.leak) * h + cell.leak * m for h, m in zip(state, moved, strict=True)])
    if isinstance(cell, MinGRU):
        update = [1 / (1 + torch.exp(-a)) for a in drive[:size]]
        return torch.stack([(1 - z) * h + z * n for z, h, n in zip(update, state, drive[size:], strict=True)])
    if isinstance(cell, MinLSTM):
        forget, write = ([1 / (1 + torch.exp(-a)) for a in drive[k : k + size]] for k in (0, size))
        rows = zip(forget, write, state, drive[2 * size :], strict=True)
        return torch.stack([f / (f + i) * h + i / (f + i) * n for f, i, h, n in rows])
    assert isinstance(cell, LRU)
    modes = []
    for k in range(cell.n_modes):
        modulus, phase = torch.exp(-torch.exp(cell.log_decay[k])), torch.exp(cell.log_phase[k])
        turn = torch.complex(modulus * torch.cos(phase), modulus * torch.sin(phase))
        before = torch.complex(state[size + k], state[size + cell.n_modes + k])
        into = [torch.complex(*pair) for pair in cell.input_matrix[:, k].T]
        modes.append(turn * before + torch.exp(cell.log_gain[k]) * sum(b * v for b, v in zip(into, x, strict=True)))
    shown = []
    for unit in range(size):
        out = [torch.complex(*pair) for pair in cell.output_matrix[:, unit].T]
        total = sum((c * s).real for c, s in zip(out, modes, strict=True)) + drive[unit]
        shown.append(0.5 * total * (1 + torch.erf(total / 2**0.5)))
    return torch.stack(shown + [s.real for s in modes] + [s.imag for s in modes])


def textbook_lstm(cell: LSTM, x: Tensor, state: Tensor) -> Tensor:
    """One step of any LSTM, unit by unit: the flags read one by one, every sum in scalars."""
    size, width = cell.hidden_size, cell.output_size
    names = [
        n
        for n, there in zip(
            "ifgo",
            (cell.parts.input_gate, cell.parts.forget_gate and not cell.parts.coupled, True, cell.parts.output_gate),
            strict=True,
        )
        if there
    ]
    gates = [n for n in names if n != "g"]
    shown, old, before = state[:width], state[width : width + size], state[width + size :]
    memory, read, values = [], [], {n: [] for n in gates}

    def argument(name: str, unit: int, seen: Tensor) -> Tensor:
        row = names.index(name) * size + unit
        total = cell.bias[row] + sum(w * v for w, v in zip(cell.input_weights[row], x, strict=True))
        total = total + sum(w * v for w, v in zip(cell.recurrent_weights[row], shown, strict=True))
        if name == "g":
            return total
        place = gates.index(name)
        if cell.peepholes:
            total = total + cell.peephole_weights[place, unit] * seen
        if cell.full_gate_recurrence:
            weights = cell.gate_weights[place * size + unit]
            total = total + sum(w * v for w, v in zip(weights, before, strict=True))
        return total

    for unit in range(size):
        write = 1 / (1 + torch.exp(-argument("i", unit, old[unit]))) if "i" in gates else 1.0
        forget = 1 / (1 + torch.exp(-argument("f", unit, old[unit]))) if "f" in gates else 1.0
        forget = 1 - write if cell.parts.coupled else forget
        new = argument("g", unit, old[unit])
        new = torch.tanh(new) if cell.parts.input_activation else new
        memory.append(forget * old[unit] + write * new)
        said = 1 / (1 + torch.exp(-argument("o", unit, memory[-1]))) if "o" in gates else 1.0
        read.append(said * (torch.tanh(memory[-1]) if cell.parts.output_activation else memory[-1]))
        for n, value in zip("ifo", (write, forget, said), strict=True):
            values.get(n, []).append(value)
    if cell.projection_size is not None:
        read = [sum(w * v for w, v in zip(row, read, strict=True)) for row in cell.projection_weights]
    after = [v for n in gates for v in values[n]] if cell.full_gate_recurrence else []
    return torch.stack(read + memory + after)


@pytest.mark.parametrize("name", [name for name in FACTORIES if not name.endswith("-normalised")])
def test_step_is_the_textbook_equation(name: str) -> None:
    cell = random_cell(name)
    inputs, state = random_inputs(6, 3), random_inputs(cell.state_size, seed=9)
    with torch.no_grad():
        for x in inputs:
            torch.testing.assert_close(cell.step(x, state), textbook(name, cell, x, state), rtol=1e-12, atol=1e-14)
            state = cell.step(x, state)


@every_cell
@pytest.mark.parametrize("batch_shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("length", [1, 7])
def test_sequence_and_states_equal_the_step_loop(name: str, batch_shape: tuple[int, ...], length: int) -> None:
    cell = random_cell(name)
    inputs = random_inputs(*batch_shape, length, 3)
    start = random_inputs(*batch_shape, cell.state_size, seed=8)
    with torch.no_grad():
        expected = by_steps(cell, inputs, start)
        torch.testing.assert_close(cell.states(inputs, start), expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(cell.sequence(inputs, start), cell.output(expected), rtol=1e-10, atol=1e-12)
    assert cell.sequence(inputs, start).shape == (*batch_shape, length, cell.output_size)


@every_cell
@pytest.mark.parametrize(("batch_shape", "length"), [((), 0), ((3,), 0), ((0,), 4), ((2, 0), 0)])
def test_no_steps_or_no_sequences_give_empty_results_on_the_graph(
    name: str, batch_shape: tuple[int, ...], length: int
) -> None:
    cell = random_cell(name)
    inputs = random_inputs(*batch_shape, length, 3)
    outputs = cell.sequence(inputs, cell.initial_state(batch_shape))
    states = cell.states(inputs, cell.initial_state(batch_shape))
    assert outputs.shape == (*batch_shape, length, cell.output_size)
    assert states.shape == (*batch_shape, length, cell.state_size)
    assert outputs.dtype == torch.float64
    if cell.frozen:
        return
    outputs.sum().backward()
    assert cell.initial_activity.grad is not None
    assert not cell.initial_activity.grad.any()


@every_cell
def test_a_resumed_run_equals_the_whole(name: str) -> None:
    cell, inputs = random_cell(name), random_inputs(2, 9, 3)
    with torch.no_grad():
        whole = cell.states(inputs, cell.initial_state((2,)))
        rest = cell.sequence(inputs[:, 4:], whole[:, 3])
    torch.testing.assert_close(rest, cell.output(whole)[:, 4:], rtol=1e-10, atol=1e-12)


@every_cell
def test_sequence_gradients_equal_those_of_the_loop(name: str) -> None:
    cell = random_cell(name)
    inputs, weights = random_inputs(3, 6, 3).requires_grad_(), random_inputs(3, 6, cell.output_size, seed=2)
    start = cell.initial_state((3,))
    wanted = [inputs, *cell.parameters()]
    loop = torch.autograd.grad((cell.output(by_steps(cell, inputs, start)) * weights).sum(), wanted)
    fused = torch.autograd.grad((cell.sequence(inputs, start) * weights).sum(), wanted)
    for one, other in zip(fused, loop, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        assert other.abs().sum() > 0


class Runner(nn.Module):
    """A cell run from its own start, as a function of its parameters."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, inputs: Tensor) -> Tensor:
        return self.cell.sequence(inputs, self.cell.initial_state(inputs.shape[:1]))


@every_cell
def test_gradcheck_twice(name: str) -> None:
    runner = Runner(random_cell(name, hidden=2, width=2))
    names, values = list(dict(runner.named_parameters())), list(runner.parameters())

    def run(inputs: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(runner, dict(zip(names, parameters, strict=True)), inputs)

    arguments = (random_inputs(2, 3, 2).requires_grad_(), *(v.detach().clone().requires_grad_() for v in values))
    assert torch.autograd.gradcheck(run, arguments)
    if name in COMPILED:
        with pytest.raises(NotImplementedError, match="second derivatives"):
            torch.autograd.gradgradcheck(run, arguments)
    else:
        assert torch.autograd.gradgradcheck(run, arguments)


def test_a_second_derivative_that_torch_lacks_raises_or_is_right() -> None:
    cell = random_cell("lstm", dtype=torch.float32)
    inputs = random_inputs(2, 4, 3, dtype=torch.float32).requires_grad_()

    def curvature(run: Callable[..., Tensor]) -> Tensor:
        first = torch.autograd.grad(run(inputs, cell.initial_state((2,))).sum(), inputs, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), inputs)[0]

    expected = curvature(lambda x, state: cell.output(cell.states(x, state)))
    try:
        fused = curvature(cell.sequence)
    except RuntimeError:
        return
    torch.testing.assert_close(fused, expected, rtol=1e-3, atol=1e-4)


@every_cell
def test_single_precision_stays_single_and_close(name: str) -> None:
    double = random_cell(name, hidden=8)
    single = copy.deepcopy(double).to(torch.float32)
    inputs = random_inputs(4, 20, 3)
    with torch.no_grad():
        exact = double.sequence(inputs, double.initial_state((4,)))
        rough = single.sequence(inputs.float(), single.initial_state((4,)))
        looped = single.output(by_steps(single, inputs.float(), single.initial_state((4,))))
    assert rough.dtype == torch.float32
    scale = exact.abs().max()  # a rectified net may grow
    torch.testing.assert_close(rough.double() / scale, exact / scale, rtol=0, atol=1e-5)
    torch.testing.assert_close(rough / scale, looped / scale, rtol=0, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("name", ["tanh", "relu", "gru", "lstm"])
def test_weights_fit_torchs_own_module(name: str) -> None:
    cell, inputs = random_cell(name, hidden=5), random_inputs(2, 6, 3)
    kind = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}.get(name)
    options = {"batch_first": True, "dtype": torch.float64}
    peer = kind(3, 5, **options) if kind else torch.nn.RNN(3, 5, nonlinearity=name, **options)
    with torch.no_grad():
        peer.weight_ih_l0.copy_(cell.input_weights)
        peer.weight_hh_l0.copy_(cell.recurrent_weights)
        peer.bias_ih_l0.copy_(cell.bias[: len(peer.bias_ih_l0)])
        peer.bias_hh_l0.zero_()
        if name == "gru":
            peer.bias_hh_l0[10:] = cell.bias[15:]
        parts = cell.initial_state((1, 2)).split(5, dim=-1)
        expected = peer(inputs, tuple(p.contiguous() for p in parts) if name == "lstm" else parts[0].contiguous())[0]
        torch.testing.assert_close(by_steps(cell, inputs, cell.initial_state((2,)))[..., :5], expected)


@every_cell
def test_no_global_generator_moves_and_none_is_read(name: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = FACTORIES[name](6, input_size=2, seed=11)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    second = FACTORIES[name](6)
    second.bind(2, generator_seed=11)
    second.reset_parameters(11)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    second.reset_parameters(12)
    assert not torch.equal(first.input_weights, second.input_weights)
    if hasattr(first, "recurrent_weights"):
        assert torch.equal(first.recurrent_weights, second.recurrent_weights) == (name == "irnn")
    second.reset_parameters(None)
    third = copy.deepcopy(second)
    third.reset_parameters(None)
    assert not torch.equal(second.input_weights, third.input_weights)


@pytest.mark.parametrize("name", GATED)
def test_starts_are_orthogonal_bounded_and_equal_in_both_precisions(name: str) -> None:
    cell = FACTORIES[name](6, input_size=2, dtype=torch.float64, seed=1)
    for block in cell.recurrent_weights.split(6) if cell.output_size == 6 else ():
        torch.testing.assert_close(block @ block.T, torch.eye(6, dtype=torch.float64))
    assert cell.input_weights.abs().max() <= 6**-0.5
    assert not cell.initial_activity.any()
    single = FACTORIES[name](6, input_size=2, seed=1)
    assert single.input_weights.dtype == torch.float32
    assert torch.equal(cell.input_weights.float(), single.input_weights)


def test_recurrent_starts_favour_no_direction() -> None:
    blocks = torch.cat(
        [GRU(3, input_size=1, seed=seed).recurrent_weights.detach().reshape(3, 3, 3) for seed in range(80)]
    )
    # entries of a uniform rotation have mean 0 and variance 1/3; five standard errors of 240 draws
    assert blocks.mean(0).abs().max() < 5 * math.sqrt(1 / 3 / 240)


def test_the_forget_gate_starts_open() -> None:
    cell = LSTM(3, forget_bias=2.5, input_size=1, seed=0)
    assert cell.bias.tolist() == [0.0] * 3 + [2.5] * 3 + [0.0] * 6
    assert LSTM(1, input_size=1).bias[1] == 1.0


def test_memories_start_between_two_steps_and_the_span() -> None:
    def steps(bias: torch.Tensor) -> torch.Tensor:
        return 1 / (1 - torch.sigmoid(bias.double()))

    spread = torch.tensor([2.0, 1 + 99**0.5, 100.0], dtype=torch.float64)
    gru = GRU(3, memory_span=100, input_size=1, seed=0)
    torch.testing.assert_close(steps(gru.bias[3:6]), spread, rtol=1e-5, atol=0)
    assert not gru.bias[:3].any()
    assert not gru.bias[6:].any()
    lstm = LSTM(3, memory_span=100, peepholes=True, input_size=1, seed=0)
    torch.testing.assert_close(steps(lstm.bias[3:6]), spread, rtol=1e-5, atol=0)
    assert torch.equal(lstm.bias[:3], -lstm.bias[3:6])
    assert not lstm.bias[6:].any()
    coupled = LSTM(3, coupled=True, memory_span=100, input_size=1, seed=0)
    torch.testing.assert_close(steps(-coupled.bias[:3]), spread, rtol=1e-5, atol=0)
    assert coupled.sizes()["memory_span"] == 100


@every_cell
def test_state_dict_pickle_and_deepcopy_keep_the_map(name: str) -> None:
    cell, inputs = random_cell(name), random_inputs(2, 5, 3)
    other = FACTORIES[name](4, input_size=3, dtype=torch.float64, seed=77)
    other.load_state_dict(cell.state_dict())
    expected = cell.sequence(inputs, cell.initial_state((2,)))
    for twin in (other, pickle.loads(pickle.dumps(cell)), copy.deepcopy(cell)):
        assert torch.equal(twin.sequence(inputs, twin.initial_state((2,))), expected)
    if not isinstance(cell, GatedCell):
        return
    extras = {"peepholes": "peephole_weights", "projection_size": "projection_weights"}
    extras |= {"full_gate_recurrence": "gate_weights"}
    expected_names = {"input_weights", "recurrent_weights", "bias", "initial_activity"}
    expected_names |= {weights for flag, weights in extras.items() if getattr(cell, flag, None)}
    expected_names |= {"input_gain", "recurrent_gain"} if cell.layer_norm else set()
    assert set(cell.state_dict()) == expected_names


@every_cell
def test_binding_once(name: str) -> None:
    cell = FACTORIES[name](4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="bind"):
        cell.step(torch.zeros(3), torch.zeros(cell.state_size))
    with pytest.raises(RuntimeError, match="bind"):
        cell.initial_state(())
    cell.bind(3, generator_seed=0)
    kept = cell.input_weights
    cell.bind(3, generator_seed=1)
    assert cell.input_weights is kept
    with pytest.raises(ValueError, match="bound to input_size 3, asked for 2"):
        cell.bind(2)
    with pytest.raises(ValueError, match="float32"):
        cell.bind(3, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"\(\*batch, time, 3\), got \(5, 2\)"):
        cell.sequence(torch.zeros(5, 2), cell.initial_state())


@every_cell
@pytest.mark.parametrize("size", [0, -1, True])
def test_sizes_must_be_positive_integers(name: str, size: object) -> None:
    with pytest.raises(ValueError, match="hidden_size must be a positive integer"):
        FACTORIES[name](size)
    with pytest.raises(ValueError, match="input_size must be a positive integer"):
        FACTORIES[name](2, input_size=size)


@every_cell
@pytest.mark.parametrize("size", [2.5, "4"])
def test_sizes_of_another_type_are_refused(name: str, size: object) -> None:
    with pytest.raises(REFUSALS, match="hidden_size"):
        FACTORIES[name](size)
    with pytest.raises(REFUSALS, match="input_size"):
        FACTORIES[name](2, input_size=size)


def test_other_options_are_checked() -> None:
    with pytest.raises(REFUSALS, match="activation"):
        Elman(2, activation="sine")
    with pytest.raises(ValueError, match=r"dtype must be torch.float32 or torch.float64, got torch.int64"):
        GRU(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="forget_bias must be finite"):
        LSTM(2, forget_bias=float("nan"))
    for cell in (GRU, LSTM):
        with pytest.raises(ValueError, match="memory_span must be"):
            cell(2, memory_span=1)
    with pytest.raises(ValueError, match="forget_gate=False never does"):
        LSTM(2, forget_gate=False, memory_span=10)
