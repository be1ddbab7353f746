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

from probseq.emissions.heads import (
    Bernoulli,
    Categorical,
    Gaussian,
    Head,
    MixtureDensity,
    MixtureOfBernoullis,
    Poisson,
    Product,
    StudentT,
)
from probseq.emissions.heads.scales import inverse_softplus, log_softplus, softplus

HIDDEN = 4
FACTORIES: dict[str, tuple[Callable[[], Head], int]] = {
    "diag": (Gaussian, 3),
    "full": (lambda: Gaussian("full"), 3),
    "full_scalar": (lambda: Gaussian("full"), 1),
    "student": (StudentT, 3),
    "student_full": (lambda: StudentT("full"), 3),
    "mixture": (lambda: MixtureDensity(4), 3),
    "mixture_full": (lambda: MixtureDensity(3, "full"), 3),
    "mixture_scalar": (lambda: MixtureDensity(2, "full"), 1),
    "categorical": (lambda: Categorical(5), 1),
    "bernoulli": (Bernoulli, 3),
    "bernoullis": (lambda: MixtureOfBernoullis(4), 3),
    "poisson": (Poisson, 3),
    "pen": (lambda: Product([MixtureDensity(3, "full"), Bernoulli()], [2, 1]), 3),
    "labelled": (lambda: Product([StudentT(), Categorical(4), Poisson()], [1, 1, 2]), 4),
}
GAUSSIAN = ["diag", "full", "full_scalar"]
REAL = [*GAUSSIAN, "student", "student_full", "mixture", "mixture_full", "mixture_scalar"]
every_real = pytest.mark.parametrize("name", REAL)
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
    elif name in ("poisson", "pen", "labelled"):
        with torch.no_grad():
            head.scale.copy_(
                torch.tensor({"poisson": [3.0, 0.5, 20.0], "pen": [2.0, 0.3, 1.0]}.get(name, [2, 1, 4, 1]))
            )
    return head


def random_values(head: Head, *batch: int, seed: int = 6) -> Tensor:
    """Observations inside the support, (*batch, D)."""
    if isinstance(head, Product):
        parts = zip(head._heads, head.widths, range(9), strict=False)
        columns = []
        for part, width, place in parts:
            part.obs_dim = width
            columns.append(random_values(part, *batch, seed=seed + place))
            part.obs_dim = None
        return torch.cat(columns, -1)
    uniform = torch.rand(*batch, head.obs_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if isinstance(head, Categorical):
        return (uniform * head.n_symbols).floor()
    if isinstance(head, Poisson):
        return (uniform * 7).floor()
    values = draws(*batch, head.obs_dim, seed=seed)
    return values * 2 + 1 if head.real_valued else (values > 0).double()


def random_mask(*shape: int) -> Tensor:
    """Which coordinates are observed: the first step not at all, the second fully, the others at random."""
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., 0, :], mask[..., 1, :] = False, True
    assert shape[-1] == 1 or (mask.any(-1) & ~mask.all(-1)).any()
    return mask


def dense_factor(spread: np.ndarray, below: np.ndarray, floor: float) -> np.ndarray:
    factor = np.diag(floor + np.logaddexp(0.0, spread))
    factor[np.tril_indices(len(spread), -1)] = below if below.size else 0.0
    return factor


def dense_moments(head: Gaussian, hidden: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance in data units, by numpy from the documented layout of the outputs."""
    raw = head.weights.detach().numpy() @ hidden.numpy() + head.bias.detach().numpy()
    dim, scale = head.obs_dim, head.scale.numpy()
    factor = scale[:, None] * dense_factor(raw[dim : 2 * dim], raw[2 * dim :], head.scale_floor)
    return head.shift.numpy() + scale * raw[:dim], factor @ factor.T


def reference(head: Head, hidden: Tensor, y: Tensor, observed: Tensor) -> float:
    """log p of the observed coordinates of one step, by scipy."""
    raw = head.weights.detach().numpy() @ hidden.numpy() + head.bias.detach().numpy()
    return by_scipy(head, raw, y.numpy(), observed.numpy(), head.shift.numpy(), head.scale.numpy())


def by_scipy(head: Head, raw: np.ndarray, y: np.ndarray, seen: np.ndarray, shift: np.ndarray, scale: np.ndarray):
    dim = len(y)
    if not seen.any():
        return 0.0
    if isinstance(head, Product):
        total, start, first = 0.0, 0, 0
        for part, width in zip(head._heads, head.widths, strict=True):
            end, cut = start + part._n_outputs(width), slice(first, first + width)
            total += by_scipy(part, raw[start:end], y[cut], seen[cut], shift[cut], scale[cut])
            start, first = end, first + width
        return total
    if isinstance(head, MixtureDensity):
        k = head.n_components
        parts = raw[k:].reshape(k, -1)
        return scipy.special.logsumexp(
            [
                log_weight + normal(part[:dim], part[dim : 2 * dim], part[2 * dim :], y, seen, shift, scale, head)
                for log_weight, part in zip(scipy.special.log_softmax(raw[:k]), parts, strict=True)
            ]
        )
    if isinstance(head, Gaussian):
        return normal(raw[:dim], raw[dim : 2 * dim], raw[2 * dim :], y, seen, shift, scale, head)
    if isinstance(head, StudentT):
        factor = scale[:, None] * dense_factor(raw[dim : 2 * dim], raw[2 * dim : -1], head.scale_floor)
        where, shape = (shift + scale * raw[:dim])[seen], (factor @ factor.T)[np.ix_(seen, seen)]
        return scipy.stats.multivariate_t(where, shape, df=1 + np.logaddexp(0.0, raw[-1])).logpdf(y[seen])
    if isinstance(head, Categorical):
        return float(np.log(scipy.special.softmax(raw))[int(y[0])])
    if isinstance(head, Poisson):
        return float(scipy.stats.poisson.logpmf(y, scale * np.logaddexp(0.0, raw))[seen].sum())
    if isinstance(head, MixtureOfBernoullis):
        k = head.n_components
        table = scipy.stats.bernoulli.logpmf(y, scipy.special.expit(raw[k:].reshape(k, dim)))
        return scipy.special.logsumexp(scipy.special.log_softmax(raw[:k]) + table[:, seen].sum(1))
    return float(scipy.stats.bernoulli.logpmf(y, scipy.special.expit(raw))[seen].sum())


def normal(mean, spread, below, y, seen, shift, scale, head) -> float:
    factor = scale[:, None] * dense_factor(spread, below, head.scale_floor)
    where, cov = (shift + scale * mean)[seen], (factor @ factor.T)[np.ix_(seen, seen)]
    return scipy.stats.multivariate_normal(where, cov).logpdf(y[seen])


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
    assert torch.autograd.gradcheck(run, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, arguments, fast_mode=True)


@every_real
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
        elif name == "labelled":
            numbers, symbols, counts = distribution.parts
            assert torch.equal(encoded[..., 1:5].argmax(-1).double(), y[..., 1])
            assert torch.equal(encoded[..., 5:], y[..., 2:] / head.scale[2:])
            parts = [(numbers.mean - head.shift[0]) / head.scale[0], symbols.base_dist.probs.squeeze(-2)]
            torch.testing.assert_close(expected, torch.cat([*parts, counts.mean / head.scale[2:]], -1))
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
        wide = observed.expand(filled.shape) if name != "labelled" else observed[:, [0, 1, 1, 1, 1, 2, 3]]
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
        if name not in ("poisson", "labelled"):  # torch's own takes a rate, which underflows
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
    torch.testing.assert_close(log_softplus(x), softplus(x).log(), rtol=1e-14, atol=1e-15)
    assert log_softplus(torch.tensor(-1e4, dtype=torch.float64)).item() == -1e4


@pytest.mark.parametrize("missing", [False, True])
def test_a_mixture_is_torchs_mixture_of_multivariate_normals(missing: bool) -> None:
    head = random_head("mixture_full")
    hidden, y = draws(200, HIDDEN, seed=3), random_values(head, 200)
    kept = [0, 2] if missing else [0, 1, 2]
    observed = torch.zeros_like(y, dtype=torch.bool)
    observed[:, kept] = True
    with torch.no_grad():
        said = head.distribution(hidden)
        parts = said.component_distribution
        inner = torch.distributions.MultivariateNormal(
            parts.loc[..., kept], parts.covariance_matrix[..., kept, :][..., kept]
        )
        truth = torch.distributions.MixtureSameFamily(said.mixture_distribution, inner).log_prob(y[:, kept])
        actual = head.log_prob(hidden, torch.where(observed, y, math.nan), observed)
    torch.testing.assert_close(actual, truth, rtol=1e-10, atol=1e-10)


@every_real
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_duplicated_points_have_finite_gradients(name: str, offset: float) -> None:
    """A network that puts its mean on a point that comes again and again, and one that is far away from it."""
    head = random_head(name)
    constant = head.shift.expand(6, -1).clone() + offset
    head.start_from(constant)
    hidden = torch.zeros(6, HIDDEN, dtype=torch.float64, requires_grad=True)
    for y in (constant, constant + 1e6):
        value = head.log_prob(hidden, y)
        gradients = torch.autograd.grad(value.sum(), [hidden, head.weights, head.bias])
        assert value.isfinite().all()
        assert all(g.isfinite().all() for g in gradients)


def test_draws_have_the_moments_they_say() -> None:
    for name in ("student_full", "mixture_full", "bernoullis", "poisson", "pen"):
        head = random_head(name)
        if name == "student_full":
            with torch.no_grad():
                head.bias[-1] = 9.0  # ten degrees of freedom: a fourth moment, so that a variance can be estimated
        torch.manual_seed(0)
        with torch.no_grad():
            said = head.distribution(0.3 * torch.ones(HIDDEN, dtype=torch.float64))
            drawn = said.sample((20_000,))
        error = (said.variance / 20_000).sqrt()
        assert ((drawn.mean(0) - said.mean).abs() < 5 * error).all(), name
        assert ((drawn.var(0) / said.variance - 1).abs() < 0.1).all(), name


def test_a_product_refuses_what_it_cannot_join() -> None:
    with pytest.raises(TypeError, match=r"heads\[1\] must be a head"):
        Product([Bernoulli(), 3], [1, 1])
    with pytest.raises(ValueError, match="one entry for each head"):
        Product([Bernoulli()], [1, 1])
    with pytest.raises(ValueError, match=r"widths of the parts are \[1, 2\], 3 in all: got obs_dim 2"):
        Product([Bernoulli(), Poisson()], [1, 2]).bind(HIDDEN, 2)
    with pytest.raises(ValueError, match="bound to a network of its own"):
        Product([random_head("bernoulli")], [3])


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
    elif name == "poisson":
        torch.testing.assert_close(distribution.mean, torch.ones(dim, dtype=torch.float64))
    elif not isinstance(head, Product):
        assert not head.bias.any()


@every_head
def test_start_from_says_the_datas_marginal(name: str) -> None:
    head = random_head(name)
    values = random_values(head, 20, 50)
    if name.endswith("full"):
        values = values @ draws(3, 3, seed=11)
    observed = torch.rand(20, 50, 1, generator=torch.Generator().manual_seed(2)).expand(values.shape) < 0.8
    head.start_from(torch.where(observed, values, math.nan), observed)
    with torch.no_grad():
        distribution = head.distribution(torch.zeros(HIDDEN, dtype=torch.float64))
    check_marginal(head, distribution, values[observed.all(-1)].numpy())


def check_marginal(head: Head, distribution: torch.distributions.Distribution, rows: np.ndarray) -> None:
    if isinstance(head, Product):
        first = 0
        for part, said, width in zip(head._heads, distribution.parts, head.widths, strict=True):
            check_marginal(part, said, rows[:, first : first + width])
            first += width
    elif isinstance(head, Categorical):
        counts = np.bincount(rows[:, 0].astype(int), minlength=head.n_symbols) + 0.5
        np.testing.assert_allclose(distribution.base_dist.probs[0], counts / counts.sum(), rtol=1e-12)
    elif isinstance(head, Bernoulli):
        np.testing.assert_allclose(distribution.mean, (rows.sum(0) + 0.5) / (len(rows) + 1), rtol=1e-12)
    elif isinstance(head, (StudentT, MixtureOfBernoullis)):  # a few steps towards it; one row too many
        np.testing.assert_allclose(distribution.mean, rows.mean(0), atol=0.02 * rows.std())
    else:
        np.testing.assert_allclose(distribution.mean, rows.mean(0), rtol=1e-10)
        if not isinstance(head, Poisson):  # what EM keeps of the data: mean and variance
            np.testing.assert_allclose(distribution.variance, rows.var(0), rtol=1e-10)
        if isinstance(head, Gaussian) and head.covariance == "full":
            np.testing.assert_allclose(distribution.covariance_matrix, np.cov(rows.T, bias=True), rtol=1e-9)


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
        if not head.real_valued and name != "labelled":  # never an impossible symbol
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
        "bernoullis": ([1, 1, 1, 1, 1, 0, 0, 1, 1], "0 or 1"),
        "poisson": ([1, 1, 1, 1, 1, 0, 0, 0, 0], "counts 0, 1, 2, ..."),
        "pen": ([1, 1, 1, 0, 0, 0, 0, 0, 0], "finite real numbers in columns 0 .. 1 and 0 or 1 in column 2"),
        "labelled": (
            [1, 1, 1, 0, 0, 0, 0, 0, 0],
            "finite real numbers in column 0 and integers 0..3 in column 1 and counts 0, 1, 2, ... in columns 2 .. 3",
        ),
    }.get(name, ([1, 1, 1, 0, 0, 0, 0, 0, 0], "finite real numbers"))
    assert outside[:, 0].int().tolist() == expected[0]
    if name == "pen":
        assert outside[:, 2].int().tolist() == [1, 1, 1, 1, 1, 0, 0, 1, 1]
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
