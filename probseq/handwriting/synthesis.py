"""The synthesis network of Graves: it writes a text that it is given.

    for t in range(T):
        (dx, dy)_t ~ sum_k w_k N(m_k, S_k);   lift_t ~ Bernoulli(e)      # from all hidden layers at t
        h_{t+1}, phi_{t+1} = layers over a soft window on the text       # `WindowedStack`

Under the contract it is a `probseq.RNN` whose inputs u are the text, the same at every step: `inputs_for(text, T)` of
its cell. It scores lines with their texts, follows a pen point by point, and forecasts; `write` draws lines.

Graves, A. (2013). Generating sequences with recurrent neural networks. arXiv:1308.0850, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from probseq.errors import FileRefused
from probseq.handwriting.prediction import pen_head
from probseq.handwriting.soft_window import PEN, WindowedStack
from probseq.handwriting.strokes import Strokes
from probseq.io import load
from probseq.models.rnn import RNN

#: the network that comes with the library: `probseq.handwriting.train` has the command that made it
WEIGHTS = Path(__file__).parent / "weights" / "writer.safetensors"


def synthesis_network(
    characters: str,
    hidden_sizes: Sequence[int] = (400, 400, 400),
    n_bells: int = 10,
    n_components: int = 20,
    *,
    most_characters: int = 60,
    pace: float = 0.05,
    scale_floor: float = 1e-3,
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
) -> RNN:
    """A network for lines (T, 3) of dx, dy, lift with texts of up to `most_characters` over `characters`.

    The defaults are the paper's. `pace`, in characters per point, is where the window starts training.
    """
    cell = WindowedStack(characters, hidden_sizes, n_bells, most_characters=most_characters, pace=pace)
    head = pen_head(n_components, scale_floor)
    return RNN(PEN, cell=cell, head=head, input_dim=most_characters, dtype=dtype, seed=seed)


def load_writer(path: str | Path | None = None) -> RNN:
    """The network that comes with the library, or one from a file. FileRefused where that does not read texts."""
    model = load(WEIGHTS if path is None else path)
    if not isinstance(model, RNN) or not isinstance(model.cell, WindowedStack):
        raise FileRefused(f"{path} must hold a network made by synthesis_network, it holds a {type(model).__name__}")
    return model


@torch.no_grad()
def alignment(model: RNN, line: Strokes) -> NDArray[np.float64]:
    """phi (T, U + 1): how much the network looks at each character, and beyond, when it says each point of a line.

    ValueError for a line without a text or of characters that the network does not know.
    """
    if not isinstance(model.cell, WindowedStack):
        raise TypeError("model must be made by synthesis_network")
    if not line.text:
        raise ValueError("line must have a text")
    inputs = model.cell.inputs_for(line.text, len(line))
    states = model.filter(line.restore().to_array(), inputs).predicted.state
    places = torch.arange(1, len(line.text) + 2, dtype=states.dtype)
    return model.cell.phi(states, places.expand(len(line), -1)).to(torch.float64).numpy()
