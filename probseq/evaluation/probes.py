"""Is the exact belief in a network's state? A probe, and the controls without which it says nothing.

    probe = belief_probe(student, teacher, train, test)
    probe.table          # one row for every source of the belief and every map: R2, KL, excess, in a pandas table

Teacher and student read the same data. At every step the teacher, an HMM or an LDS, has an exact belief
b_t = p(z_t | y_<t); a map from the student's state h_t to b_t is learned on `train` and judged on `test`.

| source      | what the map reads                                                                               |
|-------------|--------------------------------------------------------------------------------------------------|
| student     | h_t, the network's predicted state                                                               |
| untrained   | the state of the same network with weights drawn anew                                            |
| lags        | the last `n_lags` observations (and inputs) as the network reads them                            |
| shuffled    | h_t, but the map was learned from the beliefs of other moments                                   |

The maps are a ridge regression and a small network (one hidden layer). Beliefs of an HMM are probabilities, brought
back to the simplex; of an LDS they are means, since the covariance is no matter of the data.

| column | meaning                                                                                                 |
|--------|---------------------------------------------------------------------------------------------------------|
| r2     | the share of the variance of b_t (all coordinates together) that the map explains on `test`             |
| kl     | KL(b_t || what the map says), mean over the steps of `test`, nats; of an LDS with the exact covariance  |
| excess | how much more a step of y costs under the mapped belief than under the exact one, nats                   |

A trap, measured: on Mess3 a network with random weights gives R2 = 0.99 and eight lags 0.97. What a student has learned
is what it gives beyond its controls.

Reference: Hewitt, J. & Liang, P. (2019). Designing and interpreting probes with control tasks. EMNLP.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probseq.beliefs import Categorical, Gaussian
from probseq.checks import whole_number
from probseq.models.hmm import HMM
from probseq.models.linear_gaussian import LinearGaussianModel, is_diffuse
from probseq.models.rnn import RNN
from probseq.randomness import fresh_seed, spawn
from probseq.sequences import Sequences

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
Teacher = HMM | LinearGaussianModel
MapName = Literal["ridge", "mlp"]
SOURCES = ("student", "untrained", "lags", "shuffled")


class Rows(NamedTuple):
    """The observed steps of some data, one after another: what maps read, beliefs (N, d), and what is needed to score.

    `belief`, `y` and `u` have the batch shape (N,), `exact` is the exact log-probability of y.
    """

    student: Array
    untrained: Array
    lags: Array
    target: Array
    belief: Any
    y: Tensor
    u: Tensor | None
    exact: Tensor


@dataclass
class BeliefProbe:
    """The table, and for the pictures the exact beliefs of `test` (N, d) with what each source's maps say of them."""

    table: Any
    exact: Array
    mapped: dict[tuple[str, str], Array] = field(repr=False)
    #: excess of the student's own predictions over the exact filter on `test`, nats per step
    student_excess: float = 0.0

    def __str__(self) -> str:
        lines = self.table.to_string(float_format=lambda x: f"{x:.4f}")
        return f"{lines}\nexcess of the student's own predictions: {self.student_excess:.4f} nats a step"

    def plot(self, axes: Any = None, *, source: str = "student", map: MapName = "ridge") -> Axes:
        """Exact and mapped beliefs side by side: in the simplex for three states, coordinate by coordinate else."""
        from probseq.evaluation.probe_plot import plot_geometry

        return plot_geometry(self, axes, source=source, map_name=map)


@torch.no_grad()
def belief_probe(
    student: RNN,
    teacher: Teacher,
    train: Any,
    test: Any,
    *,
    u: Any = None,
    test_u: Any = None,
    n_lags: int = 8,
    hidden: int = 32,
    max_rows: int = 20_000,
    maps: tuple[MapName, ...] = ("ridge", "mlp"),
    seed: int | None = 0,
) -> BeliefProbe:
    """Learn maps from the student's state to the teacher's exact belief on `train`, judge them on `test`.

    At most `max_rows` steps of each are used, drawn at random. Raises TypeError for students without a state to probe
    and for teachers without an exact belief.
    """
    if not isinstance(student, RNN):
        raise TypeError(f"student must be a probseq.RNN, got a {type(student).__name__}")
    if not isinstance(teacher, (HMM, LinearGaussianModel)):
        raise TypeError(f"teacher must have an exact belief (an HMM or an LDS), got a {type(teacher).__name__}")
    if not maps or set(maps) - {"ridge", "mlp"}:
        raise ValueError(f'maps must be among "ridge" and "mlp", got {maps!r}')
    n_lags, max_rows = whole_number("n_lags", n_lags), whole_number("max_rows", max_rows)
    untrained_seed, train_seed, test_seed, shuffle_seed, map_seed = spawn(fresh_seed(seed), 5)
    other = untrained(student, untrained_seed)
    learn = _rows(student, other, teacher, teacher._door(train, u, least=1), n_lags, max_rows, train_seed)
    judge = _rows(student, other, teacher, teacher._door(test, test_u, least=1), n_lags, max_rows, test_seed)
    order = np.random.default_rng(shuffle_seed).permutation(len(learn.target))
    records: list[dict[str, Any]] = []
    mapped: dict[tuple[str, str], Array] = {}
    for source in SOURCES:
        name = "student" if source == "shuffled" else source
        target = learn.target[order] if source == "shuffled" else learn.target
        for kind in maps:
            said = _fit_map(kind, getattr(learn, name), target, getattr(judge, name), hidden, map_seed)
            said = _as_belief(teacher, said, learn.target)
            mapped[source, kind] = said
            records.append({"source": source, "map": kind, **_scores(teacher, judge, said)})
    import pandas as pd

    table = pd.DataFrame(records).set_index(["source", "map"])
    data = teacher._door(test, test_u).flat()
    excess = float((teacher._log_prob(data) - student._log_prob(data)).sum() / data.seen.sum())
    return BeliefProbe(table, judge.target, mapped, excess)


def untrained(student: RNN, seed: int) -> RNN:
    """The same network in the same units, its weights drawn anew."""
    fresh = copy.deepcopy(student)
    fresh.cell.reset_parameters(seed)
    return fresh


# ---- rows


def _rows(
    student: RNN, other: RNN, teacher: Teacher, sequences: Sequences, n_lags: int, max_rows: int, seed: int
) -> Rows:
    flat = sequences.flat()
    filtered = teacher._filter(flat, None)
    if isinstance(filtered.predicted, Gaussian) and is_diffuse(filtered.predicted):
        raise ValueError("teacher must have a proper start: a diffuse belief is no target for a map")
    places = flat.seen.nonzero()
    if len(places) > max_rows:
        chosen = np.random.default_rng(seed).permutation(len(places))[:max_rows]
        places = places[torch.from_numpy(np.sort(chosen))]
    rows, times = places.unbind(-1)
    belief = _pick(filtered.predicted, rows, times)
    return Rows(
        student=_array(student._filter(flat, None).predicted.state[rows, times]),
        untrained=_array(other._filter(flat, None).predicted.state[rows, times]),
        lags=_array(_lags(student, flat, n_lags)[rows, times]),
        target=_array(belief.probs if isinstance(belief, Categorical) else belief.mean),
        belief=belief,
        y=flat.values[rows, times],
        u=None if flat.inputs is None else flat.inputs[rows, times],
        exact=filtered.log_prob[rows, times],
    )


def _pick(belief: Any, rows: Tensor, times: Tensor) -> Any:
    return type(belief)(*(None if part is None else part[rows, times] for part in belief))


def _lags(student: RNN, flat: Sequences, n_lags: int) -> Tensor:
    """What the network reads at the last `n_lags` steps, zeros before the first, (B, T, n_lags * width)."""
    read = student._inputs(flat).to(torch.float64)
    padded = torch.nn.functional.pad(read, (0, 0, n_lags - 1, 0))
    return padded.unfold(1, n_lags, 1).flatten(2)


def _array(values: Tensor) -> Array:
    return np.asarray(values.detach().to(torch.float64))


# ---- maps


def _fit_map(kind: str, read: Array, target: Array, new: Array, hidden: int, seed: int) -> Array:
    """What a map learned from `read` (N, f) and `target` (N, d) says of `new`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import RidgeCV
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    centre, scale = target.mean(0), target.std(0)
    scale[scale <= 1e-12 * np.abs(target).max(initial=0.0)] = 1.0  # a coordinate that never moves
    if kind == "ridge":
        regression: Any = RidgeCV(alphas=np.logspace(-8, 2, 6))
    else:
        regression = MLPRegressor(
            hidden_layer_sizes=(hidden,), max_iter=60, early_stopping=True, random_state=seed % 2**32
        )
    model: Any = make_pipeline(StandardScaler(), regression)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        standard = (target - centre) / scale
        model.fit(read, standard if target.shape[1] > 1 else standard[:, 0])
    return centre + scale * model.predict(new).reshape(len(new), -1)


def _as_belief(teacher: Teacher, said: Array, seen: Array) -> Array:
    """Probabilities again, for an HMM: the nearest point of the simplex, mixed with the mean belief by one row's worth.

    Without the second step one wrong zero would cost infinitely many nats.
    """
    if not isinstance(teacher, HMM):
        return said
    share = 1 / (len(seen) + 1)
    return (1 - share) * onto_simplex(said) + share * seen.mean(0)


def onto_simplex(points: Array) -> Array:
    """The nearest points (N, K) with non-negative entries that sum to 1 (Held, Wolfe and Crowder 1974)."""
    ordered = -np.sort(-points, axis=1)
    above = (ordered.cumsum(1) - 1) / np.arange(1, points.shape[1] + 1)
    last = (ordered > above).sum(1) - 1
    return np.maximum(points - above[np.arange(len(points)), last][:, None], 0.0)


# ---- scores


def _scores(teacher: Teacher, rows: Rows, said: Array) -> dict[str, float]:
    centred = rows.target - rows.target.mean(0)
    share = ((rows.target - said) ** 2).sum() / (centred**2).sum()
    belief = _replaced(rows.belief, torch.from_numpy(said))
    score = teacher.update(belief, rows.y, None, rows.u)[1]
    return {
        "r2": float(1 - share),
        "kl": float(_divergence(rows.belief, belief).mean()),
        "excess": float((rows.exact - score).mean()),
    }


def _replaced(belief: Any, said: Tensor) -> Any:
    return belief._replace(log_probs=said.log()) if isinstance(belief, Categorical) else belief._replace(mean=said)


def _divergence(exact: Any, other: Any) -> Tensor:
    """KL(exact || other) per row, nats; of Gaussians with one covariance half the squared distance in its units."""
    if isinstance(exact, Categorical):
        gap = torch.where(exact.probs > 0, exact.log_probs - other.log_probs, 0.0)
        return (exact.probs * gap).sum(-1)
    away = exact.mean - other.mean
    return 0.5 * (away.unsqueeze(-2) @ torch.linalg.pinv(exact.cov, hermitian=True) @ away.unsqueeze(-1)).flatten()
