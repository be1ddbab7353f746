"""Labelling whole sequences: both directions by hand, ragged batches, both kinds of target, real speakers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import probseq as ps
from probseq.cells import GRU, LSTM, Bidirectional, Elman

DATA = os.environ.get("PROBSEQ_DATA")


def labeller(per: str = "step", both: bool = True, seed: int = 0) -> ps.Labeller:
    reader = Bidirectional(GRU(3), LSTM(2, peepholes=True)) if both else GRU(3)
    made = ps.Labeller(4, input_dim=2, reader=reader, per=per, dtype=torch.float64, seed=seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.7 * torch.randn(p.shape, generator=draws, dtype=torch.float64))
        made.input_shift.copy_(torch.tensor([0.3, -1.0]))
        made.input_scale.copy_(torch.tensor([2.0, 0.5]))
    return made


def random_inputs(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(n, 2)) for n in lengths]


def by_hand(model: ps.Labeller, u: np.ndarray) -> torch.Tensor:
    """log p(label) at every step, or of the whole, from the two cells' steps."""
    x = (torch.as_tensor(u) - model.input_shift) / model.input_scale
    runs = []
    reader = model.reader
    cells = [(reader.ahead, False), (reader.back, True)] if isinstance(reader, Bidirectional) else [(reader, False)]
    for cell, turned in cells:
        state, shown = cell.initial_state(), []
        for step in x.flip(0) if turned else x:
            state = cell.step(step, state)
            shown.append(cell.output(state))
        runs.append(torch.stack(shown[::-1] if turned else shown) if model.per == "step" else shown[-1])
    return torch.log_softmax(torch.cat(runs, -1) @ model.head.weights.T + model.head.bias, -1)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("per", ["step", "sequence"])
def test_probabilities_are_those_of_the_cells_run_by_hand(per, both):
    model, inputs = labeller(per, both), random_inputs(5, 1, 8)
    with torch.no_grad():
        expected = [by_hand(model, u) for u in inputs]
    found, best = model.probs(inputs), model.decode(inputs)
    rng = np.random.default_rng(3)
    labels = [rng.integers(0, 4, size=len(u)) if per == "step" else int(rng.integers(4)) for u in inputs]
    scores = model.log_prob(labels, inputs)
    for i, table in enumerate(expected):
        torch.testing.assert_close(found[i], table.exp(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(best[i], table.argmax(-1))
        chosen = table.gather(-1, torch.as_tensor(labels[i]).long().unsqueeze(-1)).sum()
        torch.testing.assert_close(scores[i], chosen, rtol=1e-10, atol=1e-12)
        alone = model.log_prob(labels[i], inputs[i])
        assert alone.shape == ()
        torch.testing.assert_close(alone, chosen, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("per", ["step", "sequence"])
def test_padding_does_not_matter(per):
    model, inputs = labeller(per), random_inputs(6, 3)
    lengths = [6, 3]
    padded = np.full((2, 6, 2), 1e6)
    for row, u in zip(padded, inputs, strict=True):
        row[: len(u)] = u
    labels = [1, 2] if per == "sequence" else [np.arange(6) % 4, np.arange(3)]
    given = labels if per == "sequence" else np.stack([labels[0], np.r_[labels[1], 0, 0, 0]])[..., None]
    torch.testing.assert_close(model.log_prob(given, padded, lengths=lengths), model.log_prob(labels, inputs))
    decoded, own = model.decode(padded, lengths=lengths), model.decode(inputs)
    for row, alone, n in zip(decoded, own, lengths, strict=True):
        assert torch.equal(row if per == "sequence" else row[:n], alone)


def test_probabilities_sum_to_one_and_missing_labels_add_nothing():
    model, (u,) = labeller(), random_inputs(3)
    total = sum(model.log_prob([a, b, c], u).exp() for a in range(4) for b in range(4) for c in range(4))
    assert total.item() == pytest.approx(1, rel=1e-10)
    part = model.log_prob([1.0, np.nan, 2.0], u)
    table = by_hand(model, u)
    assert part.item() == pytest.approx((table[0, 1] + table[2, 2]).item(), rel=1e-10)


@pytest.mark.parametrize("per", ["step", "sequence"])
def test_gradients(per):
    model, inputs = labeller(per), random_inputs(3, 2)
    labels = [np.array([0, 1, 2]), np.array([3, 0])] if per == "step" else [2, 1]
    named = dict(model.named_parameters())

    def run(*values: torch.Tensor) -> torch.Tensor:
        sequences = model._door(labels, inputs)
        return torch.func.functional_call(
            _Scored(model), {f"model.{n}": v for n, v in zip(named, values, strict=True)}, (sequences,)
        )

    assert torch.autograd.gradcheck(run, tuple(p.detach().clone().requires_grad_() for p in named.values()))


class _Scored(torch.nn.Module):
    def __init__(self, model: ps.Labeller) -> None:
        super().__init__()
        self.model = model

    def forward(self, sequences: ps.Sequences) -> torch.Tensor:
        return self.model._log_prob(sequences)


def test_the_future_matters_and_is_learned():
    """The label is the sign of the next input: nothing that reads forward alone can know it."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=(60, 12, 1))
    labels = np.concatenate([u[:, 1:, 0] > 0, np.zeros((60, 1), bool)], 1).astype(float)[..., None]
    both = ps.Labeller(2, input_dim=1, reader=Bidirectional(Elman(6), Elman(6)), seed=0)
    ahead = ps.Labeller(2, input_dim=1, reader=Elman(6), seed=0)
    options = {"seed": 0, "max_iterations": 150, "learning_rate": 3e-2}
    both.fit(labels, u, **options)
    ahead.fit(labels, u, **options)
    right = [(m.decode(u)[:, :-1] == torch.as_tensor(labels)[:, :-1, 0]).double().mean().item() for m in (both, ahead)]
    assert right[0] > 0.97
    assert right[1] < 0.65
    assert both.history.reason
    assert not both.training


def test_a_fit_takes_validation_pairs_restarts_and_held_parameters():
    rng = np.random.default_rng(0)
    u = [rng.normal(size=(n, 2)) + k for k, n in enumerate([4, 6, 5, 7])]
    model = labeller("sequence")
    kept = model.head.bias.clone()
    model.fit([0, 1, 2, 3], u, seed=0, n_restarts=2, max_iterations=4, validation=([1, 2], u[1:3]), fixed={"head.bias"})
    assert len(model.history.restarts) == 2
    assert len(model.history.validation) == 5
    assert torch.equal(model.head.bias, kept)


@pytest.mark.parametrize("both", [False, True])
def test_files(tmp_path, both):
    model, inputs = labeller("sequence", both), random_inputs(4, 5)
    model.save(tmp_path / "labeller")
    again = ps.load(tmp_path / "labeller")
    assert torch.equal(again.log_prob([0, 3], inputs), model.log_prob([0, 3], inputs))


def test_no_filter():
    with pytest.raises(TypeError, match="has no filter"):
        labeller().filter(np.ones((3, 2)))
    with pytest.raises(TypeError, match="use it in a Labeller"):
        ps.RNN(cell=Bidirectional(GRU(2), GRU(2)), head=ps.heads.Gaussian())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ps.Labeller(2, input_dim=1, reader=torch.nn.GRU(1, 2)), TypeError, "reader must be"),
        (lambda: ps.Labeller(2, input_dim=1, reader=GRU(2), per="word"), ValueError, "per must be"),
        (lambda: labeller().log_prob([0, 4], np.ones((2, 2))), ValueError, "labels must be integers 0..3, got 4"),
        (lambda: labeller().log_prob([0, 1], np.ones((2, 3))), ValueError, "u must have 2 columns"),
        (lambda: labeller().decode(np.ones((2, 3))), ValueError, "u must have 2 columns"),
        (lambda: labeller().decode(np.array([[1.0, np.nan]])), ValueError, "u must be complete"),
        (lambda: labeller("sequence").log_prob([0], random_inputs(2, 3)), ValueError, "one entry for each sequence"),
        (lambda: labeller("sequence").log_prob(0, np.ones((0, 2))), ValueError, "at least one step"),
        (lambda: Bidirectional(*[GRU(2)] * 2), ValueError, "same one twice"),
    ],
)
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def vowels(part: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Japanese vowels: 12 cepstral coefficients of /ae/ by nine speakers; (T, 12) arrays, speakers 0 .. 8."""
    text = (Path(DATA or "") / f"JapaneseVowels_{part}.ts").read_text()
    rows = [row.split(":") for row in text.partition("@data")[2].split()]
    series = [
        np.array([[float(v) for v in column.split(",") if v not in ("NaN", "?")] for column in row[:-1]]).T
        for row in rows
    ]
    return series, np.array([int(row[-1]) - 1 for row in rows])


@pytest.mark.skipif(DATA is None, reason="needs the Japanese vowels in PROBSEQ_DATA")
def test_speakers_of_japanese_vowels():
    """Kudo, Toyama and Shimbo (1999) report 94.1 % for their method and 96.2 % for a hidden Markov model."""
    (train, speakers), (test, truth) = vowels("TRAIN"), vowels("TEST")
    model = ps.Labeller(9, input_dim=12, reader=Bidirectional(LSTM(16), LSTM(16)), per="sequence", seed=0)
    order = np.random.default_rng(0).permutation(len(train))
    model.fit(speakers[order], [train[i] for i in order], seed=0, max_iterations=60, learning_rate=2e-2, batch_size=27)
    accuracy = float((model.decode(test).numpy() == truth).mean())
    print(f"accuracy {accuracy:.3f}")
    assert accuracy > 0.93
