"""Recurrent networks: whole sequences against the four steps, missing values, inputs, targets at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.randomness import spawn

CELLS = {"elman": ps.cells.Elman, "gru": ps.cells.GRU, "lstm": ps.cells.LSTM}


def network(cell: str = "gru", **keywords) -> ps.RNN:
    keywords = {"head": ps.heads.Gaussian(), "dtype": torch.float64, "seed": 0, **keywords}
    made = ps.RNN(cell=CELLS[cell](5), **keywords)
    with torch.no_grad():
        made.cell.initial_activity.copy_(torch.linspace(-0.5, 0.5, made.cell.state_size))
        made.head.weights.mul_(10)
    return made


@pytest.mark.parametrize("cell", list(CELLS))
def test_the_learned_start_gets_a_gradient(cell):
    model = network(cell)
    model.log_prob([1.0, 2.0, 0.5]).backward()
    assert model.cell.initial_activity.grad.abs().min() > 0


def test_a_gap_is_filled_with_the_expectation():
    model = network()
    y = np.array([0.3, np.nan, -1.0, 0.7])
    predicted = model.filter(y[:2]).predicted
    expected = model.emit(ps.at(predicted, 1)).mean.item()
    filled = np.array([0.3, expected, -1.0, 0.7])
    full = model.filter(filled).log_prob
    assert model.log_prob(y).item() == pytest.approx((full.sum() - full[1]).item(), rel=1e-10)


def test_without_feedback_missing_targets_change_nothing_else():
    model = network(input_dim=2, feedback=False)
    u = np.random.default_rng(0).normal(size=(6, 2))
    y = np.arange(6.0)
    whole = model.filter(y, u).log_prob
    y[:4] = np.nan
    assert model.log_prob(y, u).item() == pytest.approx(whole[4:].sum().item(), rel=1e-10)


@pytest.mark.parametrize("which", ["last steps", "some units", "every step", "final"])
def test_targets_stand_where_they_are_wanted(which):
    """A mask of targets scores exactly those: the others add nothing and have no gradient."""
    model = ps.RNN(2, cell=ps.cells.GRU(4), head=ps.heads.Gaussian(), input_dim=2, feedback=False, dtype=torch.float64)
    draws = np.random.default_rng(0)
    u, y = draws.normal(size=(3, 6, 2)), draws.normal(size=(3, 6, 2))
    wanted = np.zeros((3, 6, 2), bool)
    wanted[
        {"last steps": np.s_[:, 3:], "some units": np.s_[..., :1], "every step": np.s_[:], "final": np.s_[:, -1]}[which]
    ] = True
    said = model.emit(model.filter(np.zeros_like(y), u).predicted).base_dist
    expected = np.where(wanted, said.log_prob(torch.as_tensor(y)).detach().numpy(), 0.0).sum((1, 2))
    np.testing.assert_allclose(model.log_prob(np.where(wanted, y, np.nan), u).detach(), expected, rtol=1e-12)
    targets = torch.tensor(np.where(wanted, y, np.nan), requires_grad=True)
    model.log_prob(targets, u).sum().backward()
    assert np.array_equal(targets.grad.numpy() != 0, wanted)


def test_a_transducer_learns_the_running_parity():
    """Targets at every step, inputs only: a task that needs memory; chance is log 2 = 0.693 nats per step."""
    draws = np.random.default_rng(0)
    u = draws.integers(0, 2, size=(200, 8, 1)).astype(float)
    y = np.cumsum(u, 1) % 2
    model = ps.RNN(cell=ps.cells.Elman(8), head=ps.heads.Bernoulli(), input_dim=1, feedback=False, seed=0)
    model.fit(y, u, n_restarts=3, seed=1, max_iterations=150, learning_rate=2e-2, batch_size=50, validation=0.1)
    assert model.score(y, u) > -0.2


def test_training_beats_the_marginal_and_is_kept_in_eval_mode():
    y = np.sin(0.5 * np.arange(200)) + 0.1 * np.random.default_rng(0).normal(size=200)
    model = ps.RNN(cell=ps.cells.GRU(8), head=ps.heads.Gaussian()).fit(y, seed=0, max_iterations=150)
    marginal = -0.5 * np.log(2 * np.pi * y.var()) - 0.5
    assert model.score(y) > marginal + 0.8
    assert not model.training
    assert model.head.shift.item() == pytest.approx(y.mean())


def test_inputs_are_standardised_from_the_data():
    u = 1e6 + 10 * np.random.default_rng(0).normal(size=(60, 1))
    y = (u[:, 0] - 1e6) / 10
    model = ps.RNN(cell=ps.cells.GRU(6), head=ps.heads.Gaussian(), input_dim=1).fit(y, u, seed=0, max_iterations=200)
    assert model.score(y, u) > -0.5 * np.log(2 * np.pi * y.var()) - 0.5 + 0.5


def test_several_seeds_differ_and_one_seed_repeats():
    y = [0.0, 1.0, 2.0]
    values = [ps.RNN(cell=ps.cells.GRU(4), head=ps.heads.Gaussian(), seed=s).log_prob(y).item() for s in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_networks_have_no_smoother():
    assert not hasattr(network(), "smooth")
    assert not isinstance(network(), ps.LatentStateModel)


@pytest.mark.parametrize(
    ("keywords", "error", "words"),
    [
        ({"cell": "gru", "head": ps.heads.Gaussian()}, TypeError, "cell must be a Cell"),
        ({"cell": ps.cells.GRU(2), "head": ps.heads.Gaussian}, TypeError, "head must be a Head"),
        ({"cell": ps.cells.GRU(2), "head": ps.heads.Gaussian(), "feedback": False}, ValueError, "input_dim must be"),
        ({"cell": ps.cells.GRU(2), "head": ps.heads.Categorical(3), "obs_dim": 2}, ValueError, "obs_dim"),
    ],
)
def test_bad_arguments_are_named(keywords, error, words):
    with pytest.raises(error, match=words):
        ps.RNN(**keywords)


def test_values_outside_the_support_are_named():
    model = ps.RNN(cell=ps.cells.GRU(2), head=ps.heads.Categorical(3))
    with pytest.raises(ValueError, match=r"y must hold .* got 3 at step 1, column 0"):
        model.log_prob([0, 3, 1])


def test_a_start_from_features_writes_one_sequence_for_each():
    """Four pictures, four captions: only u_0 says which, and the network without its own inputs must remember it."""
    captions = np.array([[0, 1, 2, 3, 0, 0], [3, 3, 1, 0, 2, 1], [1, 2, 0, 0, 3, 3], [2, 0, 3, 1, 1, 2]])[..., None]
    y = np.tile(captions, (5, 1, 1)).astype(float)
    u = np.zeros((20, 6, 4))
    u[np.arange(20), 0, np.arange(20) % 4] = 1
    options = {"input_dim": 4, "feedback": False, "start_from_inputs": True}
    model = ps.RNN(cell=ps.cells.GRU(12), head=ps.heads.Categorical(4), seed=0, **options)
    with torch.no_grad():  # the inputs themselves are cut off: all has to come by the start
        model.cell.input_weights.zero_()
    model.started = True
    fixed = {"cell.input_weights"}
    model.fit(y, u, seed=0, max_iterations=250, learning_rate=2e-2, batch_size=10, validation=0.2, fixed=fixed)
    assert model.score(y, u) > -0.1  # chance: -1.39
    assert not model.cell.input_weights.any()


def test_a_start_from_features_is_added_to_the_learned_start():
    model = network(input_dim=2, start_from_inputs=True)
    with torch.no_grad():
        model.start_weights.copy_(torch.arange(10.0).reshape(5, 2) / 10)
    u, y = np.random.default_rng(0).normal(size=(7, 2)), np.random.default_rng(1).normal(size=7)
    plain = network(input_dim=2)
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if n != "start_map.weights"})
    with torch.no_grad():
        plain.cell.initial_activity.add_(model.start_weights @ torch.as_tensor(u[0]))
    assert model.log_prob(y, u).item() == pytest.approx(plain.log_prob(y, u).item(), rel=1e-12)
    model.log_prob(y, u).backward()
    assert model.start_weights.grad.abs().min() > 0
    with pytest.raises(ValueError, match="start_from_inputs=True reads u_0"):
        network(start_from_inputs=True)


def test_long_sequences_are_scored_in_pieces(monkeypatch):
    model = network("lstm")
    y = np.random.default_rng(0).normal(size=(2, 11, 1))
    whole = model.log_prob(y)
    monkeypatch.setattr("probseq.models.rnn.PIECE", 4)
    with torch.no_grad():
        for lengths in ([11, 11], [11, 6]):
            pieces = model.log_prob(y, lengths=lengths)
            one_by_one = [model.log_prob(row[:n]).item() for row, n in zip(y, lengths, strict=True)]
            assert pieces.tolist() == pytest.approx(one_by_one, rel=1e-12)
    assert whole.tolist() == pytest.approx(model.log_prob(y).tolist(), rel=1e-12)


def test_dropout_acts_in_training_alone():
    plain, dropping = network(), network(dropout=0.5)
    y = [0.3, -1.0, 0.7]
    assert dropping.log_prob(y).item() == plain.log_prob(y).item()
    assert dropping.sizes()["dropout"] == 0.5
    dropping.train()
    torch.manual_seed(0)
    assert len({dropping.log_prob(y).item() for _ in range(4)}) > 1
    with pytest.raises(ValueError, match="dropout must be a share"):
        network(dropout=1.0)


def test_chords_are_more_than_their_keys():
    """Two keys that always sound together or not at all: independent keys cannot say so, a mixture can."""
    rng = np.random.default_rng(0)
    y = np.repeat(rng.integers(0, 2, size=(30, 20, 1)), 2, -1).astype(float)
    model = ps.RNN(2, cell=ps.cells.Elman(2), head=ps.heads.MixtureOfBernoullis(2), seed=0)
    model.fit(y, seed=0, max_iterations=60, learning_rate=5e-2)
    assert model.score(y) > -0.75  # log 2 = 0.693; independent keys: 1.386
    ahead = model.forecast(y[0], 2, n_samples=50, seed=0)
    assert ahead.probs.shape == (2, 2)
    torch.testing.assert_close(ahead.probs, ahead.mean)
    assert set(ahead.quantile(0.9).flatten().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", ["gru", "lru", "stack", "clamped", "echo"])
def test_weights_on_symbols_start_larger_as_only_one_of_them_is_on(name: str) -> None:
    makers = {
        "gru": lambda: ps.cells.GRU(4),
        "lru": lambda: ps.cells.LRU(4),
        "stack": lambda: ps.cells.Stack([ps.cells.GRU(4), ps.cells.Elman(3)], skip=True),
        "clamped": lambda: ps.cells.Clamped(ps.cells.GRU(4), units=[1]),
        "echo": lambda: ps.cells.Elman(20, initialization=ps.cells.EchoStateInit()),
    }
    cell, head = makers[name](), ps.heads.Categorical(9)
    model = ps.RNN(cell=cell, head=head, input_dim=2, dtype=torch.float64, seed=0)
    reading = [p for key, p in cell.named_parameters() if key.endswith(("input_weights", "input_matrix"))]
    scaled = [p.detach().clone() for p in reading]
    cell.reset_parameters(spawn(0, 2)[0])
    for before, after in zip(reading, scaled, strict=True):
        gain = 1.0 if name == "echo" else 3.0
        torch.testing.assert_close(after[..., :9], gain * before[..., :9])
        torch.testing.assert_close(after[..., 9:], before[..., 9:])
    twin = ps.RNN(cell=cell, head=ps.heads.Categorical(9), input_dim=2, dtype=torch.float64, seed=0)
    assert all(torch.equal(p, q) for p, q in zip(twin.cell.parameters(), model.cell.parameters(), strict=True))
