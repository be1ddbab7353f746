"""Gauss-Newton products against dense J' H J: J by differences of the filter, H as expected squared scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.learning.curvature import FreeVector, GaussNewton
from probseq.learning.fisher import HeadCurvature

CELLS = {
    "tanh": lambda: ps.cells.Elman(3),
    "relu": lambda: ps.cells.Elman(3, "relu"),
    "logistic": lambda: ps.cells.Elman(3, "logistic"),
    "elman-layer-norm": lambda: ps.cells.Elman(3, layer_norm=True),
    "gru": lambda: ps.cells.GRU(3),
    "gru-layer-norm": lambda: ps.cells.GRU(3, layer_norm=True),
    "lstm": lambda: ps.cells.LSTM(2),
    "lstm-peepholes-projection": lambda: ps.cells.LSTM(3, peepholes=True, projection_size=2),
    "lstm-coupled": lambda: ps.cells.LSTM(2, coupled=True),
    "lstm-full-gates": lambda: ps.cells.LSTM(2, peepholes=True, full_gate_recurrence=True),
    "lstm-bare": lambda: ps.cells.LSTM(2, output_gate=False, input_activation=False, output_activation=False),
    "lstm-layer-norm": lambda: ps.cells.LSTM(3, layer_norm=True),
    "min-gru": lambda: ps.cells.MinGRU(3),
    "min-lstm": lambda: ps.cells.MinLSTM(3),
    "lru": lambda: ps.cells.LRU(2, 2),
    "reservoir": lambda: ps.cells.Reservoir(4),
    "clamped": lambda: ps.cells.Clamped(ps.cells.Elman(3), [1]),
    "stack": lambda: ps.cells.Stack([ps.cells.Elman(2), ps.cells.LSTM(2, peepholes=True)], skip=True),
}


def network(cell, head=None, dim=1, **keywords):
    """A network with larger weights than a start has, so that nothing is nearly linear."""
    model = ps.RNN(dim, cell=cell, head=head or ps.heads.Gaussian(), dtype=torch.float64, seed=0, **keywords)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64))
    return model


def by_filter(model, y, u, lengths):
    """Outputs and states at every step inside, by the public filter: (N, n), (N, S)."""
    states = model.filter(y, u, lengths=lengths).predicted.state
    inside = np.arange(y.shape[1]) < np.array(lengths)[:, None]
    activities = model.cell.output(states).detach().numpy()[inside]
    outputs = activities @ model.head.weights.detach().numpy().T + model.head.bias.detach().numpy()
    return outputs, states.detach().numpy()[inside]


def jacobians(model, free, run, step=1e-5):
    """d run / d theta of every result, by central differences."""
    here, columns = free.read(), []
    for unit in step * torch.eye(free.size, dtype=torch.float64):
        free.write(here + unit)
        above = run()
        free.write(here - unit)
        columns.append([(a - b) / (2 * step) for a, b in zip(above, run(), strict=True)])
    free.write(here)
    return [np.stack(parts, -1) for parts in zip(*columns, strict=True)]


def batch(seed=0, missing=True):
    """Two sequences of 5 and 3 steps with inputs; a gap in the first, and a step without target at its end."""
    draws = np.random.default_rng(seed)
    y, u, lengths = draws.normal(size=(2, 5, 1)), draws.normal(size=(2, 5, 2)), [5, 3]
    if missing:
        y[0, 2] = y[0, 4] = np.nan
    return y, u, lengths


def inverse_slopes(name, states):
    """1 / f' of the units that are f(z), 1 for the others."""
    if name in ("tanh", "elman-layer-norm", "clamped"):
        return 1 / (1 - states**2)
    if name == "logistic":
        return 1 / (states * (1 - states))
    weights = np.ones_like(states)
    if name == "stack":
        weights[:, :2] = 1 / (1 - states[:, :2] ** 2)
    return weights


@pytest.mark.parametrize(
    ("name", "missing"), [*((name, False) for name in CELLS), ("gru", True), ("tanh", True), ("stack", True)]
)
def test_products_equal_the_dense_matrix_for_every_cell(name, missing):
    y, u, lengths = batch(missing=missing)
    model = network(CELLS[name](), input_dim=2, start_from_inputs=name in ("gru", "stack"))
    free = FreeVector(model)
    curvature = GaussNewton(model, model._door(y, u, lengths), free, structural=name != "reservoir")
    outputs, states = by_filter(model, y, u, lengths)
    step = 1e-6 if "layer-norm" in name else 1e-5  # normalising few units bends sharply
    dense, moved = jacobians(model, free, lambda: by_filter(model, y, u, lengths), step)
    seen = ~np.isnan(np.concatenate([y[0, :5], y[1, :3]])[:, 0])
    spread = np.log1p(np.exp(outputs[:, 1]))
    slope, deviation = 1 / (1 + np.exp(-outputs[:, 1])), 1e-4 + spread
    precision = np.stack([1 / deviation**2, 2 * slope**2 / deviation**2], -1) * seen[:, None]
    matrix = np.einsum("nai,na,naj->ij", dense, precision, dense)
    mu = 0.0
    if name != "reservoir":
        mu = 0.7
        weights = inverse_slopes(name, states)
        matrix = matrix + mu * np.einsum("nsi,ns,nsj->ij", moved, weights, moved)
    scale = np.abs(matrix).max()
    for seed in range(3):
        v = np.random.default_rng(seed).normal(size=free.size)
        found = curvature.product(torch.as_tensor(v), mu).numpy() * seen.sum()
        np.testing.assert_allclose(found, matrix @ v, rtol=0, atol=1e-8 * scale * np.abs(v).sum())  # differences: 1e-10


HEADS = {
    "gaussian": (lambda: ps.heads.Gaussian(), 2),
    "gaussian-full": (lambda: ps.heads.Gaussian("full"), 2),
    "categorical": (lambda: ps.heads.Categorical(3), 1),
    "bernoulli": (lambda: ps.heads.Bernoulli(), 2),
    "poisson": (lambda: ps.heads.Poisson(), 2),
    "student": (lambda: ps.heads.StudentT(), 1),
    "student-full": (lambda: ps.heads.StudentT("full"), 2),
    "product": (lambda: ps.heads.Product([ps.heads.Bernoulli(), ps.heads.Categorical(3)], [1, 1]), 2),
}


def points(name, head, raw, observed):
    """Observations (M, D) and weights (M,): sums with them are expectations under the head at `raw` (1, n)."""
    dim, free = len(observed), [int(d) for d in observed.nonzero()]
    if name in ("categorical", "bernoulli", "product", "poisson"):
        most = {"categorical": [3], "bernoulli": [2, 2], "product": [2, 3], "poisson": [60, 60]}[name]
        grid = [range(most[d]) if d in free else [0] for d in range(dim)]
        values = torch.tensor(list(itertools.product(*grid)), dtype=torch.float64)
        seen = observed.expand_as(values)
        return values, head._log_density(raw.expand(len(values), -1), values, seen, head.units).exp()
    said = head._say(raw, head.units)
    centre = said.mean[0]
    cov = said.covariance_matrix[0] if name == "gaussian-full" else None
    if name == "gaussian":
        cov = torch.diag(said.variance[0])
    if cov is None:
        cov = said.factor[0] @ said.factor[0].mT
    root = torch.linalg.cholesky(cov[free][:, free])
    # in polar coordinates round the centre: radius exp(s), an even number of angles
    radius = torch.arange(-26, 30, 0.15, dtype=torch.float64).exp()
    jacobian = 0.15 * radius
    if len(free) == 1:
        z, w = torch.cat([radius, -radius]).unsqueeze(-1), torch.cat([jacobian, jacobian])
    else:
        turn = torch.arange(16, dtype=torch.float64) * math.pi / 8
        z = radius.reshape(-1, 1, 1) * torch.stack([turn.cos(), turn.sin()], -1)
        z, w = z.reshape(-1, 2), (jacobian * radius).repeat_interleave(16) * math.pi / 8
    values = centre.repeat(len(z), 1)
    values[:, free] += z @ root.mT
    density = head._log_density(raw.expand(len(z), -1), values, observed.expand_as(values), head.units).exp()
    return values, density * w * root.diagonal().prod()


def expected_squared_score(name, head, raw, observed):
    """E[s s'], s = d log p(y | a) / da by torch from the head's own density, (n, n)."""
    values, weights = points(name, head, raw, observed)
    assert weights.sum().item() == pytest.approx(1, rel=1e-9)
    at = raw.expand(len(values), -1).clone().requires_grad_()
    head._log_density(at, values, observed.expand_as(values), head.units).sum().backward()
    return (at.grad * weights.unsqueeze(-1)).mT @ at.grad


def bound(name):
    make, dim = HEADS[name]
    head = make()
    head.bind(3, dim, dtype=torch.float64, generator_seed=0)
    with torch.no_grad():
        head.scale.copy_(torch.tensor([2.0, 0.5])[:dim] if head.real_valued or name == "poisson" else 1.0)
    raw = torch.randn(1, len(head.bias), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return head, raw


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("part", ["all", "first"])
def test_head_curvature_is_the_expected_squared_score(name, part):
    head, raw = bound(name)
    observed = torch.ones(HEADS[name][1], dtype=torch.bool)
    if part == "first":
        if len(observed) == 1:
            pytest.skip("one coordinate")
        observed[1] = False
    values = torch.zeros(1, len(observed), dtype=torch.float64)
    curvature = HeadCurvature(head, raw, values, observed.unsqueeze(0))
    found = torch.cat([curvature.product(row.unsqueeze(0)) for row in torch.eye(raw.shape[1], dtype=torch.float64)])
    expected = expected_squared_score(name, head, raw, observed)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9 * float(expected.abs().max()))  # quadrature


@pytest.mark.parametrize("name", ["categorical", "bernoulli", "product"])
def test_with_natural_outputs_it_is_the_hessian_itself(name):
    head, raw = bound(name)
    y = torch.tensor([[1.0] * HEADS[name][1]], dtype=torch.float64)
    observed = torch.ones_like(y, dtype=torch.bool)
    hessian = torch.autograd.functional.hessian(lambda a: -head._log_density(a, y, None, head.units).sum(), raw)
    curvature = HeadCurvature(head, raw, y, observed)
    found = torch.cat([curvature.product(row.unsqueeze(0)) for row in torch.eye(raw.shape[1], dtype=torch.float64)])
    torch.testing.assert_close(found, hessian[0, :, 0], rtol=1e-10, atol=1e-12)


MIXTURES = {
    "diag": (lambda: ps.heads.MixtureDensity(2), 2),
    "full": (lambda: ps.heads.MixtureDensity(2, "full"), 2),
    "bernoullis": (lambda: ps.heads.MixtureOfBernoullis(3), 2),
}


@pytest.mark.parametrize("part", ["all", "first"])
@pytest.mark.parametrize("name", list(MIXTURES))
def test_a_mixture_has_the_curvature_of_its_parts_and_of_its_weights(name, part):
    """diag(w) - w w' for the weights, and r_k times the Fisher information of every component's own head."""
    make, dim = MIXTURES[name]
    head = make()
    head.bind(3, dim, dtype=torch.float64, generator_seed=0)
    raw = torch.randn(1, len(head.bias), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    y = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    observed = torch.tensor([[True, part == "all"]])
    k = head.n_components
    kind = {"diag": "gaussian", "full": "gaussian-full", "bernoullis": "bernoulli"}[name]
    single = HEADS[kind][0]()
    single.bind(3, dim, dtype=torch.float64, generator_seed=0)
    logits, parts = raw[0, :k], raw[0, k:].reshape(k, -1)
    weights = logits.softmax(-1)
    scores = torch.cat([single._log_density(row.unsqueeze(0), y, observed, single.units) for row in parts])
    shares = (weights.log() + scores).softmax(-1)
    blocks = [expected_squared_score(kind, single, row.unsqueeze(0), observed[0]) for row in parts]
    whole = [share * block for share, block in zip(shares, blocks, strict=True)]
    expected = torch.block_diag(torch.diag(weights) - torch.outer(weights, weights), *whole)
    curvature = HeadCurvature(head, raw, y, observed)
    found = torch.cat([curvature.product(row.unsqueeze(0)) for row in torch.eye(raw.shape[1], dtype=torch.float64)])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", [*HEADS, *MIXTURES])
def test_products_equal_the_dense_matrix_for_every_head(name):
    """The chain of heads and cell: J by differences, H by the same products on unit vectors, tested above."""
    make, dim = {**HEADS, **MIXTURES}[name]
    draws = np.random.default_rng(5)
    y, u, lengths = draws.integers(0, 2, size=(2, 5, dim)).astype(float), draws.normal(size=(2, 5, 2)), [5, 3]
    y[0, 4] = np.nan
    model = network(ps.cells.GRU(2), make(), dim, input_dim=2)
    free = FreeVector(model)
    curvature = GaussNewton(model, model._door(y, u, lengths), free)
    outputs, _ = by_filter(model, y, u, lengths)
    (dense,) = jacobians(model, free, lambda: by_filter(model, y, u, lengths)[:1])
    rows = np.concatenate([y[0], y[1, :3]])
    expected, v = np.zeros(free.size), draws.normal(size=free.size)
    for output, jacobian, row in zip(outputs, dense, rows, strict=True):
        if not np.isnan(row).all():
            seen = torch.ones(1, dim, dtype=torch.bool)
            one = HeadCurvature(model.head, torch.as_tensor(output)[None], torch.as_tensor(row)[None], seen)
            expected += jacobian.T @ one.product(torch.as_tensor(jacobian @ v)[None])[0].numpy()
    found = curvature.product(torch.as_tensor(v)).numpy() * curvature.n_steps
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("gap", [False, True], ids=["complete", "gap"])
def test_products_for_feed_forward_networks(gap):
    """The network by hand, in numpy, on the windows of the filter."""
    y, u, lengths = batch(missing=gap)
    model = ps.NeuralAR(2, hidden=[3], input_dim=2, direct=True, dtype=torch.float64, seed=0)
    with torch.no_grad():
        model.head.weights.mul_(20)
    free, inside = FreeVector(model), np.arange(5) < np.array(lengths)[:, None]

    def run():
        windows = model.filter(y, u, lengths=lengths).predicted.values.numpy()[inside][..., 0]
        taps = np.concatenate([windows, u[inside]], -1)
        weights, bias = model.layer_weights[0].detach().numpy(), model.layer_biases[0].detach().numpy()
        hidden = np.tanh(taps @ weights.T + bias)
        read = np.concatenate([hidden, taps], -1)
        return read @ model.head.weights.detach().numpy().T + model.head.bias.detach().numpy(), hidden

    outputs, hidden = run()
    dense, moved = jacobians(model, free, run)
    seen = ~np.isnan(y[inside][:, 0])
    deviation, slope = 1e-4 + np.log1p(np.exp(outputs[:, 1])), 1 / (1 + np.exp(-outputs[:, 1]))
    precision = np.stack([1 / deviation**2, 2 * slope**2 / deviation**2], -1) * seen[:, None]
    matrix = np.einsum("nai,na,naj->ij", dense, precision, dense)
    matrix += 0.5 * np.einsum("nsi,ns,nsj->ij", moved, 1 / (1 - hidden**2), moved)
    v = np.random.default_rng(0).normal(size=free.size)
    curvature = GaussNewton(model, model._door(y, u, lengths), free, structural=True)
    found = curvature.product(torch.as_tensor(v), 0.5).numpy() * seen.sum()
    np.testing.assert_allclose(found, matrix @ v, rtol=0, atol=1e-8 * np.abs(matrix @ v).max())


@pytest.mark.parametrize("per", ["step", "sequence"])
@pytest.mark.parametrize("both_ways", [False, True], ids=["forward", "bidirectional"])
def test_products_for_labellers(per, both_ways):
    draws = np.random.default_rng(0)
    u, lengths = draws.normal(size=(3, 4, 2)), [4, 3, 2]
    reader = ps.cells.Bidirectional(ps.cells.GRU(2), ps.cells.Elman(2)) if both_ways else ps.cells.LSTM(2)
    model = ps.Labeller(3, input_dim=2, reader=reader, per=per, dtype=torch.float64, seed=0)
    with torch.no_grad():
        model.head.weights.mul_(20)
    labels = draws.integers(0, 3, size=(3, 4, 1) if per == "step" else 3)
    data, free = model._door(labels, u, lengths), FreeVector(model)

    def outputs():
        hidden, seen = model._outputs(data), model._targets(data)[1].squeeze(-1)
        return [model.head._outputs(hidden)[seen].detach().numpy()]

    (raw,) = outputs()
    (dense,) = jacobians(model, free, outputs)
    probs = np.exp(raw) / np.exp(raw).sum(-1, keepdims=True)
    v = draws.normal(size=free.size)
    moved = dense @ v
    images = probs * moved - probs * (probs * moved).sum(-1, keepdims=True)
    expected = np.einsum("nai,na->i", dense, images)
    curvature = GaussNewton(model, data, free, structural=True)
    np.testing.assert_allclose(curvature.product(torch.as_tensor(v)).numpy() * len(raw), expected, rtol=0, atol=1e-9)


def test_float32_products_are_those_of_float64():
    y, u, lengths = batch()
    found = {}
    for dtype in (torch.float32, torch.float64):
        model = ps.RNN(1, cell=ps.cells.Elman(4), head=ps.heads.Gaussian(), input_dim=2, dtype=dtype, seed=0)
        free = FreeVector(model)
        curvature = GaussNewton(model, model._door(y, u, lengths), free, structural=True)
        v = torch.linspace(-1, 1, free.size, dtype=torch.float64)
        found[dtype] = curvature.product(v, 0.03)
    size = float(found[torch.float64].abs().max())
    torch.testing.assert_close(found[torch.float32], found[torch.float64], rtol=0, atol=1e-5 * size)
