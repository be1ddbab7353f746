"""Linear dynamical systems: construction, learning, inputs, missing coordinates in EM."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.errors import ConvergenceWarning, NotFitted

MATRICES = {
    "transition_matrix": [[0.9, 0.2], [-0.1, 0.8]],
    "transition_cov": [[0.2, 0.05], [0.05, 0.1]],
    "emission_matrix": [[1.0, 0.0], [0.5, 1.0], [0.0, -1.0]],
    "emission_cov": [[0.3, 0.1, 0.0], [0.1, 0.4, 0.05], [0.0, 0.05, 0.2]],
    "initial_mean": [1.0, -1.0],
    "initial_cov": [[1.0, 0.0], [0.0, 2.0]],
}


def system(**more) -> ps.LDS:
    return ps.LDS(**{**MATRICES, **more})


def with_gaps(y: torch.Tensor, share: float = 0.2, seed: int = 0) -> np.ndarray:
    holes = np.random.default_rng(seed).random(y.shape) < share
    return np.where(holes, np.nan, y.numpy())


@pytest.mark.parametrize("gaps", [False, True])
def test_em_step_is_the_maximum_of_its_own_bound(gaps):
    """One EM step equals the numerical maximum of E[log p(z, y)] under the old posterior, block by block."""
    model = system()
    y = model.sample(60, seed=0)
    data = with_gaps(y) if gaps else y.numpy()
    old = model.log_prob(data).item()
    draws = model.sample_states(data, 400, seed=1)
    model._em_step(model._door(data).flat())
    assert model.log_prob(data).item() > old
    values = torch.as_tensor(np.nan_to_num(data))
    seen = torch.as_tensor(~np.isnan(data))
    names = [n for n, p in model.named_parameters() if p.requires_grad and p.numel() and "initial" not in n]

    def bound() -> torch.Tensor:
        sequences = model._door(values.where(seen, torch.nan).expand(400, 60, 3))
        return model._path_log_prob(draws, sequences).mean()

    gradients = torch.autograd.grad(bound(), [p for n, p in model.named_parameters() if n in names])
    noise = 60 * 0.5  # what 400 Monte Carlo paths leave of an exact zero
    for name, gradient in zip(names, gradients, strict=True):
        assert gradient.abs().max() < noise, name


def test_many_sequences_learn_the_start():
    truth = system()
    y = list(truth.sample(12, (200,), seed=3))
    model = system(initial_mean=[0.0, 0.0], initial_cov=np.eye(2))
    model.fit(y, max_iterations=100, tolerance=1e-4)
    assert (model.initial_mean - truth.initial_mean).abs().max() < 0.5
    assert model.log_prob(y).sum() > truth.log_prob(y).sum()


def test_one_sequence_does_not_shrink_the_start():
    model = system()
    with pytest.warns(ConvergenceWarning):
        model.fit(model.sample(40, seed=0), max_iterations=5)
    torch.testing.assert_close(model.initial_cov, torch.tensor(MATRICES["initial_cov"], dtype=torch.float64))


@pytest.mark.parametrize("method", ["em", "gradient"])
def test_input_matrices_are_learned(method):
    truth = system(
        transition_input_matrix=[[1.0], [-0.5]],
        emission_input_matrix=[[0.0], [2.0], [0.3]],
        emission_offset=[5.0, 0, 0],
    )
    u = np.random.default_rng(0).normal(size=(400, 1))
    y = truth.sample(400, u=u, seed=1)
    model = system(
        transition_input_matrix=np.zeros((2, 1)), emission_input_matrix=np.zeros((3, 1)), emission_offset=np.zeros(3)
    )
    held = {"transition_matrix", "emission_matrix"}
    model.fit(y, u, method=method, fixed=held, max_iterations=300, tolerance=1e-5)
    assert (model.transition_input_matrix - truth.transition_input_matrix).abs().max() < 0.15
    assert (model.emission_input_matrix - truth.emission_input_matrix).abs().max() < 0.15
    assert (model.emission_offset - truth.emission_offset).abs().max() < 0.5


def test_a_model_from_sizes_beats_the_iid_baseline():
    y = ps.datasets.sunspots()
    model = ps.LDS(2, 1)
    with pytest.raises(NotFitted, match=r"LDS\.\w+ has no value yet"):
        model.log_prob(y)
    model.fit(y, seed=0, tolerance=1e-4)
    iid = -0.5 * np.log(2 * np.pi * np.var(y)) - 0.5
    assert model.score(y) > iid + 0.5


def test_decoding_is_the_smoothed_mean():
    model = system()
    y = model.sample(10, seed=0)
    assert torch.equal(model.decode(y), model.smooth(y).mean)


def test_paths_without_a_density_are_refused():
    model = system(transition_cov=np.zeros((2, 2)))
    y = model.sample(4, seed=0)
    with pytest.raises(ValueError, match="transition_cov is singular, so state paths have no density"):
        model.path_log_prob(model.decode(y), y)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"state_dim": 0, "obs_dim": 1}, "state_dim must be a positive integer, got 0"),
        ({"obs_dim": 1}, "state_dim must be given"),
        ({"state_dim": 1}, "obs_dim must be given"),
        ({**MATRICES, "emission_matrix": [[1.0], [1.0], [1.0]]}, r"emission_matrix must have shape \(3, 2\)"),
        ({**MATRICES, "initial_mean": [0.0]}, r"initial_mean must have shape \(2,\), got \(1,\)"),
        ({**MATRICES, "transition_cov": [[1.0, 2.0], [2.0, 1.0]]}, "transition_cov must be positive semidefinite"),
        ({**MATRICES, "transition_cov": [[1.0, 0.2], [0.0, 1.0]]}, "transition_cov must be .* not symmetric"),
        ({**MATRICES, "emission_cov": -np.eye(3)}, "emission_cov must be .* smallest eigenvalue -1"),
        ({**MATRICES, "transition_matrix": [[np.nan, 0], [0, 1]]}, "transition_matrix must be finite"),
    ],
)
def test_bad_arguments_are_named(keywords, words):
    with pytest.raises(ValueError, match=words):
        ps.LDS(**keywords)


def test_a_time_axis_of_equal_entries_changes_nothing():
    """Each parameter by itself, whatever its shape could also mean: here the time axis is as long as the state."""
    names = ("transition_matrix", "transition_cov", "emission_matrix", "emission_cov")
    offsets = {"transition_offset": [0.1, 0.2], "emission_offset": [1.0, 2.0, 3.0]}
    plain = system(**offsets)
    y = plain.sample(2, (3,), seed=0)
    for name in (*names, *offsets):
        values = torch.as_tensor({**MATRICES, **offsets}[name], dtype=torch.float64)
        varying = system(**{**offsets, name: values.expand(2, *values.shape)})
        assert varying.varying == {name: 2}
        torch.testing.assert_close(varying.log_prob(y), plain.log_prob(y), rtol=1e-12, atol=0)
        torch.testing.assert_close(varying.smooth(y).cov, plain.smooth(y).cov, rtol=1e-11, atol=1e-13)
        for call in (lambda m=varying: m.forecast(y, 1), lambda m=varying: m.log_prob(m.sample(3, seed=0))):
            with pytest.raises(ValueError, match=f"{name} is given for 2 steps.*step 2 is asked for"):
                call()


def test_future_matrices_serve_the_forecast():
    rows = torch.as_tensor(np.random.default_rng(0).normal(size=(8, 3, 2)))
    model, y = system(emission_matrix=rows), np.random.default_rng(1).normal(size=(5, 3))
    ahead = model.forecast(y, 3)
    gap = np.concatenate([y, np.full((3, 3), np.nan)])
    expected = (rows[5:] @ model.smooth(gap).mean[5:].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(ahead.mean, expected, rtol=1e-11, atol=1e-12)
    begun = model.filter(y[:2])
    resumed = model.filter(y[2:], initial=model.predict(ps.at(begun.updated, -1)))
    torch.testing.assert_close(resumed.log_prob, model.filter(y).log_prob[2:])
    assert resumed.predicted.step.tolist() == [2, 3, 4]
    model.fit(y, max_iterations=2, fixed={"initial_mean", "initial_cov"}, tolerance=10.0)
    assert model.history.method == "gradient"
    assert torch.equal(model.emission_matrix, rows)


def test_what_varies_has_no_stationary_start():
    parts = {name: value for name, value in MATRICES.items() if not name.startswith("initial")}
    parts["transition_cov"] = np.stack([np.eye(2)] * 4)
    with pytest.raises(ValueError, match=r"stationary.*does not vary"):
        ps.LDS(**parts, initial="stationary").log_prob(np.zeros((4, 3)))


def test_unknown_arguments_are_a_type_error():
    with pytest.raises(TypeError, match="unknown arguments"):
        system(state_cov=np.eye(2))
