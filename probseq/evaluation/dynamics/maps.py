"""A network's state as a dynamical system: the map of one step, driven by data or closed upon itself, and Jacobians.

    driven:       h_{t+1} = F_t(h_t) = cell(h_t, y_t, u_{t+1})              J_t = d h_{t+1} / d h_t, (S, S)
    closed loop:  h_{t+1} = F(h_t)   = cell(h_t, E[y_t | h_t], u)           with the mean fed back, u constant

S is the size of the whole state: an LSTM's has its memory too. In the closed loop of an echo state network it also has
the last observation, which its readout sees. All is computed in float64 with the plain step of the cell.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from probseq import beliefs as B
from probseq.beliefs import Point
from probseq.models.echo_state import EchoState
from probseq.models.hmm import HMM
from probseq.models.linear_gaussian import LinearGaussianModel
from probseq.models.rnn import RNN
from probseq.sequences import Sequences
from probseq.stationary import closed_classes, stationary_law

Map = Callable[[Tensor], Tensor]


class Driven(NamedTuple):
    """Along a flat batch of data: the states (B, T, S) before each observation, and J_0 .. J_{T-2}, (B, T - 1, S, S).

    `slopes` (B, T, S) is d log p(y_t | h_t) / d h_t, and `observed` (B, T) says which steps have any observation.
    """

    states: Tensor
    jacobians: Tensor
    slopes: Tensor
    observed: Tensor


def network(model: Any, name: str) -> Any:
    """A float64 copy of a network, ready to be differentiated in its state. TypeError for every other model."""
    if not isinstance(model, (RNN, EchoState)):
        raise TypeError(f"{name} is for recurrent networks (RNN, EchoState), got a {type(model).__name__}")
    double = copy.deepcopy(model).double().requires_grad_(False).eval()
    if isinstance(double, RNN):
        double.dtype = torch.float64
    return double


def jacobian(function: Map, states: Tensor) -> Tensor:
    """d F(h) / d h at states (N, S), (N, S', S), for a function that treats the rows one by one."""
    with torch.enable_grad():
        states = states.detach().requires_grad_(True)
        values = function(states)
        totals = values.sum(0)
        rows = [
            torch.autograd.grad(total, states, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for total in totals
        ]
    return torch.stack(rows, 1).detach()


def same_length(sequences: Sequences) -> Sequences:
    """A flat batch of sequences of one length, or a ValueError."""
    if not sequences.flat().rectangular:
        raise ValueError(f"y must hold sequences of one length, got lengths {sequences.lengths.tolist()}")
    return sequences.flat()


def driven(model: Any, sequences: Sequences, initial: Point | None = None) -> Driven:
    """The trajectory of a network (a float64 copy) along a flat batch of sequences of one length, and its Jacobians."""
    predicted = model._filter(sequences, initial).predicted
    n, steps = predicted.state.shape[:2]
    flat: Point = B.reshape_batch(predicted, 2, (n * steps,))
    u = None if sequences.inputs is None else sequences.inputs.reshape(n * steps, -1)
    coming = None if u is None or sequences.inputs is None else sequences.inputs.roll(-1, 1).reshape(n * steps, -1)
    y, seen = sequences.values.reshape(n * steps, -1), sequences.observed.reshape(n * steps, -1)

    def move(states: Tensor) -> Tensor:
        updated, _ = model.update(flat._replace(state=states), y, seen, u)
        return model.predict(updated, coming).state

    def score(states: Tensor) -> Tensor:
        return model.update(flat._replace(state=states), y, seen, u)[1].unsqueeze(-1)

    matrices = jacobian(move, flat.state).unflatten(0, (n, steps))[:, :-1]
    slopes = jacobian(score, flat.state).squeeze(1).unflatten(0, (n, steps))
    return Driven(predicted.state, matrices, slopes, sequences.observed.any(-1))


def closed_loop(model: Any, u: Any = None) -> Map:
    """F of the closed loop of a network (a float64 copy), from states (N, S) to states (N, S).

    `u` (P,) is the input held constant; without it, inputs stand at the mean of those of the fit.
    """
    held = _held(model, u)

    def step(states: Tensor) -> Tensor:
        inputs = None if held is None else held.expand(len(states), -1)
        if isinstance(model, RNN):
            fed = model.head.expected_input(model.cell.output(states)) if model.feedback else states[:, :0]
            return model.predict(Point(states, fed), inputs).state
        belief = Point(*states.split([model.cell.state_size, states.shape[1] - model.cell.state_size], -1))
        belief = belief._replace(step=torch.full((len(states),), model.washout))
        fed = model._predictive(belief, inputs)[0][:, : model._width]
        return torch.cat([model.predict(belief._replace(previous=fed), inputs).state, fed], -1)

    return step


def start_states(model: Any, u: Any = None, n: int = 1) -> Tensor:
    """The state of the closed loop before the first step, n times, (n, S)."""
    held = _held(model, u)
    belief = model.initial_belief((n,), None if held is None else held.expand(n, -1))
    return belief.state if isinstance(model, RNN) else torch.cat([belief.state, belief.previous], -1)


def held_input(model: Any, u: Any) -> Tensor | None:
    """A constant input (P,) of any model, checked; None where it is not given."""
    if u is None:
        return None
    held = torch.as_tensor(u, dtype=torch.float64).reshape(-1)
    if len(held) != model.input_dim:
        raise ValueError(f"u must have {model.input_dim} entries (input_dim), got {len(held)}")
    return held


def _held(model: Any, u: Any) -> Tensor | None:
    return model.input_shift if u is None and model.input_dim else held_input(model, u)


def run(step: Map, states: Tensor, n_steps: int) -> Tensor:
    """The states h_0 .. h_n of a map from h_0 (N, S), (N, n + 1, S)."""
    path = [states]
    for _ in range(n_steps):
        path.append(step(path[-1]))
    return torch.stack(path, 1)


class Linear(NamedTuple):
    """An exact family as a linear map z -> M z + b: its matrix, and its fixed point (None where there are many)."""

    matrix: Tensor
    fixed_point: Tensor | None


@torch.no_grad()
def linear_map(model: Any, u: Any = None) -> Linear | None:
    """The dynamics of the hidden state of an LDS, an AR or an HMM; None for other families.

    For an HMM it is p -> A' p on probabilities, whose matrix is that on differences of them, (K - 1, K - 1): the
    eigenvalue 1 that keeps the sum is left out.
    """
    if isinstance(model, HMM):
        moves = model._log_moves(held_input(model, u)).exp()
        axes = torch.linalg.qr(torch.cat([torch.ones(len(moves), 1), torch.eye(len(moves))[:, 1:]], 1).double()).Q[
            :, 1:
        ]
        fixed = stationary_law(moves) if len(closed_classes(moves)) == 1 else None
        return Linear(axes.mT @ moves.mT @ axes, fixed)
    if not isinstance(model, LinearGaussianModel):
        return None
    if model.varying:
        raise ValueError(f"the dynamics of {', '.join(model.varying)} vary in time: there is no one linear map")
    matrix = model.system().transition_matrix
    offset = model.transition_offset_at(held_input(model, u), None)
    offset = matrix.new_zeros(len(matrix)) if offset is None else offset
    solved, failed = torch.linalg.solve_ex(torch.eye(len(matrix), dtype=matrix.dtype) - matrix, offset)
    return Linear(matrix, None if int(failed) or not bool(solved.isfinite().all()) else solved)
