"""A fitted model on one page: what it is, how well it explains the data, and how certain its parameters are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probseq.base import StateSpaceModel
from probseq.evaluation.inference import standard_errors
from probseq.learning.history import History
from probseq.parameters import freeze, parametric_modules
from probseq.sequences import Sequences


@dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` found; `print` it for the text.

    `table` is that of `standard_errors`, or None without data; so are `log_prob`, `aic` and `bic`. `n_steps` counts
    observed steps.
    """

    family: str
    sizes: dict[str, Any]
    likelihood_kind: str
    n_parameters: int
    history: History | None
    parameters: dict[str, Any]
    n_steps: int | None = None
    log_prob: float | None = None
    aic: float | None = None
    bic: float | None = None
    table: Any = None

    def __repr__(self) -> str:
        return self.to_text()

    def to_text(self) -> str:
        """The page, parameters with standard errors where they are known."""
        sizes = ", ".join(f"{name}={value!r}" for name, value in self.sizes.items())
        lines = [f"{self.family}({sizes})", ""]
        facts: list[tuple[str, str]] = [("free parameters", str(self.n_parameters))]
        if self.log_prob is not None:
            kind = "" if self.likelihood_kind == "exact" else f" ({self.likelihood_kind})"
            facts = [
                ("observed steps", str(self.n_steps)),
                *facts,
                ("log p(y)", f"{self.log_prob:.4f} nats{kind}"),
                ("AIC", f"{self.aic:.4f}"),
                ("BIC", f"{self.bic:.4f}"),
            ]
        facts.append(("fit", _fit_in_words(self.history)))
        lines += [f"{name:16} {value}" for name, value in facts]
        return "\n".join([*lines, "", *(_given(self.parameters) if self.table is None else _estimated(self.table))])


def summary(
    model: StateSpaceModel[Any], y: Any = None, u: Any = None, *, lengths: Any = None, fixed: Iterable[str] = ()
) -> Summary:
    """Family, sizes and parameters; with data also log p(y), AIC, BIC and standard errors.

    `fixed` names parameters that the fit held.
    """
    fixed = {fixed} if isinstance(fixed, str) else set(fixed)
    found: dict[str, Any] = {}
    held, kind = fixed, str(model.likelihood_kind)
    if y is not None:
        data = model._door(y, u, lengths, least=1).flat()
        held, kind = fixed | model._unidentified(data), likelihood_kind(model, data)
        with torch.no_grad():
            found = {"log_prob": float(model.log_prob(data).sum()), "n_steps": int(data.seen.sum())}
        found |= {"aic": model.aic(data, fixed=fixed), "bic": model.bic(data, fixed=fixed)}
        found["table"] = standard_errors(model, data, fixed=fixed)
    with freeze(model, held):
        n_parameters = model.n_parameters
    return Summary(
        family=type(model).__name__,
        sizes={name: _short(value) for name, value in model.sizes().items()},
        likelihood_kind=kind,
        n_parameters=n_parameters,
        history=model.history,
        parameters=_values(model),
        **found,
    )


def likelihood_kind(model: StateSpaceModel[Any], data: Sequences) -> str:
    """What the log scores are: the model's own kind, or "approximate" across gaps that it cannot integrate out."""
    data = data.flat()
    gap = (~data.observed & data.inside.unsqueeze(-1)).any(-1)
    later = data.seen.flip(-1).cumsum(-1).flip(-1) > data.seen.long()
    matters = not model.marginalises and model.reads_observations and bool((gap & later).any())
    return "approximate" if matters and model.likelihood_kind == "exact" else model.likelihood_kind


class _Named:
    """A part of a model by its name and sizes."""

    def __init__(self, part: Any) -> None:
        sizes = ", ".join(f"{name}={value!r}" for name, value in part.sizes().items())
        self.text = f"{type(part).__name__}({sizes})"

    def __repr__(self) -> str:
        return self.text


def _short(value: Any) -> Any:
    return _Named(value) if isinstance(value, torch.nn.Module) and callable(getattr(value, "sizes", None)) else value


def _values(model: StateSpaceModel[Any]) -> dict[str, Any]:
    """Every declared parameter by name, those without a value left out."""
    with torch.no_grad():
        return {
            f"{path}.{name}" if path else name: getattr(module, name).clone()
            for path, module in parametric_modules(model)
            for name in module.params()
            if name not in module.unset and getattr(module, name).numel()
        }


def _fit_in_words(history: History | None) -> str:
    if history is None:
        return "none: parameters as given"
    end = "converged" if history.converged else "not converged"
    return f"{history.method}, {history.n_iterations} iterations, {end} ({history.reason})"


def _given(parameters: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, value in parameters.items():
        text = np.array2string(value.numpy(), precision=5, separator=", ")
        lines += [name, *(f"  {line}" for line in text.splitlines())]
    return lines or ["no parameter has a value yet"]


def _estimated(table: Any) -> list[str]:
    """Aligned rows: entry, estimate, standard error, interval or the reason why there is none."""
    cells = [["", "estimate", "(s.e.)", "95 % interval"]]
    for name, row in table.iterrows():
        if math.isnan(row["standard_error"]):
            cells.append([str(name), f"{row['estimate']:.5g}", "-", row["status"]])
        else:
            interval = f"{row['lower']:.5g} .. {row['upper']:.5g}"
            cells.append([str(name), f"{row['estimate']:.5g}", f"({row['standard_error']:.3g})", interval])
    widths = [max(len(row[i]) for row in cells) for i in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in cells]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
