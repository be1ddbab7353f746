"""Output heads against scipy and dense linear algebra, with missing coordinates, units and extreme outputs."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn
from torch.func import functional_call

from probseq.emissions.heads import Bernoulli, Categorical, Gaussian, Head
from probseq.emissions.heads.scales import inverse_softplus, softplus

HIDDEN = 4
FACTORIES: dict[str, tuple[Callable[[], Head], int]] = {
    "diag": (Gaussian, 3),
    "full": (lambda: Gaussian("full"), 3),
    "full_scalar": (lambda: Gaussian("full"), 1),
    "categorical": (lambda: Categorical(5), 1),
    "bernoulli": (Bernoulli, 3),
}
GAUSSIAN = ["diag", "full", "full_scalar"]
every_head = pytest.mark.parametrize("name", FACTORIES)
every_gaussian = pytest.mark.parametrize("name", GAUSSIAN)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_head(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Head:
    """A head with random parameters, and random units if it has any."""
    make, dim = FACTORIES[name]
    head = make()
    head.bind(HIDDEN, dim, dtype=dtype, generator_seed=seed)
    with torch.no_grad():
        head.weights.copy_(0.4 * draws(*head.weights.shape, seed=seed + 1))
        head.bias.copy_(0.4 * draws(*head.bias.shape, seed=seed + 2))
    if head.real_valued:
        head.standardise(3.0 * draws(dim, seed=seed + 3), draws(dim, seed=seed + 4).exp())
    return head


def random_values(head: Head, *batch: int, seed: int = 6) -> Tensor:
    """Observations inside the support, (*batch, D)."""
    if isinstance(head, Categorical):
        return (torch.rand(*batch, 1, generator=torch.Generator().manual_seed(seed)) * 5).floor().double()
    values = draws(*batch, head.obs_dim, seed=seed)
    return values * 2 + 1 if head.real_valued else (values > 0).double()


def random_mask(*shape: int) -> Tensor:
    """Which coordinates are observed: the first step not at all, the second fully, the others at random."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., 0, :], mask[..., 1, :] = False, True
    assert shape[-1] == 1 or (mask.any(-1) & ~mask.all(-1)).any()
    return mask


def dense_moments(head: Gaussian, hidden: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance in data units, by numpy from the documented layout of the outputs."""
    raw = head.weights.detach().numpy() @ hidden.numpy() + head.bias.detach().numpy()
    dim, scale = head.obs_dim, head.scale.numpy()
    factor = np.diag(head.scale_floor + np.logaddexp(0.0, raw[dim : 2 * dim]))
    if head.covariance == "full":
        factor[np.tril_indices(dim, -1)] = raw[2 * dim :]
    factor = scale[:, None] * factor
    return head.shift.numpy() + scale * raw[:dim], factor @ factor.T


def reference(head: Head, hidden: Tensor, y: Tensor, observed: Tensor) -> float:
    """log p of the observed coordinates of one step, by scipy."""
    seen = observed.numpy()
    if not seen.any():
        return 0.0
    values = y.numpy()
    if isinstance(head, Gaussian):
        mean, cov = dense_moments(head, hidden)
        return scipy.stats.multivariate_normal(mean[seen], cov[np.ix_(seen, seen)]).logpdf(values[seen])
    raw = head.weights.detach().numpy() @ hidden.numpy() + head.bias.detach().numpy()
    if isinstance(head, Categorical):
        return float(np.log(scipy.special.softmax(raw))[int(values[0])])
    return float(scipy.stats.bernoulli.logpmf(values, scipy.special.expit(raw))[seen].sum())


@every_head
@pytest.mark.parametrize("missing", [False, True])
def test_log_prob_is_scipys_marginal_density(name: str, missing: bool) -> None:
    head = random_head(name)
    hidden, y = draws(4, 5, HIDDEN, seed=9), random_values(head, 4, 5)
    observed = torch.ones(y.shape, dtype=torch.bool)
    if missing:
        observed = random_mask(*y.shape)
    with torch.no_grad():
        actual = head.log_prob(hidden, torch.where(observed, y, math.nan), observed)
    expected = [[reference(head, hidden[i, j], y[i, j], observed[i, j]) for j in range(5)] for i in range(4)]
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert not actual[~observed.any(-1)].any()


@every_head
@pytest.mark.parametrize("batch_shape", [(), (4,), (2, 4), (0,)])
def test_log_prob_equals_the_emitted_distributions(name: str, batch_shape: tuple[int, ...]) -> None:
    head = random_head(name)
    hidden, y = draws(*batch_shape, HIDDEN, seed=3), random_values(head, *batch_shape)
    with torch.no_grad():
        distribution = head.distribution(hidden)
        assert distribution.batch_shape == batch_shape
        assert distribution.event_shape == (head.obs_dim,)
        actual = head.log_prob(hidden, y)
        assert actual.shape == batch_shape
        assert actual.dtype == torch.float64
        if y.numel():  # torch's Independent cannot sum an empty batch
            torch.testing.assert_close(actual, distribution.log_prob(y), rtol=1e-10, atol=1e-12)
        everything = torch.ones(y.shape, dtype=torch.bool)
        torch.testing.assert_close(head.log_prob(hidden, y, everything), actual, rtol=0, atol=0)


@every_head
def test_outputs_broadcast_over_samples(name: str) -> None:
    head = random_head(name)
    hidden, y = draws(3, 4, HIDDEN, seed=3), random_values(head, 4)
    observed = torch.arange(y.numel()).reshape(y.shape) % 3 != 0
    with torch.no_grad():
        together = head.log_prob(hidden, y, observed)
        each = torch.stack([head.log_prob(one, y, observed) for one in hidden])
    torch.testing.assert_close(together, each, rtol=1e-12, atol=1e-12)


@every_head
def test_unobserved_entries_add_nothing_and_get_no_gradient(name: str) -> None:
    head = random_head(name)
    hidden, clean = draws(6, HIDDEN, seed=3), random_values(head, 6)
    observed = random_mask(*clean.shape)
    results = []
    for junk in (0.0, math.nan, math.inf, -1e300):
        y = torch.where(observed, clean, junk).requires_grad_(head.real_valued)
        leaf = hidden.clone().requires_grad_()
        value = head.log_prob(leaf, y, observed)
        wanted = [leaf, head.weights, head.bias, *([y] if head.real_valued else [])]
        results.append([value.detach(), *torch.autograd.grad(value.sum(), wanted)])
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert torch.equal(one, same)
    assert all(part.isfinite().all() for part in results[0])
    nothing = ~observed.any(-1)
    assert not results[0][0][nothing].any()
    assert not results[0][1][nothing].any()
    assert results[0][0][~nothing].all()
    if head.real_valued:
        assert not results[0][4][~observed].any()


class LogProb(nn.Module):
    """A head's log-density as a function of its parameters."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: Tensor, y: Tensor, observed: Tensor | None) -> Tensor:
        return self.head.log_prob(hidden, y, observed)


@every_head
@pytest.mark.parametrize("missing", [False, True])
def test_gradcheck_twice(name: str, missing: bool) -> None:
    density = LogProb(random_head(name))
    hidden, y = 0.5 * draws(3, HIDDEN, seed=3), random_values(density.head, 3)
    observed = (torch.arange(y.numel()).reshape(y.shape) % 4 != 1) if missing else None

    def run(hidden: Tensor, y: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
        return functional_call(density, {"head.weights": weights, "head.bias": bias}, (hidden, y, observed))

    parameters = [p.detach().clone().requires_grad_() for p in (density.head.weights, density.head.bias)]
    arguments = (hidden.requires_grad_(), y.requires_grad_(density.head.real_valued), *parameters)
    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments)


@every_gaussian
@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e8])
def test_a_change_of_units_moves_the_density_by_minus_log_scale(name: str, factor: float) -> None:
    head = random_head(name)
    moved, offset = copy.deepcopy(head), 7.0 * factor
    moved.standardise(factor * head.shift + offset, factor * head.scale)
    hidden, y = draws(5, HIDDEN, seed=3), random_values(head, 5)
    observed = torch.arange(y.numel()).reshape(y.shape) % 4 != 1
    with torch.no_grad():
        before, after = head.log_prob(hidden, y, observed), moved.log_prob(hidden, factor * y + offset, observed)
        torch.testing.assert_close(after, before - observed.sum(-1).double() * math.log(factor), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(moved.encode(factor * y + offset), head.encode(y), rtol=1e-10, atol=1e-10)
        mean = moved.distribution(hidden).mean
        torch.testing.assert_close((mean - offset) / factor, head.distribution(hidden).mean, rtol=1e-10, atol=1e-10)


def test_units_far_from_zero_keep_their_digits_in_single_precision() -> None:
    head = Gaussian()
    head.bind(HIDDEN, 1, generator_seed=0)
    plain = copy.deepcopy(head)
    head.standardise(torch.tensor([1e9], dtype=torch.float64), torch.tensor([1e-3], dtype=torch.float64))
    hidden, standard = torch.zeros(HIDDEN), torch.tensor([0.5], dtype=torch.float64)
    y = 1e9 + 1e-3 * standard
    with torch.no_grad():
        shifted = head.log_prob(hidden, y) + math.log(1e-3)
        rounded = (y - 1e9) / 1e-3  # what float64 kept of the observation
        torch.testing.assert_close(shifted, plain.log_prob(hidden, rounded), rtol=1e-12, atol=0)
        assert head.encode(y).dtype == torch.float32


@every_head
def test_encoded_observations_and_their_expectation(name: str) -> None:
    head = random_head(name)
    hidden, y = draws(2, 3, HIDDEN, seed=3), random_values(head, 2, 3)
    encoded = head.encode(y)
    assert encoded.shape == (2, 3, head.input_width)
    assert encoded.dtype == head.weights.dtype
    with torch.no_grad():
        expected, distribution = head.expected_input(hidden), head.distribution(hidden)
        if isinstance(head, Categorical):
            assert torch.equal(encoded.argmax(-1, keepdim=True).double(), y)
            assert torch.equal(encoded.sum(-1), torch.ones(2, 3, dtype=torch.float64))
            torch.testing.assert_close(expected, distribution.base_dist.probs.squeeze(-2))
        else:
            torch.testing.assert_close(expected, head.encode(distribution.mean), rtol=1e-10, atol=1e-12)


@every_head
def test_fill_replaces_what_is_missing_only(name: str) -> None:
    head = random_head(name)
    hidden, y = draws(6, HIDDEN, seed=3), random_values(head, 6)
    observed = torch.arange(y.numel()).reshape(y.shape) % 4 != 1
    with torch.no_grad():
        encoded = head.encode(torch.where(observed, y, math.nan))
        filled = head.fill(hidden, encoded, observed)
        assert filled.isfinite().all()
        wide = observed.expand(filled.shape)
        assert torch.equal(filled[wide], head.encode(y)[wide])
        assert torch.equal(filled[~wide], head.expected_input(hidden)[~wide])
        assert torch.equal(head.fill(hidden, head.encode(y)), head.encode(y))


@every_head
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_single_precision_outputs_stay_finite(name: str, size: float) -> None:
    head = random_head(name, dtype=torch.float32)
    with torch.no_grad():
        signs = torch.where(torch.arange(len(head.bias)) % 2 == 0, 1.0, -1.0)
        head.bias.copy_(size * signs)
    hidden, y = draws(8, HIDDEN, seed=3).float().requires_grad_(), random_values(head, 8)
    observed = torch.arange(y.numel()).reshape(y.shape) % 5 != 1
    for mask in (None, observed):
        value = head.log_prob(hidden, y, mask)
        gradients = torch.autograd.grad(value.sum(), [hidden, head.weights, head.bias])
        assert value.dtype == torch.float64
        assert value.isfinite().all()
        assert all(g.isfinite().all() for g in gradients)
        assert head.distribution(hidden).log_prob(y).isfinite().all()


def test_bernoulli_tails_keep_relative_digits() -> None:
    head = Bernoulli()
    head.bind(1, 1, dtype=torch.float64)
    with torch.no_grad():
        head.weights.fill_(1.0)
        for logit in (-700.0, -40.0, -20.5, 0.3, 20.5, 40.0):
            value = head.log_prob(torch.tensor([logit], dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
            assert value.item() == pytest.approx(-np.logaddexp(0.0, logit), rel=1e-14)


def test_softplus_and_its_inverse() -> None:
    x = torch.tensor([-30.0, -1.0, 0.0, 19.9, 20.1, 50.0, 800.0], dtype=torch.float64)
    torch.testing.assert_close(softplus(x), torch.from_numpy(np.logaddexp(0.0, x.numpy())), rtol=1e-14, atol=0)
    torch.testing.assert_close(inverse_softplus(softplus(x)), x, rtol=1e-12, atol=1e-12)


@every_gaussian
def test_the_scale_floor_bounds_the_density(name: str) -> None:
    head = random_head(name)
    with torch.no_grad():
        head.weights.zero_()
        head.bias.zero_()
        head.bias[head.obs_dim : 2 * head.obs_dim] = -1e4
        top = head.log_prob(torch.zeros(HIDDEN, dtype=torch.float64), head.shift)
    expected = -(math.log(1e-4) + 0.5 * math.log(2 * math.pi)) * head.obs_dim - head.scale.log().sum()
    torch.testing.assert_close(top, expected, rtol=1e-12, atol=0)


def test_an_almost_singular_factor_keeps_its_marginals() -> None:
    """Correlation one up to 1e-8: the covariance itself is singular in float64, its marginals are not."""
    head = Gaussian("full", scale_floor=0.0)
    head.bind(1, 3, dtype=torch.float64)
    below = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    with torch.no_grad():
        head.weights.zero_()
        deviations = torch.tensor([1.0, 1e-9, 1e-9], dtype=torch.float64)
        head.bias.copy_(torch.cat([torch.zeros(3, dtype=torch.float64), inverse_softplus(deviations), below]))
        y, observed = torch.tensor([math.nan, 2.0, 2.0 + 1e-9], dtype=torch.float64), torch.tensor([False, True, True])
        value = head.log_prob(torch.zeros(1, dtype=torch.float64), y, observed)
    # y_1 = a + 1e-9 b, y_2 = a + 1e-9 c: sum and difference are independent
    total, difference = 4.0 + 1e-9, (y[2] - y[1]).item()
    expected = (
        math.log(2.0)
        + scipy.stats.norm.logpdf(total, scale=math.sqrt(4 + 2e-18))
        + scipy.stats.norm.logpdf(difference, scale=math.sqrt(2) * 1e-9)
    )
    assert value.item() == pytest.approx(expected, rel=1e-6)  # one ulp of 1 is 2e-7 of 1e-9


@every_head
def test_a_fresh_head_says_the_neutral_marginal(name: str) -> None:
    make, dim = FACTORIES[name]
    head = make()
    head.bind(HIDDEN, dim, dtype=torch.float64, generator_seed=0)
    assert head.weights.abs().max() <= 0.1 / math.sqrt(HIDDEN)
    assert head.weights.any()
    distribution = head.distribution(torch.zeros(HIDDEN, dtype=torch.float64))
    if head.real_valued:
        torch.testing.assert_close(distribution.mean, torch.zeros(dim, dtype=torch.float64))
        torch.testing.assert_close(distribution.variance, torch.ones(dim, dtype=torch.float64))
    else:
        assert not head.bias.any()


@every_head
def test_start_from_says_the_datas_marginal(name: str) -> None:
    head = random_head(name)
    values = random_values(head, 40, 50)
    if name == "full":
        values = values @ draws(3, 3, seed=11)
    observed = torch.rand(40, 50, 1, generator=torch.Generator().manual_seed(2)).expand(values.shape) < 0.8
    head.start_from(torch.where(observed, values, math.nan), observed)
    distribution = head.distribution(torch.zeros(HIDDEN, dtype=torch.float64))
    rows = values[observed.all(-1)].numpy()
    if isinstance(head, Categorical):
        counts = np.bincount(rows[:, 0].astype(int), minlength=5) + 0.5
        np.testing.assert_allclose(distribution.base_dist.probs.detach()[0], counts / counts.sum(), rtol=1e-12)
    elif isinstance(head, Bernoulli):
        np.testing.assert_allclose(distribution.mean.detach(), (rows.sum(0) + 0.5) / (len(rows) + 1), rtol=1e-12)
    else:
        np.testing.assert_allclose(distribution.mean.detach(), rows.mean(0), rtol=1e-10)
        np.testing.assert_allclose(distribution.variance.detach(), rows.var(0), rtol=1e-10)
        if name == "full":
            np.testing.assert_allclose(distribution.covariance_matrix.detach(), np.cov(rows.T, bias=True), rtol=1e-9)


@every_head
def test_start_from_poor_data_stays_finite(name: str) -> None:
    head = random_head(name, dtype=torch.float32)
    before = head.bias.clone()
    head.start_from(torch.full((3, head.obs_dim), math.nan, dtype=torch.float64))
    assert torch.equal(head.bias, before)
    constant = torch.zeros(5, head.obs_dim, dtype=torch.float64)
    head.start_from(constant)
    with torch.no_grad():
        head.weights.zero_()
        assert head.bias.isfinite().all()
        assert head.log_prob(torch.zeros(HIDDEN), constant).isfinite().all()
        if not head.real_valued:  # never an impossible symbol
            assert head.log_prob(torch.zeros(HIDDEN), constant + 1).isfinite().all()


@every_head
def test_what_lies_outside_the_support(name: str) -> None:
    head = random_head(name)
    assert not head.invalid(random_values(head, 6)).any()
    odd = torch.tensor([math.nan, math.inf, -math.inf, -1.0, 0.5, 0.0, 1.0, 4.0, 5.0], dtype=torch.float64)
    outside = head.invalid(odd.unsqueeze(-1).expand(9, head.obs_dim))
    expected = {
        "categorical": ([1, 1, 1, 1, 1, 0, 0, 0, 1], "integers 0..4"),
        "bernoulli": ([1, 1, 1, 1, 1, 0, 0, 1, 1], "0 or 1"),
    }.get(name, ([1, 1, 1, 0, 0, 0, 0, 0, 0], "finite real numbers"))
    assert outside[:, 0].int().tolist() == expected[0]
    assert outside.shape == (9, head.obs_dim)
    assert head.support == expected[1]


@every_head
def test_no_global_generator_moves_and_seeds_repeat(name: str) -> None:
    make, dim = FACTORIES[name]
    heads = [make(), make()]
    for head in heads:
        torch.manual_seed(len(heads))
        before = torch.get_rng_state()
        head.bind(HIDDEN, dim, generator_seed=5)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(heads[0].weights, heads[1].weights)
    heads[1].reset_parameters(6)
    assert not torch.equal(heads[0].weights, heads[1].weights)
    heads[1].reset_parameters(5)
    assert torch.equal(heads[0].weights, heads[1].weights)


@every_head
def test_state_dict_pickle_and_deepcopy_keep_the_density(name: str) -> None:
    head = random_head(name)
    make, dim = FACTORIES[name]
    other = make()
    other.bind(HIDDEN, dim, dtype=torch.float64, generator_seed=50)
    other.load_state_dict(head.state_dict())
    assert set(head.state_dict()) == {"weights", "bias", "shift", "scale"}
    hidden, y = draws(3, HIDDEN, seed=3), random_values(head, 3)
    for twin in (other, pickle.loads(pickle.dumps(head)), copy.deepcopy(head)):
        assert torch.equal(twin.log_prob(hidden, y), head.log_prob(hidden, y))


@every_head
def test_binding_once(name: str) -> None:
    make, dim = FACTORIES[name]
    head = make()
    with pytest.raises(RuntimeError, match="not bound"):
        head.distribution(torch.zeros(HIDDEN))
    head.bind(HIDDEN, dim)
    kept = head.weights
    head.bind(HIDDEN, dim)
    assert head.weights is kept
    with pytest.raises(ValueError, match="head is bound to hidden_size 4"):
        head.bind(HIDDEN + 1, dim)


def test_arguments_are_checked() -> None:
    with pytest.raises((ValueError, TypeCheckError), match="covariance"):
        Gaussian("round")
    with pytest.raises(ValueError, match="scale_floor"):
        Gaussian(scale_floor=1.0)
    with pytest.raises(ValueError, match="n_symbols"):
        Categorical(0)
    with pytest.raises(ValueError, match="obs_dim must be 1, got 2"):
        Categorical(3).bind(HIDDEN, 2)
    with pytest.raises(ValueError, match="at least 1, got 4 and 0"):
        Bernoulli().bind(HIDDEN, 0)
    with pytest.raises(ValueError, match="dtype"):
        Bernoulli().bind(HIDDEN, 1, dtype=torch.float16)
    one = torch.ones(2, dtype=torch.float64)
    head = Gaussian()
    head.bind(HIDDEN, 2)
    with pytest.raises(ValueError, match="scale must be positive"):
        head.standardise(one, 0 * one)
    with pytest.raises((ValueError, TypeCheckError), match="shift"):
        head.standardise(one[:1], one)
    with pytest.raises(ValueError, match=r"shift must be finite, \(2,\); got \[inf, inf\]"):
        head.standardise(math.inf * one, one)
    with pytest.raises(TypeError, match="no units"):
        random_head("bernoulli").standardise(one, one)
