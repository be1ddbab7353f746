"""The door: every kind of data comes in here and leaves as tensors of one shape.

| given                                            | becomes                                            |
|--------------------------------------------------|----------------------------------------------------|
| `(T,)` array, Series                             | one sequence with event shape (1,)                 |
| `(T, D)` array, DataFrame                        | one sequence                                       |
| `(*batch, T, D)` array, `lengths` or none        | a batch, padded where `lengths` says so            |
| a list of any of the first two                   | a ragged batch; results come back as a list        |
| `(N, D)` or `(N,)` array with a list of `lengths`| the same, from one concatenated array              |

Inside there are always `values` (finite), `observed` (boolean, like `values`) and `lengths`. NaN in y means
missing and so does the mask of a numpy masked array; NaN in the inputs u is an error, infinity always is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Layout = Literal["one", "batch", "list"]


@dataclass(frozen=True)
class Sequences:
    """Validated data: `values` and `observed` (*batch, T, *event), `lengths` (*batch,), `inputs` (*batch, T, P)."""

    values: Tensor
    observed: Tensor
    lengths: Tensor
    inputs: Tensor | None
    layout: Layout
    indexes: tuple[Any, ...]
    names: tuple[str, ...] | None
    complete: bool
    rectangular: bool
    one_batch_axis: Sequences | None = None

    @staticmethod
    def of(y: Any, u: Any = None, *, lengths: Any = None) -> Sequences:
        """Convert, pad, mark what is missing, keep the index. Raises ValueError naming the argument and place."""
        if isinstance(y, Sequences):
            if u is not None or lengths is not None:
                raise ValueError("y is a Sequences already: give u and lengths to Sequences.of instead")
            return y
        parts, layout = _split(y, "y", lengths)
        values, observed, sizes = _assemble(parts, layout, "y", lengths)
        inputs = None if u is None else _inputs(u, layout, values, sizes, lengths)
        complete = bool(observed.all()) or _all_observed(observed, sizes)
        return Sequences(
            values=values,
            observed=observed,
            lengths=sizes,
            inputs=inputs,
            layout=layout,
            indexes=tuple(getattr(part, "index", None) if _is_pandas(part) else None for part in parts),
            names=_column_names(parts[0]) if parts else None,
            complete=complete,
            rectangular=bool((sizes == values.shape[sizes.ndim]).all()),
        )._with_flat()

    def _with_flat(self) -> Sequences:
        """Prepare the flat view once, at the door."""
        b, t = self.lengths.numel(), self.n_steps
        if self.lengths.ndim == 1:
            return self
        flat = replace(
            self,
            values=self.values.reshape(b, t, *self.event_shape),
            observed=self.observed.reshape(b, t, *self.event_shape),
            lengths=self.lengths.reshape(b),
            inputs=None if self.inputs is None else self.inputs.reshape(b, t, self.inputs.shape[-1]),
        )
        return replace(self, one_batch_axis=flat)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.lengths.shape)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape[self.lengths.ndim + 1 :])

    @property
    def n_steps(self) -> int:
        """The length of the time axis, padding included."""
        return self.values.shape[self.lengths.ndim]

    @property
    def inside(self) -> Tensor:
        """True at the steps before each sequence's end, (*batch, T)."""
        return torch.arange(self.n_steps) < self.lengths.unsqueeze(-1)

    @property
    def seen(self) -> Tensor:
        """True at the steps with any observed coordinate, (*batch, T)."""
        return self.observed.flatten(self.lengths.ndim + 1).any(-1)

    @property
    def index(self) -> Any:
        """The pandas index of the first sequence, or None."""
        return self.indexes[0] if self.indexes else None

    def input_units(self, n_plain: int = 0) -> tuple[Tensor, Tensor]:
        """Mean and spread of each input over all steps; the spread is 1 where it is nothing beside the size.

        The last `n_plain` columns have no unit: 0 and 1.
        """
        if self.inputs is None:
            raise ValueError("these sequences have no inputs")
        inputs = self.inputs[self.inside]
        spread = inputs.std(0, correction=0)
        spread = torch.where(spread > 1e-12 * inputs.abs().amax(0), spread, 1.0)
        united = torch.arange(inputs.shape[-1]) < inputs.shape[-1] - n_plain
        return torch.where(united, inputs.mean(0), 0.0), torch.where(united, spread, 1.0)

    def flat(self) -> Sequences:
        """The same data with exactly one batch axis."""
        return self if self.one_batch_axis is None else self.one_batch_axis

    def rows(self, *tables: Tensor) -> list[Tensor]:
        """The steps of all sequences of a flat batch, padding left out: tables (B, T, ...) become (N, ...)."""
        if self.rectangular:
            return [table.flatten(0, 1) for table in tables]
        inside = self.inside
        return [table[inside] for table in tables]

    def with_values(self, values: Tensor) -> Sequences:
        """The same pattern of observation with other numbers."""
        return replace(self, values=values, one_batch_axis=None)._with_flat()

    def select(self, rows: Any) -> Sequences:
        """Some sequences of a flat batch, by index."""
        index = torch.as_tensor(rows, dtype=torch.long)
        observed, lengths = self.observed[index], self.lengths[index]
        return replace(
            self,
            values=self.values[index],
            observed=observed,
            lengths=lengths,
            inputs=None if self.inputs is None else self.inputs[index],
            indexes=tuple(self.indexes[i] for i in index.tolist()) if len(self.indexes) > 1 else (),
            layout="batch",
            complete=_all_observed(observed, lengths),
            rectangular=bool((lengths == self.n_steps).all()),
        )

    def steps(self, start: int, stop: int) -> Sequences:
        """The steps start .. stop - 1 of every sequence."""
        cut = (slice(None),) * self.lengths.ndim + (slice(start, stop),)
        lengths = (self.lengths - start).clamp(0, max(stop - start, 0))
        return replace(
            self,
            values=self.values[cut],
            observed=self.observed[cut],
            lengths=lengths,
            inputs=None if self.inputs is None else self.inputs[cut],
            indexes=tuple(None if index is None else index[start:stop] for index in self.indexes),
            rectangular=bool((lengths == stop - start).all()),
            one_batch_axis=None,
        )._with_flat()


def _is_pandas(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "pandas"


def _column_names(part: Any) -> tuple[str, ...] | None:
    if not _is_pandas(part):
        return None
    if hasattr(part, "columns"):
        return tuple(str(column) for column in part.columns)
    return None if part.name is None else (str(part.name),)


def _all_observed(observed: Tensor, lengths: Tensor) -> bool:
    inside = torch.arange(observed.shape[lengths.ndim]) < lengths.unsqueeze(-1)
    return bool(observed[inside].all())


def _split(data: Any, name: str, lengths: Any) -> tuple[list[Any], Layout]:
    """The separate sequences behind `data`, and how results go back."""
    if isinstance(data, (list, tuple)) and data and not all(np.ndim(item) == 0 for item in data):
        if lengths is not None:
            raise ValueError(f"{name} is a list of sequences, so lengths must be left out")
        return list(data), "list"
    array: Any = data if isinstance(data, Tensor) or _is_pandas(data) else np.ma.asanyarray(data)
    if array.ndim == 0:
        what = repr(data) if isinstance(data, (int, float, np.ndarray, np.generic, Tensor)) else type(data).__name__
        raise ValueError(f"{name} must be an array or a list with a time axis, got {what}")
    if lengths is not None and array.ndim <= 2:
        sizes = _sizes(lengths, name)
        if sizes.ndim == 0:
            return [array], "batch"
        if int(sizes.sum()) != array.shape[0]:
            raise ValueError(f"lengths sum to {int(sizes.sum())} but {name} has {array.shape[0]} rows")
        ends = torch.cumsum(sizes, 0).tolist()
        rows = array.iloc if _is_pandas(array) else array
        return [rows[end - size : end] for end, size in zip(ends, sizes.tolist(), strict=True)], "list"
    return [array], "one" if array.ndim <= 2 else "batch"


def _sizes(lengths: Any, name: str) -> Tensor:
    array = np.asarray(lengths)
    if array.dtype.kind not in "iu" and array.size:
        raise ValueError(f"lengths must be integers, got {array.dtype} values for {name}")
    if array.size and array.min() < 0:
        raise ValueError(f"lengths must not be negative, got {array.min()} at place {int(array.argmin())}")
    return torch.as_tensor(array.astype(np.int64))


def _assemble(parts: list[Any], layout: Layout, name: str, lengths: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Padded values (unobserved entries 0), observed and lengths."""
    if layout == "list":
        where = [f"{name}[{i}]" for i in range(len(parts))]
        pairs = [_convert(part, label) for part, label in zip(parts, where, strict=True)]
        _same_event([pair[0] for pair in pairs], where)
        sizes = torch.tensor([pair[0].shape[0] for pair in pairs], dtype=torch.long)
        values = torch.nn.utils.rnn.pad_sequence([pair[0] for pair in pairs], batch_first=True)
        observed = torch.nn.utils.rnn.pad_sequence([pair[1] for pair in pairs], batch_first=True)
        return values, observed, sizes
    values, observed = _convert(parts[0], name, lengths)
    batch = values.shape[:-2]
    sizes = torch.full(batch, values.shape[-2], dtype=torch.long)
    if lengths is not None:
        sizes = _sizes(lengths, name)
        if tuple(sizes.shape) != tuple(batch):
            raise ValueError(f"lengths must have shape {tuple(batch)} for {name}, got {tuple(sizes.shape)}")
        if sizes.numel() and int(sizes.max()) > values.shape[-2]:
            raise ValueError(f"lengths must not exceed the {values.shape[-2]} steps of {name}, got {int(sizes.max())}")
        inside = (torch.arange(values.shape[-2]) < sizes.unsqueeze(-1)).unsqueeze(-1)
        observed = observed & inside
        values = torch.where(inside, values, 0.0)
    return values, observed, sizes


def _same_event(values: list[Tensor], where: list[str]) -> None:
    for value, label in zip(values, where, strict=True):
        if value.ndim != 2:
            raise ValueError(f"{label} must be one sequence, (T,) or (T, D), got shape {tuple(value.shape)}")
        if value.shape[1] != values[0].shape[1]:
            raise ValueError(f"{label} has {value.shape[1]} columns but {where[0]} has {values[0].shape[1]}")


def _convert(part: Any, label: str, lengths: Any = None) -> tuple[Tensor, Tensor]:
    """Float64 values with zeros where unobserved, and what is observed; 1-D data get an event axis."""
    hidden = None
    if isinstance(part, Tensor):
        if part.is_complex():
            raise ValueError(f"{label} must be real numbers, got {part.dtype}")
        tensor = part.to(torch.float64)
    else:
        tensor, hidden = _from_numpy(part, label)
    if tensor.ndim == 0:
        raise ValueError(f"{label} must have a time axis, got a single number")
    if tensor.ndim == 1:
        tensor = tensor.unsqueeze(-1)
        hidden = None if hidden is None else hidden.unsqueeze(-1)
    missing = torch.isnan(tensor)
    if hidden is not None:
        missing = missing | hidden
    observed = ~missing
    if missing.any():
        tensor = torch.where(observed, tensor, 0.0)
    infinite = torch.isinf(tensor.detach())
    if infinite.any() and (lengths is None or _inside_infinite(infinite, lengths)):
        raise ValueError(f"{label} must be finite (NaN means missing), got an infinite value at {_place(infinite)}")
    return tensor, observed


def _inside_infinite(infinite: Tensor, lengths: Any) -> bool:
    inside = torch.arange(infinite.shape[-2]) < _sizes(lengths, "y").unsqueeze(-1)
    return bool(infinite[inside].any())


def _from_numpy(part: Any, label: str) -> tuple[Tensor, Tensor | None]:
    array = np.ma.asanyarray(part.to_numpy() if _is_pandas(part) else part)
    if array.dtype.kind == "O":
        try:
            array = np.asarray(part, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{label} must be numbers, got objects such as {_example(array)!r}") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{label} must be real numbers, got dtype {array.dtype}")
    mask = None
    if isinstance(array, np.ma.MaskedArray):
        mask = torch.as_tensor(np.ma.getmaskarray(array).copy())
        array = array.filled(0)
    return torch.as_tensor(np.array(array, dtype=np.float64, order="C")), mask


def _example(array: Any) -> Any:
    return next((item for item in array.ravel() if not isinstance(item, (int, float))), None)


def _place(marked: Tensor) -> str:
    """Where the first marked entry of (*batch, T, D) stands, in words."""
    *batch, step, column = (int(i) for i in marked.nonzero()[0])
    sequence = f"sequence {batch[0] if len(batch) == 1 else tuple(batch)}, " if batch else ""
    return f"{sequence}step {step}, column {column}"


def _inputs(u: Any, layout: Layout, values: Tensor, sizes: Tensor, lengths: Any) -> Tensor:
    """Inputs as (*batch, T, P), matched to the data; NaN is an error inside a sequence."""
    batch, steps = tuple(sizes.shape), values.shape[sizes.ndim]
    kind: Layout = "list"
    if isinstance(u, (list, tuple)) and u and np.ndim(u[0]) > 0:
        parts = list(u)
        if len(batch) != 1 or len(parts) != batch[0]:
            wanted = f"a list of {batch[0]} sequences" if len(batch) == 1 else f"an array (*{batch}, {steps}, P)"
            raise ValueError(f"u must be {wanted} to go with y, got a list of {len(parts)}")
    elif layout == "list" and lengths is not None and np.ndim(u) <= 2:
        parts, _ = _split(u, "u", lengths)
    else:
        (parts, _), kind = _split(u, "u", None), "one"
    inputs, given, own = _assemble(parts, kind, "u", lengths if np.ndim(parts[0]) > 2 else None)
    if kind == "list":
        wrong = (own != sizes) & ((own != steps) | (layout == "list"))
        if wrong.any():
            first = int(wrong.nonzero()[0, 0])
            raise ValueError(f"u[{first}] has {int(own[first])} steps but y[{first}] has {int(sizes[first])}")
        missing = (0, 0, 0, steps - inputs.shape[-2])
        inputs, given = torch.nn.functional.pad(inputs, missing), torch.nn.functional.pad(given, missing)
    if inputs.shape[-2] != steps:
        raise ValueError(f"u has {inputs.shape[-2]} steps but y has {steps}")
    if len(inputs.shape) > 2 and tuple(inputs.shape[:-2]) != batch:
        raise ValueError(f"u must have shape (*{batch}, {steps}, P) like y, got {tuple(inputs.shape)}")
    inputs, given = inputs.expand(*batch, -1, -1), given.expand(*batch, -1, -1)
    inside = (torch.arange(steps) < sizes.unsqueeze(-1)).unsqueeze(-1)
    unknown = ~given & inside
    if unknown.any():
        raise ValueError(f"u must be known at every step, got NaN at {_place(unknown)}")
    return inputs


def future_inputs(u: Any, batch_shape: Sequence[int], steps: int, name: str = "future_u") -> Tensor:
    """Inputs of the coming steps as (*batch, steps, P)."""
    if isinstance(u, (list, tuple)) and u and np.ndim(u[0]) > 0 and len(batch_shape) == 1:
        pairs = [_convert(part, name) for part in u]
        tensor, given = torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])
    else:
        tensor, given = _convert(u, name)
    if tensor.shape[-2] != steps:
        raise ValueError(f"{name} must give {steps} steps, got {tensor.shape[-2]}")
    if not given.all():
        raise ValueError(f"{name} must be known at every step, got NaN at {_place(~given)}")
    return tensor.expand(*batch_shape, steps, tensor.shape[-1])


def step_input(u: Tensor | None, t: int, axis: int = 1) -> Tensor | None:
    """The inputs of one step, None where the model takes none."""
    return None if u is None else u.select(axis, t)
