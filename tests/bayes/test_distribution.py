"""Models as Pyro distributions: shapes, plates, masks, and Pyro's own state-space distributions as the oracle."""

from __future__ import annotations

import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.ops.integrator import potential_grad
from torch import Tensor

import probseq as ps
from probseq.bayes import as_distribution

TIGHT = {"rtol": 1e-8, "atol": 1e-10}


def lds(seed: int = 0, n: int = 2, m: int = 3) -> ps.LDS:
    draws = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draws, dtype=torch.float64)  # noqa: E731
    covs = [a @ a.mT + 0.2 * torch.eye(len(a)) for a in (normal(n, n), normal(n, n), normal(m, m))]
    return ps.LDS(
        initial_mean=normal(n), initial_cov=covs[0], transition_matrix=0.4 * normal(n, n), transition_cov=covs[1],
        emission_matrix=normal(m, n), emission_cov=covs[2],
    )  # fmt: skip


def hmm() -> ps.HMM:
    return ps.HMM(
        initial_probs=[0.3, 0.7], transition_matrix=[[0.9, 0.1], [0.2, 0.8]],
        emission=ps.emissions.Categorical(probs=[[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]),
    )  # fmt: skip


def autoregression() -> ps.AR:
    return ps.AR(transition_matrices=[[[0.5]]], transition_cov=[[1.0]], transition_offset=[0.2], initial="stationary")


def test_it_is_pyros_gaussian_hmm_after_its_first_transition():
    model = lds()
    m, p, a, q, c, r = (
        getattr(model, name).detach() for name in (
            "initial_mean", "initial_cov", "transition_matrix", "transition_cov", "emission_matrix", "emission_cov"
        )
    )  # fmt: skip
    zeros = torch.zeros(2, dtype=torch.float64)
    peer = dist.GaussianHMM(
        dist.MultivariateNormal(m, p), a.mT, dist.MultivariateNormal(zeros, q), c.mT,
        dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), r), duration=30,
    )  # fmt: skip
    moved = {"initial_mean": a @ m, "initial_cov": a @ p @ a.mT + q}
    y = model.sample(30, (4,), seed=0)
    torch.testing.assert_close(as_distribution(model, 30, parameters=moved).log_prob(y), peer.log_prob(y), **TIGHT)


def test_it_is_pyros_discrete_hmm_after_its_first_transition():
    model = hmm()
    pi, a, b = (t.detach() for t in (model.initial_probs, model.transition_matrix, model.emission.probs))
    peer = dist.DiscreteHMM(pi.log(), a.log(), dist.Categorical(probs=b), duration=25)
    y = model.sample(25, (5,), seed=0)
    found = as_distribution(model, 25, parameters={"initial_probs": pi @ a}).log_prob(y)
    torch.testing.assert_close(found, peer.log_prob(y.squeeze(-1).long()), **TIGHT)


@pytest.mark.parametrize("model", [lds(), hmm(), autoregression()], ids=["LDS", "HMM", "AR"])
def test_shapes_follow_pyros_conventions(model):
    one = as_distribution(model, 7)
    assert one.batch_shape == ()
    assert one.event_shape == (7, *model.event_shape)
    draws = one.sample((3, 2))
    assert draws.shape == one.shape((3, 2)) == (3, 2, 7, *model.event_shape)
    assert one.log_prob(draws).shape == (3, 2)
    torch.testing.assert_close(one.log_prob(draws), model.log_prob(draws))
    many = one.expand([4]).to_event(1)
    assert many.log_prob(many.sample()).shape == ()
    assert bool(one.support.check(draws).all())


def test_draws_follow_pyros_seed_and_leave_it():
    series = as_distribution(hmm(), 10)
    pyro.set_rng_seed(3)
    first, after = series.sample(), torch.rand(())
    pyro.set_rng_seed(3)
    again, after_again = series.sample(), torch.rand(())
    torch.testing.assert_close(first, again)
    assert after == after_again
    assert not torch.equal(series.sample((50,)), series.sample((50,)))


def test_parameters_with_batch_axes_give_each_series_its_own():
    model, scales = lds(), torch.tensor([[1.0], [4.0]], dtype=torch.float64, requires_grad=True)
    covs = scales.unsqueeze(-1) * model.emission_cov.detach()
    series = as_distribution(model, 6, parameters={"emission_cov": covs})
    assert series.batch_shape == (2,)
    y = series.sample((5,))
    found = series.log_prob(y)
    assert found.shape == (5, 2)
    for k in range(2):
        alone = as_distribution(model, 6, parameters={"emission_cov": covs[k].detach()})
        torch.testing.assert_close(found[:, k].detach(), alone.log_prob(y[:, k]))
    (gradient,) = torch.autograd.grad(found.sum(), scales)
    step = 1e-5
    for k in range(2):
        up, down = (
            as_distribution(model, 6, parameters={"emission_cov": (scales[k] + sign * step) * model.emission_cov})
            .log_prob(y[:, k]).sum().detach() for sign in (1, -1)
        )  # fmt: skip
        assert float(gradient[k]) == pytest.approx(float((up - down) / (2 * step)), rel=1e-6)


def test_missing_entries_and_masks():
    model = lds()
    y = model.sample(8, (3,), seed=1)
    holes = y.clone()
    holes[0, 2], holes[1, 4, 0] = float("nan"), float("nan")
    series = as_distribution(model, 8, validate_args=True)
    torch.testing.assert_close(series.log_prob(holes), model.log_prob(holes))
    mask = torch.tensor([True, False, True])
    masked = series.expand([3]).mask(mask).log_prob(y)
    torch.testing.assert_close(masked, torch.where(mask, model.log_prob(y), 0.0))


def test_differentiable_draws_have_the_moments_and_slopes_of_the_model():
    model = lds(seed=4)
    matrix = model.transition_matrix.detach().clone().requires_grad_()
    series = as_distribution(model, 4, parameters={"transition_matrix": matrix})
    pyro.set_rng_seed(0)
    draws = series.rsample((20_000,))
    mean = draws.mean(0)
    a, m, c = matrix, model.initial_mean.detach(), model.emission_matrix.detach()
    exact = torch.stack([c @ torch.linalg.matrix_power(a, t) @ m for t in range(4)])
    spread = draws.std(0) / 20_000**0.5
    assert bool(((mean - exact).abs() < 5 * spread).all())
    found, wanted = (torch.autograd.grad(value[3].sum(), matrix, retain_graph=True)[0] for value in (mean, exact))
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.05 * float(wanted.abs().max()))
    pyro.set_rng_seed(0)
    torch.testing.assert_close(series.rsample((20_000,)), draws)


def test_a_panel_inside_a_larger_program():
    """Three series whose noise has one common prior: the gradient of the bound is that of the joint density."""
    model = lds(n=1, m=1)
    y = model.sample(12, (3,), seed=2)

    def program(data: Tensor) -> None:
        level = pyro.sample("level", dist.LogNormal(torch.tensor(0.0).double(), 1.0))
        with pyro.plate("series", 3):
            own = pyro.sample("own", dist.LogNormal(level.log(), 0.5))
            covs = own[:, None, None] * torch.eye(1, dtype=torch.float64)
            pyro.sample("y", as_distribution(model, 12, parameters={"emission_cov": covs}), obs=data)

    trace = pyro.poutine.trace(pyro.poutine.condition(program, {"level": torch.tensor(1.3).double()})).get_trace(y)
    own = trace.nodes["own"]["value"]
    by_hand = sum(
        as_distribution(model, 12, parameters={"emission_cov": own[k].reshape(1, 1)}).log_prob(y[k]) for k in range(3)
    )
    trace.compute_log_prob()
    assert trace.nodes["y"]["log_prob"].shape == (3,)
    torch.testing.assert_close(trace.nodes["y"]["log_prob_sum"], by_hand)
    guide = pyro.infer.autoguide.AutoNormal(program)
    assert torch.isfinite(torch.tensor(Trace_ELBO().loss_and_grads(program, guide, y)))
    pyro.clear_param_store()


def test_samplers_turn_back_from_parameters_without_a_density():
    """A step to infinite variance is a divergence to Pyro's integrator, with no slope."""
    model = lds(n=1, m=1)
    y = model.sample(8, seed=0)

    def energy(at: dict[str, Tensor]) -> Tensor:
        covs = at["log_var"].exp().reshape(1, 1)
        return -as_distribution(model, 8, parameters={"transition_cov": covs}).log_prob(y)

    place = {"log_var": torch.tensor([1e4], dtype=torch.float64)}
    slopes, value = potential_grad(energy, place)
    assert torch.isnan(value)
    assert float(slopes["log_var"]) == 0


def test_what_does_not_fit_is_refused():
    model = lds()
    with pytest.raises(ValueError, match="unknown parameter 'noise'"):
        as_distribution(model, 5, parameters={"noise": torch.ones(1)})
    with pytest.raises(ValueError, match=r"emission_cov must have shape \(\*batch, 3, 3\), got \(2, 2\)"):
        as_distribution(model, 5, parameters={"emission_cov": torch.eye(2)})
    with pytest.raises(ValueError, match="takes no inputs"):
        as_distribution(model, 5, u=torch.zeros(5, 1))
    with pytest.raises(TypeError, match="StateSpaceModel"):
        as_distribution(torch.nn.Linear(1, 1), 5)
    with pytest.raises(NotImplementedError, match="not differentiable"):
        as_distribution(hmm(), 5).rsample()
    with pytest.raises(ValueError, match="support"):
        as_distribution(hmm(), 2, validate_args=True).log_prob(torch.tensor([[0.0], [7.0]]))


def test_pyro_is_imported_when_it_is_asked_for():
    code = "import sys, probseq as ps; assert 'pyro' not in sys.modules; ps.bayes; assert 'pyro' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
