"""Lines from networks: the compiled loop against the contract's four steps, the stop rule, bias, priming."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import probseq as ps
from probseq.errors import ProbseqWarning
from probseq.handwriting import Strokes, Written, alignment, load_writer, prediction_network, synthesis_network, write
from probseq.handwriting.train import ALPHABET, hands, lines, random_text
from probseq.handwriting.train import main as train_main
from probseq.randomness import generator

needs_fonts = pytest.mark.skipif("PROBSEQ_DATA" not in os.environ, reason="needs hersheytext.json in PROBSEQ_DATA")


def network(text: bool = True, hidden_sizes: tuple[int, ...] = (6, 5), dtype: torch.dtype = torch.float64) -> ps.RNN:
    """Weights large enough that what was drawn matters, and lifts are no rarity."""
    if text:
        model = synthesis_network("abc ", hidden_sizes, 3, 4, most_characters=12, pace=0.3, dtype=dtype, seed=0)
    else:
        model = prediction_network(hidden_sizes, 4, dtype=dtype, seed=0)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64).to(dtype))
        model.head.shift.copy_(torch.tensor([0.5, -0.25, 0.0]))
        model.head.scale.copy_(torch.tensor([2.0, 3.0, 1.0]))
    return model


def by_the_contract(
    model: Any, text: str | None, n_points: int, bias: float, seed: int, most: int, style: Strokes | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The same line by the four steps; the distribution of every point is torch's, biased and drawn from by hand."""
    draws = generator(seed)
    uniforms = torch.rand(most, 2, generator=draws, dtype=torch.float64)
    normals = torch.randn(most, 2, generator=draws, dtype=torch.float64)
    whole = text if style is None or text is None else f"{style.text} {text}"
    u = None if whole is None else model.cell.inputs_for(whole, 1)[0]
    belief, rows, looks = model.initial_belief((), u), [], []
    for row in [] if style is None else torch.as_tensor(style.to_array()):
        belief = model.predict(model.update(belief, row, None, u)[0], u)
    for t in range(n_points):
        mixture, lift = model.emit(belief, u).parts
        if whole is not None:
            places = torch.arange(1, len(whole) + 2).double()
            looks.append(model.cell.phi(belief.state, places))
        weights = ((1 + bias) * mixture.mixture_distribution.logits).softmax(-1)
        k = int((weights.cumsum(-1) <= uniforms[t, 0]).sum())
        components = mixture.component_distribution
        offset = components.loc[k] + np.exp(-bias) * components.scale_tril[k] @ normals[t]
        lifted = (uniforms[t, 1] < lift.mean[0]).double()
        rows.append(torch.cat([offset, lifted.reshape(1)]))
        belief = model.predict(model.update(belief, rows[-1], None, u)[0], u)
    shown = [look.detach().numpy() for look in looks]
    return torch.stack(rows).detach().numpy(), np.array(shown)


@pytest.mark.parametrize("bias", [0.0, 0.7])
@pytest.mark.parametrize("primed", [False, True])
def test_a_line_is_that_of_the_contract(bias, primed):
    model = network()
    style = Strokes.from_array(np.random.default_rng(0).integers(0, 2, (5, 3)), "ca") if primed else None
    written = write(model, "abacab", bias=bias, style=style, seed=3, most_points=400)
    rows, looks = by_the_contract(model, "abacab", len(written.strokes), bias, 3, 400, style)
    np.testing.assert_allclose(written.strokes.to_array(), rows, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(written.looks, looks[:, 3 * primed :], rtol=1e-10, atol=1e-12)
    assert len(written.strokes) > 3
    np.testing.assert_array_equal(written.strokes.characters, written.looks[:, :6].argmax(1))


def test_a_line_without_a_text_is_that_of_the_contract():
    model = network(text=False)
    written = write(model, most_points=30, seed=5)
    np.testing.assert_allclose(
        written.strokes.to_array(), by_the_contract(model, None, 30, 0.0, 5, 30)[0], rtol=1e-10, atol=1e-10
    )
    assert written.looks.shape == (30, 0)
    assert not written.ended


def test_a_line_ends_with_the_stroke_that_is_drawn_when_the_window_leaves_the_text():
    model = network()
    written = write(model, "abc", seed=0, most_points=500)
    assert written.ended
    assert written.strokes.lifts[-1]
    beyond = (written.looks[:, 3:] > written.looks[:, :3]).all(1)
    first = int(beyond.argmax()) if beyond.any() else len(beyond)
    assert not written.strokes.lifts[max(first, 0) : -1].any()


def test_a_line_that_does_not_end_is_cut_off_with_a_warning():
    with pytest.warns(ProbseqWarning, match="cut off after 4 points"):
        written = write(network(), "abcabc", seed=0, most_points=4)
    assert len(written.strokes) == 4
    assert not written.ended


def test_the_contract_and_the_seed_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    one, other = (write(network(), "abc", seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.strokes.to_array(), other.strokes.to_array())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"text": "xyz"}, ValueError, "x"),
        ({"text": ""}, ValueError, "there are none"),
        ({"text": None}, ValueError, "text must be given"),
        ({"text": "abc", "bias": -1.0}, ValueError, "bias"),
        ({"text": "abc", "most_points": 0}, ValueError, "most_points"),
        ({"text": "abc", "style": Strokes.from_array([[0, 0, 1]])}, ValueError, "style must have a text"),
    ],
)
def test_arguments_are_checked(arguments, kind, message):
    with pytest.raises(kind, match=message):
        write(network(), **arguments)


def test_other_networks_are_refused():
    with pytest.raises(TypeError, match="where a pen goes"):
        write(ps.RNN(cell=ps.cells.GRU(3), head=ps.heads.Gaussian()), most_points=3)
    with pytest.raises(ValueError, match="reads none"):
        write(network(text=False), "abc")
    with pytest.raises(ValueError, match="most_points must be given"):
        write(network(text=False))


# ---- the network that comes with the library


def test_the_weights_are_small_and_load():
    from probseq.handwriting.synthesis import WEIGHTS

    assert WEIGHTS.stat().st_size < 2e6
    assert load_writer().cell.characters == " abcdefghijklmnopqrstuvwxyz.,"


def held_out(n_lines: int) -> list[Strokes]:
    """Lines that it was not trained on, with the truth."""
    return lines(n_lines, seed=2026)


@needs_fonts
def test_it_looks_where_it_writes(capsys):
    """Monotone, and within one character of the truth at nine points out of ten, three fonts.

    On short lines a window that moves on at an even pace is near the truth as well, so being right counts too.
    """
    model, data = load_writer(), held_out(60)
    places = [alignment(model, line)[:, :-1].argmax(1) for line in data]
    even = [np.arange(len(line)) * len(line.text) // len(line) for line in data]
    truth = np.concatenate([line.characters for line in data])
    off, off_even = (np.abs(np.concatenate(found) - truth) for found in (places, even))
    forward = float(np.mean(np.concatenate([np.diff(found) for found in places]) >= 0))
    with capsys.disabled():
        print(
            f"\nwithin one character at {np.mean(off <= 1):.2%} of points (even pace {np.mean(off_even <= 1):.2%}), "
            f"right at {np.mean(off == 0):.1%} (even pace {np.mean(off_even == 0):.1%}); never back at {forward:.2%}"
        )
    assert np.mean(off <= 1) > 0.9
    assert np.mean(off == 0) > np.mean(off_even == 0) + 0.2
    assert forward > 0.99


@needs_fonts
def test_kappa_never_goes_back():
    model, (line, *_) = load_writer(), held_out(1)
    states = model.filter(line.to_array(), model.cell.inputs_for(line.text, len(line))).predicted.state
    kappa: Tensor = model.cell._parts(states)[2]
    assert bool((kappa.diff(dim=0) >= 0).all())


@needs_fonts
def test_it_stops_where_the_line_ends(capsys):
    """Whole lines in the hand of each writer: within a tenth of the points that the writer takes for the text."""
    model, people, data = load_writer(), hands(), held_out(60)
    errors = []
    for k, line in enumerate(data):
        style = people[k % len(people)].write("some", seed=1000 + k)
        errors.append(len(write(model, line.text, bias=0.5, style=style, seed=k).strokes) / len(line) - 1)
    close = float(np.mean(np.abs(errors) <= 0.1))
    with capsys.disabled():
        print(f"\nends within 10 % of the true length on {close:.1%} of lines, median {np.median(errors):+.1%}")
    assert close >= 0.9


def test_bias_makes_lines_alike(capsys):
    """The variance of the offsets around their mean at each character, over 24 lines of one text."""
    model, text = load_writer(), "on a line"
    spreads = []
    for bias in (0.0, 0.15, 0.5, 1.0, 2.0):
        spreads.append(spread([write(model, text, bias=bias, seed=seed) for seed in range(24)]))
    with capsys.disabled():
        print("\nsample variance at bias 0, .15, .5, 1, 2: " + ", ".join(f"{value:.3f}" for value in spreads))
    assert all(a > b for a, b in pairwise(spreads))


def spread(written: list[Written]) -> float:
    """Variance of where the pen is halfway through each line, and of the width and height of lines."""
    features = [[*np.ptp(w.strokes.points, 0), *w.strokes.offsets.std(0), len(w.strokes)] for w in written]
    return float(np.var(np.log(features), 0).sum())


# ---- how it was made


@needs_fonts
def test_the_command_that_trains_makes_a_network_that_writes(tmp_path):
    out = tmp_path / "small.safetensors"
    sizes = ["--layers", "4", "--bells", "2", "--components", "2", "--lines", "12", "--updates", "2"]
    train_main([*sizes, "--output", str(out)])
    model = load_writer(out)
    assert [cell.hidden_size for cell in model.cell._cells] == [4]
    assert len(write(model, "a", seed=0, bias=1.0, most_points=400).strokes) > 0


def test_random_texts_can_be_written():
    draws = np.random.default_rng(0)
    texts = [random_text(draws) for _ in range(200)]
    assert set("".join(texts)) <= set(ALPHABET)
    assert min(map(len, texts)) >= 5
    assert max(map(len, texts)) <= 14
    assert set("abcdefghijklmnopqrstuvwxyz") <= set("".join(texts))


def test_another_model_is_no_writer(tmp_path):
    prediction_network([3], seed=0).save(tmp_path / "other.safetensors")
    with pytest.raises(ps.errors.FileRefused, match="made by synthesis_network"):
        load_writer(tmp_path / "other.safetensors")
