"""The picture of an automaton: states with what they say, arrows with the letters that lead along them.

Graphviz places the states where its program `dot` is installed; without it they stand on a circle.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np

from probseq import plot_style as style
from probseq.evaluation.automata import Automaton
from probseq.plot_style import INK, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: of a state's disc, where the states stand on a circle of radius 1
RADIUS = 0.2
LETTERS: dict[str, Any] = {
    "fontsize": "small",
    "color": PALETTE[1],
    "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.6},
}


def to_dot(machine: Automaton) -> str:
    """The graph in Graphviz's language."""
    lines = ["digraph automaton {", "  rankdir=LR; node [shape=circle];", "  start [shape=point];"]
    lines += [f'  {state} [label="{_word(said)}"];' for state, said in enumerate(machine.outputs)]
    lines.append(f"  start -> {machine.start};")
    lines += [f'  {a} -> {b} [label="{label}"];' for (a, b), label in _arrows(machine).items()]
    return "\n".join([*lines, "}"])


def plot_automaton(machine: Automaton, axes: Axes | None = None) -> Axes:
    """Draw the states (what they say inside) and the letters between them; an arrow from nowhere marks the start."""
    fresh = axes is None
    axes = style.axes_or_new(axes)
    if fresh:
        axes.figure.set_size_inches(5.0, 5.0)  # type: ignore[union-attr]
    places = _places(machine)
    for (a, b), label in _arrows(machine).items():
        _arrow(axes, places, a, b, label)
    for state, place in enumerate(places):
        axes.add_patch(_disc(place))
        axes.text(place[0], place[1], _word(machine.outputs[state]), ha="center", va="center", color=INK, zorder=4)
    start = places[machine.start]
    away = _outward(places, machine.start)
    turned = np.array([[0.8, -0.6], [0.6, 0.8]]) @ away  # beside the loop, which stands outward too
    axes.annotate("", start + 1.05 * RADIUS * turned, start + 2.6 * RADIUS * turned, arrowprops=_head(0.0))
    axes.set_xlim(places[:, 0].min() - 0.75, places[:, 0].max() + 0.75)
    axes.set_ylim(places[:, 1].min() - 0.75, places[:, 1].max() + 0.75)
    axes.set_aspect("equal")
    axes.axis("off")
    return axes


def _disc(place: Any) -> Any:
    from matplotlib.patches import Circle

    return Circle(tuple(place), RADIUS, facecolor="white", edgecolor=PALETTE[0], linewidth=1.6, zorder=3)


def _head(bend: float) -> dict[str, Any]:
    return {
        "arrowstyle": "-|>",
        "color": INK,
        "lw": 1.0,
        "shrinkA": 0,
        "shrinkB": 0,
        "connectionstyle": f"arc3,rad={bend}",
    }


def _arrow(axes: Axes, places: Any, a: int, b: int, label: str) -> None:
    if a == b:
        _loop(axes, places, a, label)
        return
    bend, along = 0.25, (places[b] - places[a]) / np.linalg.norm(places[b] - places[a])
    side = np.array([along[1], -along[0]])
    begin, end = (places[i] + sign * RADIUS * 1.08 * (along + sign * 0.35 * side) for i, sign in ((a, 1), (b, -1)))
    axes.annotate("", end, begin, arrowprops=_head(bend), zorder=2)
    distance = float(np.linalg.norm(end - begin))
    middle = (begin + end) / 2 + side * (0.5 * bend * distance + 0.07)
    axes.text(middle[0], middle[1], label, ha="center", va="center", zorder=5, **LETTERS)


def _loop(axes: Axes, places: Any, state: int, label: str) -> None:
    from matplotlib.patches import FancyArrowPatch

    away = _outward(places, state)
    side = np.array([-away[1], away[0]])
    begin, end = (places[state] + RADIUS * (0.85 * away + sign * 0.52 * side) for sign in (1, -1))
    shape: dict[str, Any] = {"connectionstyle": "arc3,rad=-1.6", "arrowstyle": "-|>", "mutation_scale": 10}
    axes.add_patch(FancyArrowPatch(begin, end, color=INK, linewidth=1, **shape))
    place = places[state] + 2.35 * RADIUS * away
    axes.text(place[0], place[1], label, ha="center", va="center", zorder=5, **LETTERS)


def _outward(places: Any, state: int) -> Any:
    away = places[state] - places.mean(0)
    size = np.linalg.norm(away)
    return away / size if size > 1e-9 else np.array([0.0, 1.0])


def _arrows(machine: Automaton) -> dict[tuple[int, int], str]:
    """The letters of every arrow, one line."""
    found: dict[tuple[int, int], list[str]] = {}
    for state, row in enumerate(machine.transitions):
        for letter, after in zip(machine.letters, row, strict=True):
            found.setdefault((state, int(after)), []).append(_word(letter))
    return {pair: ", ".join(letters) for pair, letters in found.items()}


def _word(label: Any) -> str:
    if label is None:
        return ""
    return " ".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _places(machine: Automaton) -> Any:
    """Where the states stand, (S, 2)."""
    program = shutil.which("dot")
    if program is not None:
        return _by_graphviz(program, machine)
    n = machine.n_states
    angles = np.pi / 2 + np.pi / max(n, 1) * (n % 2 == 0) + 2 * np.pi * np.arange(n) / n
    return (0.0 if n == 1 else max(1.0, n / 6)) * np.stack([np.cos(angles), np.sin(angles)], -1)


def _by_graphviz(program: str, machine: Automaton) -> Any:
    done = subprocess.run([program, "-Tplain"], input=to_dot(machine), capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("node")]
    found = {row[1]: (float(row[2]), float(row[3])) for row in rows}
    return np.array([found[str(state)] for state in range(machine.n_states)])
