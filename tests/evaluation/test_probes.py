"""Belief probes: what is there is found, what is not is not, and every column of the table is what it says."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import probseq as ps
from probseq.evaluation import belief_probe, distill
from probseq.evaluation.probes import SOURCES, onto_simplex, untrained

TEACHER = ps.datasets.mess3()


def data(teacher, n: int = 60, length: int = 25) -> tuple[torch.Tensor, torch.Tensor]:
    return teacher.sample(length, (n,), seed=1), teacher.sample(length, (n,), seed=2)


def test_a_filter_written_as_a_network_holds_the_belief_and_a_ridge_finds_it():
    """The steady Kalman network's state is the mean and a constant: a linear map is exact, and its excess 0."""
    teacher = ps.datasets.oscillator()
    teacher.initial_cov = ps.evaluation.steady_gain(teacher)[1]
    student = ps.RNN.from_lds(teacher, steady_state=True)
    probe = belief_probe(student, teacher, *data(teacher), maps=("ridge",))
    rows = probe.table.xs("ridge", level="map")
    assert rows.loc["student", "r2"] == pytest.approx(1.0, abs=1e-9)
    assert rows.loc["student", "kl"] == pytest.approx(0.0, abs=1e-9)
    assert rows.loc["student", "excess"] == pytest.approx(0.0, abs=1e-9)
    assert probe.student_excess == pytest.approx(0.0, abs=1e-12)
    assert rows.loc["lags", "r2"] < 0.9999
    assert rows.loc["shuffled", "r2"] < 0.05
    assert list(probe.table.index.get_level_values("source")) == list(SOURCES)


def test_the_columns_are_what_they_say():
    """R2, KL and excess by hand, from the mapped beliefs that the probe returns."""
    train, test = data(TEACHER)
    student = ps.RNN(cell=ps.cells.GRU(6), head=ps.heads.Categorical(3), seed=0)
    probe = belief_probe(student, TEACHER, train, test)
    filtered = TEACHER.filter(test)
    exact = filtered.predicted.probs.flatten(0, 1).numpy()
    np.testing.assert_allclose(probe.exact, exact)
    emission = TEACHER.emission.probs.detach().numpy()
    symbols = test.flatten().long().numpy()
    for (source, kind), said in probe.mapped.items():
        np.testing.assert_allclose(said.sum(1), 1.0)
        assert said.min() > 0
        row = probe.table.loc[(source, kind)]
        share = 1 - ((exact - said) ** 2).sum() / ((exact - exact.mean(0)) ** 2).sum()
        assert row["r2"] == pytest.approx(share)
        assert row["kl"] == pytest.approx((exact * np.log(exact / said)).sum(1).mean())
        cost = np.log((exact @ emission)[range(len(symbols)), symbols])
        assert row["excess"] == pytest.approx((cost - np.log((said @ emission)[range(len(symbols)), symbols])).mean())


def test_controls_are_fair():
    """An untrained network of the same kind, lags that are what the network read, a map from other moments."""
    student = distill(
        TEACHER, ps.cells.GRU(8), n_sequences=100, length=25, seed=0, max_iterations=8, learning_rate=0.02
    )
    other = untrained(student, 3)
    assert not torch.equal(other.cell.recurrent_weights, student.cell.recurrent_weights)
    assert torch.equal(untrained(student, 3).cell.recurrent_weights, other.cell.recurrent_weights)
    train, test = data(TEACHER)
    probe = belief_probe(student, TEACHER, train, test, n_lags=1, maps=("ridge",))
    rows = probe.table.xs("ridge", level="map")
    previous = torch.nn.functional.one_hot(torch.cat([train, test]).long().squeeze(-1), 3).numpy()
    read = [np.pad(part, ((0, 0), (1, 0), (0, 0)))[:, :-1].reshape(-1, 3) for part in (previous[:60], previous[60:])]
    design = [np.column_stack([np.ones(len(part)), part]) for part in read]
    target = [TEACHER.filter(y).predicted.probs.flatten(0, 1).numpy() for y in (train, test)]
    said = design[1] @ np.linalg.lstsq(design[0], target[0], rcond=None)[0]
    share = 1 - ((target[1] - said) ** 2).sum() / ((target[1] - target[1].mean(0)) ** 2).sum()
    assert rows.loc["lags", "r2"] == pytest.approx(share, abs=1e-3)
    assert rows.loc["shuffled", "r2"] < 0.02 < rows.loc["lags", "r2"] < rows.loc["student", "r2"]
    assert rows.loc["shuffled", "excess"] > 10 * rows.loc["student", "excess"] > 0


def test_the_nearest_point_of_the_simplex():
    points = np.random.default_rng(0).normal(size=(50, 4))
    nearest = onto_simplex(points)
    np.testing.assert_allclose(nearest.sum(1), 1.0)
    assert nearest.min() >= 0
    inside = np.random.default_rng(1).dirichlet(np.ones(4), size=400)
    away = ((points[:, None] - inside) ** 2).sum(-1).min(1)
    assert (((points - nearest) ** 2).sum(-1) <= away + 1e-12).all()
    np.testing.assert_allclose(onto_simplex(inside), inside, atol=1e-12)


def test_ragged_data_and_gaps():
    student = ps.RNN(cell=ps.cells.GRU(4), head=ps.heads.Categorical(3), seed=0)
    train = [TEACHER.sample(n, seed=n) for n in (30, 50, 70)]
    train[1][10:20] = torch.nan
    probe = belief_probe(student, TEACHER, train, train, maps=("ridge",))
    assert len(probe.exact) == 30 + 40 + 70
    few = belief_probe(student, TEACHER, train, train, maps=("ridge",), max_rows=50)
    assert len(few.exact) == 50


def test_what_cannot_be_probed_is_refused():
    train, test = data(TEACHER, 2, 5)
    student = ps.RNN(cell=ps.cells.GRU(4), head=ps.heads.Categorical(3), seed=0)
    with pytest.raises(TypeError, match=r"student must be a probseq\.RNN"):
        belief_probe(TEACHER, TEACHER, train, test)
    with pytest.raises(TypeError, match="exact belief"):
        belief_probe(student, student, train, test)
    with pytest.raises(ValueError, match="maps must be among"):
        belief_probe(student, TEACHER, train, test, maps=("forest",))


def test_pictures():
    student = ps.RNN(cell=ps.cells.GRU(4), head=ps.heads.Categorical(3), seed=0)
    probe = belief_probe(student, TEACHER, *data(TEACHER, 10, 10), maps=("ridge",))
    points = [part for part in probe.plot().collections if len(part.get_offsets())]
    assert [len(part.get_offsets()) for part in points] == [100, 100]
    np.testing.assert_allclose(points[0].get_offsets()[:, 1], probe.exact[:, 2] * np.sqrt(3) / 2)
    with pytest.raises(ValueError, match="source and map"):
        probe.plot(source="nobody")
    level = ps.datasets.oscillator()
    student = ps.RNN(cell=ps.cells.GRU(4), head=ps.heads.Gaussian(), seed=0)
    axes = belief_probe(student, level, *data(level, 10, 10), maps=("ridge",)).plot(source="lags")
    assert len(axes.lines) == 3
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [ps.datasets.mess3(), ps.datasets.oscillator()], ids=["mess3", "oscillator"])
def test_a_gru_finds_the_exact_belief(teacher):
    """1,500 updates of 64 sequences of 64 steps; half a minute of training each."""
    options = {"n_sequences": 12000, "length": 64, "max_iterations": 8, "learning_rate": 5e-3, "schedule": "linear"}
    student = distill(teacher, ps.cells.GRU(64), seed=0, **options)
    train, test = teacher.sample(64, (400,), seed=10), teacher.sample(64, (2000,), seed=11)
    probe = belief_probe(student, teacher, train, test)
    print(f"\n{probe}\nexact {teacher.score(test):.4f}, network {student.score(test):.4f} nats a step")
    assert probe.student_excess < 0.002
    assert probe.table.loc[("student", "ridge"), "r2"] >= 0.999
    assert (
        probe.table.loc[("shuffled", "ridge"), "r2"] < 0.1
    )  # a map of noise: of either sign, about sqrt(units / rows)
