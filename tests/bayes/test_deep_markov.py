"""Deep Markov models: a linear one with the exact guide is a Kalman filter; bounds, particles, fits and files."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import probseq as ps
from probseq.bayes.deep_markov import DeepMarkov
from probseq.bayes.guides import GUIDES, Guide
from probseq.bayes.networks import FLOOR, Law
from tests import reference

A, OFFSET, Q = np.array([0.9, -0.6]), np.array([0.2, -0.1]), np.array([0.3, 0.5])
START, START_VARIANCE = np.array([1.0, -0.5]), np.array([0.7, 1.3])
C, SHIFT, R = np.array([[1.0, 0.5], [0.5, -1.0], [0.0, 0.0]]), np.array([0.3, 0.0, -1.0]), 0.4
LENGTHS = [9, 1, 6]


def kalman() -> ps.LDS:
    return ps.LDS(
        transition_matrix=np.diag(A), transition_offset=OFFSET, transition_cov=np.diag(Q), emission_matrix=C,
        emission_offset=SHIFT, emission_cov=R * np.eye(3), initial_mean=START, initial_cov=np.diag(START_VARIANCE),
    )  # fmt: skip


def raw(scale: np.ndarray, floor: float) -> Tensor:
    """What softplus brings to `scale`, above the floor."""
    return torch.as_tensor(np.log(np.expm1(scale - floor)))


class Exact(Guide):
    """q(z_t | z_{t-1}, y_{t:T}) of the system above: p(y_{t:T} | z_t) by the backward information filter.

    The columns of C are orthogonal and A is diagonal, so that the coordinates of z stay independent given the data.
    What is known: precision and information of that message, (n,) each, and whether t is the first step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("start", torch.zeros(2, dtype=torch.float64))

    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        known = []
        for rows, length in zip(x.numpy(), lengths.tolist(), strict=True):
            messages = np.zeros((len(rows), 5))
            precision, information = np.zeros(2), np.zeros(2)
            for t in reversed(range(length)):
                both = Q * precision + 1  # integrate z_{t+1} out
                shifted = information - precision * OFFSET
                precision, information = A**2 * precision / both, A * shifted / both
                precision = precision + (C**2).sum(0) / R
                information = information + C.T @ (rows[t] - SHIFT) / R
                messages[t] = np.concatenate([precision, information, [t == 0]])
            known.append(messages)
        return torch.as_tensor(np.array(known))

    def law(self, context: Tensor, before: Tensor) -> Law:
        precision, information, first = context.split((2, 2, 1), -1)
        mean = torch.where(first > 0, torch.as_tensor(START), torch.as_tensor(A) * before + torch.as_tensor(OFFSET))
        variance = torch.where(first > 0, torch.as_tensor(START_VARIANCE), torch.as_tensor(Q))
        cov = 1 / (1 / variance + precision)
        return Law(cov * (mean / variance + information), cov.sqrt())

    def begin(self, batch_shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(*batch_shape, 1, dtype=torch.float64)

    def carry(self, carried: Tensor, x: Tensor) -> Tensor:
        return carried + 1

    def glimpse(self, carried: Tensor, x: Tensor) -> Tensor:
        precision = torch.as_tensor((C**2).sum(0) / R).expand(*x.shape[:-1], 2)
        information = (x - torch.as_tensor(SHIFT)) @ torch.as_tensor(C) / R
        return torch.cat([precision, information, (carried == 1).to(torch.float64)], -1)


def linear(**options) -> DeepMarkov:
    """The same system as a deep Markov model: no gate, constant noise, a head that reads the state."""
    model = DeepMarkov(2, 3, head=ps.heads.Gaussian(), emission_layers=(), dtype=torch.float64, seed=0, **options)
    with torch.no_grad():
        for part in (model.transition.gate, model.transition.spread):
            part.weights.zero_()
        model.transition.gate.bias.fill_(-1e3)  # sigmoid(-1000) is 0
        model.transition.linear.weights.copy_(torch.diag(torch.as_tensor(A)))
        model.transition.linear.bias.copy_(torch.as_tensor(OFFSET))
        model.transition.spread.bias.copy_(raw(np.sqrt(Q), FLOOR))
        model.initial_mean.copy_(torch.as_tensor(START))
        model.initial_log_scale.copy_(torch.as_tensor(np.log(START_VARIANCE) / 2))
        model.head.weights.zero_()
        model.head.weights[:3] = torch.as_tensor(C)
        model.head.bias.copy_(torch.cat([torch.as_tensor(SHIFT), raw(np.full(3, math.sqrt(R)), 1e-4)]))
    return model


def exact(**options) -> DeepMarkov:
    model = linear(**options)
    model.guide = Exact()
    return model


def data() -> tuple[Tensor, Tensor]:
    """Ragged data of the system and its exact log-likelihoods."""
    y = kalman().sample(9, (3,), seed=4)
    return y, kalman().log_prob(y, lengths=LENGTHS).detach()


def test_every_weight_of_the_exact_guide_is_the_likelihood():
    y, truth = data()
    flat = exact()._door(y, None, LENGTHS).flat()
    runs = exact()._repeated(flat, "importance", 50, seed=1)
    torch.testing.assert_close(runs, truth.expand(50, 3), rtol=1e-10, atol=1e-10)
    found = exact().estimate_log_prob(y, lengths=LENGTHS, kind="importance", n_samples=4, seed=2)
    assert found.kind == "importance"
    torch.testing.assert_close(found.value, truth, rtol=1e-10, atol=1e-10)
    assert float(found.standard_error.max()) < 1e-9


def test_the_exact_guides_bound_has_no_gap():
    y, truth = data()
    found = exact().estimate_log_prob(y, lengths=LENGTHS, kind="bound", n_samples=4000, seed=3)
    assert found.kind == "bound"
    assert bool(((found.value - truth).abs() < 4 * found.standard_error).all())
    assert float(found.standard_error.max()) < 0.05


def test_a_wrong_guide_lies_below():
    """Jensen: the bound is lower by the divergence of the guide, and importance weights win some of that back."""
    y, truth = data()
    model = linear(guide_size=3)
    bound = model.estimate_log_prob(y, lengths=LENGTHS, kind="bound", n_samples=1000, seed=3)
    assert bool((bound.value < truth - 5 * bound.standard_error).all())
    few, many = (
        model._repeated(model._door(y, None, LENGTHS).flat(), "importance", 4000, seed=5).unflatten(0, (-1, k))
        for k in (1, 40)
    )
    gaps = [float((runs.logsumexp(1) - math.log(runs.shape[1]) - truth).mean()) for runs in (few, many)]
    assert gaps[0] < gaps[1] < 0


def test_particles_with_the_exact_guide_agree_with_the_kalman_filter():
    y, truth = data()
    for proposal, n in (("guide", 200), ("transition", 1000)):
        model = exact(n_particles=n, proposal=proposal)
        found = model.estimate_log_prob(y, lengths=LENGTHS, kind="particle", n_samples=30, seed=1)
        assert bool(((found.value - truth).abs() <= 4 * found.standard_error + 1e-9).all())
        assert float(found.standard_error.max()) < 0.1
    guided = exact(n_particles=5).log_prob(y[:, :1])  # p(z_0 | y_0) is the proposal: no particle differs
    torch.testing.assert_close(guided, kalman().log_prob(y[:, :1]).detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("proposal", "theirs"), [("transition", "bootstrap"), ("guide", "guided")])
def test_the_filter_is_the_particle_filter_of_the_linear_system(proposal, theirs):
    """The same random numbers, so the same clouds; the exact glimpse is the locally optimal proposal."""
    y, _ = data()
    mine = exact(proposal=proposal, n_particles=40)
    judge = ps.ParticleFilter(kalman(), 40, proposal=theirs, seed=0)
    torch.testing.assert_close(mine.log_prob(y), judge.log_prob(y), rtol=1e-9, atol=1e-9)
    found, truth = mine.filter(y).updated, judge.filter(y).updated
    torch.testing.assert_close(found.log_weights, truth.log_weights, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.values[..., :2], truth.values, rtol=1e-8, atol=1e-8)


def test_a_gap_is_integrated_out():
    y, _ = data()
    y[0, 3], y[1, 0, 1], y[2, 4, 0] = torch.nan, torch.nan, torch.nan
    truth = kalman().log_prob(y).detach()
    model = linear(proposal="transition", n_particles=1000)
    found = model.estimate_log_prob(y, kind="particle", n_samples=20, seed=1)
    assert bool(((found.value - truth).abs() < 4 * found.standard_error).all())
    assert float(found.standard_error.max()) < 0.15


def test_forecast_and_sample_have_the_systems_moments():
    y, _ = data()
    model, truth = exact(n_particles=4000), kalman().forecast(y, 3)
    mine = model.forecast(y, 3, n_samples=1000, seed=0)
    spread = truth.distribution.variance.sqrt()
    assert bool(((mine.mean - truth.mean).abs() < 0.08 * spread).all())
    assert bool(((mine.samples.mean(0) - truth.mean).abs() < 0.2 * spread).all())
    drawn = exact(n_particles=2).sample(4, (20_000,), seed=1)
    joint = reference.joint_of_lds(kalman(), 4, None)
    mean, cov = joint.mean[8:], joint.cov[8:, 8:]  # after four states of two
    size, flat = np.sqrt(np.diag(cov)), drawn.reshape(20_000, -1).numpy()
    assert (abs(flat.mean(0) - mean) < 5 * size / math.sqrt(20_000)).all()
    assert (abs(np.cov(flat.T) - cov) < 0.06 * np.outer(size, size)).all()


def test_smoothing_with_the_exact_guide_is_the_smoother():
    y, _ = data()
    truth, cloud = kalman().smooth(y), exact(n_particles=2000).smooth(y)
    torch.testing.assert_close(cloud.log_weights, torch.full((3, 9, 2000), -math.log(2000)).double())
    assert bool(((cloud.mean - truth.mean).abs() < 5 * truth.std / math.sqrt(2000)).all())
    size = truth.std.unsqueeze(-1) * truth.std.unsqueeze(-2)
    assert bool(((cloud.cov - truth.cov).abs() < 8 * size / math.sqrt(2000)).all())


def test_a_wrong_guide_is_weighed():
    """Many paths from an untrained, wide guide, weighed by p(z, y) / q(z | y), have the smoother's mean."""
    y = data()[0][:, :2]
    model, truth = linear(guide_size=3, n_particles=20_000), kalman().smooth(y)
    with torch.no_grad():
        model.guide.out.out.bias[2:] = 2.0
    cloud = model.smooth(y)
    assert float(cloud.effective_size.min()) > 20
    error = (cloud.log_weights.exp().square().unsqueeze(-1) * (cloud.values - truth.mean.unsqueeze(-2)) ** 2).sum(-2)
    assert bool(((cloud.mean - truth.mean).abs() < 4 * error.sqrt()).all())
    assert float(error.sqrt().max()) < 0.15


def test_drawn_paths_are_joint_and_scored():
    y, truth = data()[0], kalman()
    paths = exact(n_particles=2).sample_states(y[0], 3000, seed=1)
    joint = reference.joint_of_lds(truth, 9, None).condition(y[0].numpy())
    size = np.sqrt(np.diag(joint.joint_cov))
    assert (abs(np.cov(paths.reshape(3000, -1).numpy().T) - joint.joint_cov) < 0.15 * np.outer(size, size)).all()
    states = paths[:3]
    expected = truth.path_log_prob(states, y, lengths=LENGTHS).detach()
    found = linear().path_log_prob(states, y, lengths=LENGTHS).detach()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_ragged_lists_smooth_and_draw():
    parts = [data()[0][0], data()[0][1, :4], data()[0][2, :0]]
    model = linear(n_particles=5)
    assert [cloud.values.shape for cloud in model.smooth(parts)] == [(9, 5, 2), (4, 5, 2), (0, 5, 2)]
    assert [path.shape for path in model.sample_states(parts, 4, seed=0)] == [(4, 9, 2), (4, 4, 2), (4, 0, 2)]
    assert model.smooth(parts[2]).values.shape == (0, 5, 2)
    assert model.decode(parts[0]).shape == (9, 2)


def test_the_gradient_of_the_exact_bound_is_the_score():
    """With the posterior as guide, the mean gradient of the ELBO in the model is that of log p(y)."""
    y, _ = data()
    model, judge = exact(), kalman()
    flat = model._door(y).flat()
    rows = flat.select(torch.arange(3).repeat(2000))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        said, price = model._terms(rows)
    (found,) = torch.autograd.grad((said - price).sum() / 2000, model.initial_mean)
    (truth,) = torch.autograd.grad(judge.log_prob(y).sum(), judge._parameters["raw_initial_mean"])
    torch.testing.assert_close(found, truth, rtol=0, atol=0.2)


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("n_flows", [0, 2])
def test_importance_weights_are_unbiased_whatever_the_guide(guide, n_flows):
    y, _ = data()
    model = linear(guide=guide, n_flows=n_flows, guide_size=3)
    with torch.no_grad():  # a wide guide: weights of finite variance
        model.guide.out.out.bias[2:] = 2.0
    runs = model._repeated(model._door(y[:, :2]).flat(), "importance", 20_000, seed=0)
    ratio = (runs - kalman().log_prob(y[:, :2]).detach()).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert bool(((ratio.mean(0) - 1).abs() < 4 * error).all())
    assert float(error.max()) < 0.3


def test_flows_know_their_jacobian():
    model = DeepMarkov(3, 1, head=ps.heads.Gaussian(), n_flows=2, dtype=torch.float64, seed=1)
    point = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    _, stretch = model.guide.bend(point)
    jacobian = torch.autograd.functional.jacobian(lambda x: model.guide.bend(x)[0], point)
    assert stretch is not None
    torch.testing.assert_close(stretch, torch.linalg.slogdet(jacobian)[1], rtol=1e-10, atol=1e-10)
    assert float(stretch.detach().abs()) > 1e-3


def small(**options) -> DeepMarkov:
    sizes = {"transition_size": 8, "emission_layers": (8,), "guide_size": 8, "kl_warmup": 20, "seed": 0}
    return DeepMarkov(2, 3, head=ps.heads.Gaussian(), **(sizes | options))


def test_a_fit_climbs_to_the_likelihood_of_the_system():
    y = kalman().sample(20, (60,), seed=1)
    model = small().fit(y, max_iterations=40, learning_rate=2e-2, batch_size=20, seed=0)
    fresh = kalman().sample(20, (40,), seed=2)
    bound = float(model.estimate_log_prob(fresh, kind="bound", n_samples=20, seed=0).value.mean()) / 20
    static = ps.LDS(state_dim=1, obs_dim=3).fit(y.reshape(-1, 1, 3)).score(fresh.reshape(-1, 1, 3))
    truth = kalman().score(fresh)
    assert static < bound < truth
    assert (truth - bound) < 0.6 * (truth - static)
    assert model.history.validation[-1] > model.history.validation[0]


def test_warm_up_weighs_the_divergence():
    """The KL counts 1/20, 2/20, ... in the first updates, wholly after 20, and always outside of training."""
    model, y = small(), data()[0]
    flat = model._door(y).flat()
    model.train()
    seen = []
    for _ in range(25):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            seen.append(float(model._objective(flat).sum().detach()))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        said, price = (float(part.sum().detach()) for part in model._terms(flat))
    expected = [said - min(1.0, k / 20) * price for k in range(1, 26)]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_a_new_process_reads_the_file(tmp_path):
    small().save(tmp_path / "deep")
    program = f"import probseq as ps; print(float(ps.load({str(tmp_path / 'deep')!r}).log_prob([[[0.1, 0.2, 0.3]]])))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) == float(small().log_prob([[[0.1, 0.2, 0.3]]]))


def test_files_keep_everything(tmp_path):
    y, _ = data()
    model = small(n_flows=1).fit(y, max_iterations=2, seed=0, validation=False)
    model.save(tmp_path / "deep")
    again = ps.load(tmp_path / "deep")
    assert torch.equal(model.log_prob(y), again.log_prob(y))
    one, two = (m.estimate_log_prob(y, n_samples=3, seed=1).value for m in (model, again))
    assert torch.equal(one, two)
    assert int(again.n_updates) == int(model.n_updates) >= 1


def test_a_checkpoint_goes_on_to_the_same_end(tmp_path):
    y = kalman().sample(6, (12,), seed=1)
    whole = small().fit(y, max_iterations=4, seed=0, checkpoint=tmp_path / "a")
    plain = small().fit(y, max_iterations=4, seed=0)
    assert whole.history.validation == plain.history.validation
    assert torch.equal(whole.log_prob(y), plain.log_prob(y))


def test_the_global_generator_stays_where_it_was():
    before = torch.get_rng_state()
    model, y = small(n_flows=1), data()[0]
    model.fit(y, max_iterations=1, seed=0)
    model.estimate_log_prob(y, seed=0)
    model.sample(3, seed=0)
    model.log_prob(y)
    assert torch.equal(torch.get_rng_state(), before)
    twice = [model.estimate_log_prob(y, kind=kind, n_samples=2, seed=3).value for kind in ("bound", "bound")]
    assert torch.equal(*twice)


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="kind must be one of"):
        small().estimate_log_prob(data()[0], kind="exact")
    with pytest.raises(ValueError, match="guide must be one of"):
        small(guide="right")
    with pytest.raises(ValueError, match="proposal must be"):
        small(proposal="prior")
    with pytest.raises(ValueError, match="n_flows needs state_dim 2"):
        DeepMarkov(1, 1, head=ps.heads.Gaussian(), n_flows=1)
    with pytest.raises(TypeError, match="head must be a Head"):
        DeepMarkov(1, 1, head="gaussian")
    with pytest.raises(ValueError, match="must not be 'lbfgs'"):
        small().fit(data()[0], optimizer="lbfgs")
