"""A network at work: lines drawn from a prediction or a synthesis network, in one compiled loop.

    for t in range(most_points):
        stop where the window looks beyond the last character more than at any other    # with a text;
        the stroke that is being drawn is finished                                       # where the paper breaks it off
        point ~ head, biased                                                             # sigma e^-b, weights ^ (1 + b)
        state = layers(point)

A bias b > 0 makes a line more regular: components become narrower and the likelier ones likelier still; lifts are drawn
as they are. With a `style`, the network first reads a line of somebody's with its text, and then goes on in that hand.

Graves, A. (2013). Generating sequences with recurrent neural networks. arXiv:1308.0850, sections 4.3, 5.3-5.5.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probseq.cells import LSTM, Stack
from probseq.checks import whole_number
from probseq.emissions.heads import Bernoulli, MixtureDensity, Product
from probseq.errors import ProbseqWarning
from probseq.handwriting.soft_window import WindowedStack
from probseq.handwriting.strokes import Strokes
from probseq.kernels import pen as kernels
from probseq.models.rnn import RNN
from probseq.randomness import generator

#: a line may have so many times as many points as its text takes on average
PATIENCE = 3.0


class Written(NamedTuple):
    """A line, in the unit of the data that the network learned from.

    `strokes.characters` say what was looked at most at each point; `looks` (T, U + 1) is all of phi, the last column
    beyond the text; `ended` whether the stop rule ended it. Without a text, `looks` has no columns.
    """

    strokes: Strokes
    looks: NDArray[np.float64]
    ended: bool


@torch.no_grad()
def write(
    model: RNN,
    text: str | None = None,
    *,
    bias: float = 0.0,
    style: Strokes | None = None,
    most_points: int | None = None,
    seed: int | None = None,
) -> Written:
    """A line of `text` by a synthesis network, or without a text one of `most_points` by a prediction network.

    Only what comes after the `style` is returned. Warns where the stop rule has not ended the line by `most_points`
    (three times what the text takes on average). Raises ValueError for characters that the network does not know, a
    style without a text, a bias that is negative.
    """
    cell = _checked(model, text, style, bias)
    whole = text
    if text is not None and style is not None:
        whole = f"{style.text} {text}"
    if most_points is None:
        if not isinstance(cell, WindowedStack) or text is None:
            raise ValueError("most_points must be given for a network that reads no text")
        most_points = round(PATIENCE * (len(text) + 2) / cell.pace)
    codes = np.zeros(0, np.int64)
    if isinstance(cell, WindowedStack) and whole is not None:
        codes = cell.encode(whole).numpy()
    state = _primed(model, cell, codes, style)
    drawn, looks = _run(model, cell, codes, state, float(bias), whole_number("most_points", most_points), seed)
    ended = len(drawn) < most_points
    if text is not None and not ended:
        warnings.warn(
            f"the line was cut off after {most_points} points: its window never left {text!r}", ProbseqWarning
        )
    before = len(codes) - len(text) if text is not None else 0
    return Written(_strokes(model, drawn, looks[:, before:], text), looks[:, before:], ended)


def _checked(model: RNN, text: str | None, style: Strokes | None, bias: float) -> WindowedStack | Stack:
    """The model's cell, if it is one of a network that can write."""
    head = model.head
    heads = list(head.heads) if isinstance(head, Product) else []
    full = heads and isinstance(heads[0], MixtureDensity) and heads[0].covariance == "full"
    if len(heads) != 2 or not full or not isinstance(heads[1], Bernoulli) or model.event_shape[0] != 3:
        raise TypeError("model must say where a pen goes: see prediction_network and synthesis_network")
    cell = model.cell
    if isinstance(cell, Stack):
        plain = cell.skip and all(isinstance(c, LSTM) and c.peepholes and _is_usual(c) for c in cell._cells)
        if not plain or model.input_dim:
            raise TypeError("model must be a network as prediction_network makes them")
        if text is not None:
            raise ValueError("text was given, but this network reads none: see synthesis_network")
    elif not isinstance(cell, WindowedStack):
        raise TypeError("model must be made by prediction_network or synthesis_network")
    elif text is None:
        raise ValueError("text must be given: this network writes what it reads")
    if text is not None and style is not None and not style.text:
        raise ValueError("style must have a text: the network reads what it says")
    if not 0 <= bias < np.inf:
        raise ValueError(f"bias must be a number from 0, got {bias!r}")
    return cell


def _is_usual(cell: LSTM) -> bool:
    """Whether it has nothing but peepholes beside what torch's LSTM has."""
    return LSTM(1, peepholes=True).parts == cell.parts and cell.projection_size is None and not cell.layer_norm


def _primed(model: RNN, cell: WindowedStack | Stack, codes: NDArray[np.int64], style: Strokes | None) -> Tensor:
    """The state that the first point is said from."""
    rows = np.zeros((1, 3))
    if style is not None:
        rows = np.concatenate([rows, style.restore().to_array()])
    pen = model.head.encode(torch.as_tensor(rows))
    pen[0] = 0
    state = cell.initial_state((1,))
    if isinstance(cell, WindowedStack):
        text = torch.as_tensor(codes).to(pen).expand(len(pen), -1)
        return cell._whole(torch.cat([pen, text], -1).unsqueeze(0), state)[0, -1]
    return cell.states(pen.unsqueeze(0), state)[0, -1]


def _run(
    model: RNN,
    cell: WindowedStack | Stack,
    codes: NDArray[np.int64],
    state: Tensor,
    bias: float,
    most_points: int,
    seed: int | None,
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The points as the network reads them, and phi at each."""
    windowed = isinstance(cell, WindowedStack)
    layers = [layer for layer in cell._cells if isinstance(layer, LSTM)]
    states = state.split(
        [layer.state_size for layer in layers] + ([len(cell.characters), cell.n_bells] if windowed else [])
    )
    parts = [part.chunk(2) for part in states[: len(layers)]]
    window, kappa = states[len(layers) :] if windowed else (state.new_zeros(0), state.new_zeros(0))
    looking = state.new_zeros(0, layers[0].hidden_size + 1)
    if windowed:
        looking = torch.cat([cell.window_weights, cell.window_bias.unsqueeze(1)], 1)
    draws = generator(seed)
    uniforms = torch.rand(most_points, 2, generator=draws, dtype=torch.float64)
    normals = torch.randn(most_points, 2, generator=draws, dtype=torch.float64)
    drawn, looks = state.new_empty(most_points, 3).numpy(), state.new_zeros(most_points, len(codes) + 1).numpy()
    n = kernels.write(
        tuple(_packed(layer) for layer in layers),
        tuple(_array(layer.peephole_weights) for layer in layers),
        _array(looking),
        _array(torch.cat([model.head.weights, model.head.bias.unsqueeze(1)], 1)),
        codes,
        tuple(_array(hidden) for hidden, _ in parts),
        tuple(_array(memory) for _, memory in parts),
        _array(window),
        _array(kappa),
        uniforms.numpy(),
        normals.numpy(),
        bias,
        model.head.heads[0].scale_floor,  # type: ignore[index]
        drawn,
        looks,
    )
    return drawn[:n], looks[:n].astype(np.float64) if windowed else np.zeros((n, 0))


def _packed(layer: LSTM) -> NDArray[Any]:
    return _array(torch.cat([layer.input_weights, layer.recurrent_weights, layer.bias.unsqueeze(1)], 1))


def _array(tensor: Tensor | None) -> NDArray[Any]:
    assert tensor is not None
    return tensor.detach().clone().contiguous().numpy()


def _strokes(model: RNN, drawn: NDArray[Any], looks: NDArray[np.float64], text: str | None) -> Strokes:
    shift, scale = model.head.shift[:2].numpy(), model.head.scale[:2].numpy()
    offsets = shift + scale * drawn[:, :2].astype(np.float64)
    places = None if text is None else looks[:, : len(text)].argmax(1) if len(looks) else np.zeros(0, np.int64)
    return Strokes(offsets, drawn[:, 2] > 0.5, text, places)
