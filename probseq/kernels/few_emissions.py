"""What a hidden state says about one row of data, for `hmm_few`: log-densities of W states in the registers.

    relative(size, kind, entries, centres, tops, values, b, t) = log p(y_t given z_t) - shift, shift     largest is 0
    emitted (size, kind, entries, centres, tops, values, b, t) = e_t = exp of that, shift

| len(kind) | emission | entries (P, W)              | centres                      | tops                          |
|-----------|----------|-----------------------------|------------------------------|-------------------------------|
| 0         | a table  | none                        | none                         | (K,), for its size            |
| 1         | symbols  | log p - top of each, or the | none                         | (M,), the largest log p of a  |
|           |          | exponential; P = M          |                              | symbol                        |
| 2         | Gaussian | whiteners W_k, their lower  | (D + 1, W), means, and the   | none                          |
|           |          | triangles row by row, or    | density's logarithm at them  |                               |
|           |          | (P = D) their diagonals     |                              |                               |

Each is one sequence of instructions, since a call between compiled functions with arrays among its arguments counts
references, 5 ns for each of them. Entries behind the last state are -inf, and e_t there 0.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from probseq.kernels import gaussian
from probseq.kernels import vectors as V

_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


@njit(**_OPTIONS)
def normalise_logs(stored, out):
    """out = stored - log sum exp(stored) for one row; False where that is no distribution."""
    top = -np.inf
    for k in range(stored.shape[0]):
        top = max(top, stored[k])
    mass = 0.0
    for k in range(stored.shape[0]):
        mass += math.exp(stored[k] - top)
    constant = top + math.log(mass)
    for k in range(stored.shape[0]):
        out[k] = stored[k] - constant
    return -np.inf < constant < np.inf


def prepare(size, emission, n, exponentials):
    """entries, centres, tops from parameters of n states as emissions store them; `exponentials` for `emitted`."""


@njit(**_OPTIONS)
def _prepare_table(size, n):
    return np.empty((0, len(size))), np.empty((0, len(size))), np.empty(n)


@njit(**_OPTIONS)
def _prepare_symbols(size, log_probs, exponentials):
    n, n_symbols = log_probs.shape
    entries, tops, row = np.full((n_symbols, len(size)), -np.inf), np.empty(n_symbols), np.empty(n_symbols)
    for k in range(n):
        normalise_logs(log_probs[k], row)
        for m in range(n_symbols):
            entries[m, k] = row[m]
    for m in range(n_symbols):
        logs = V.load(size, entries, m)
        largest = V.largest(logs)
        tops[m] = largest if largest > -np.inf else 0.0
        logs = V.subtract(logs, tops[m])
        V.store(entries, m, V.exponential(logs) if exponentials else logs)
    return entries, np.empty((0, len(size))), tops


@njit(**_OPTIONS)
def _prepare_gaussian(size, means, stored):
    (n, dim), width = means.shape, len(size)
    diagonal = stored.ndim == 2
    whitener = np.empty((n, dim, dim))
    if diagonal:
        gaussian.invert_variances(stored, whitener)
    else:
        gaussian.invert_factors(stored, whitener)
    entries, centres = np.zeros((dim if diagonal else dim * (dim + 1) // 2, width)), np.zeros((dim + 1, width))
    centres[dim] = -np.inf
    for k in range(n):
        centres[dim, k] = -0.5 * dim * gaussian.LOG_2PI
        place = 0
        for d in range(dim):
            centres[dim, k] += math.log(whitener[k, d, d])
            centres[d, k] = means[k, d]
            for j in range(d if diagonal else 0, d + 1):
                entries[place, k] = whitener[k, d, j]
                place += 1
    return entries, centres, np.empty(1)


@overload(prepare)
def _prepare(size, emission, n, exponentials):
    if len(emission) == 2:
        return lambda size, emission, n, exponentials: _prepare_gaussian(size, emission[0], emission[1])
    if len(emission) == 1:
        return lambda size, emission, n, exponentials: _prepare_symbols(size, emission[0], exponentials)
    return lambda size, emission, n, exponentials: _prepare_table(size, n)


def _row_of(builder, array, index, width):
    """A pointer to a row of a (.., W) array as a vector."""
    place = builder.gep(array.data, [builder.mul(index, ir.Constant(V.LONG, width))])
    return builder.bitcast(place, ir.VectorType(V.DOUBLE, width).as_pointer())


def _load(builder, array, index, width):
    return builder.load(_row_of(builder, array, index, width), align=8)


def _one(builder, array, index):
    return builder.load(builder.gep(array.data, [index]))


def _symbol(builder, width, entries, centres, tops, start, n_columns, values):
    m, n_symbols = builder.fptosi(builder.load(start), V.LONG), cgutils.unpack_tuple(builder, tops.shape)[0]
    m = builder.select(builder.icmp_unsigned("<", m, n_symbols), m, ir.Constant(V.LONG, 0))  # stay inside the memory
    return _load(builder, entries, m, width), _one(builder, tops, m)


def _table(builder, width, entries, centres, tops, start, n_columns, values):
    row = ir.Constant(ir.VectorType(V.DOUBLE, width), [-math.inf] * width)
    for k in range(width):
        inside = builder.icmp_signed("<", ir.Constant(V.LONG, k), n_columns)
        place = builder.select(inside, ir.Constant(V.LONG, k), ir.Constant(V.LONG, 0))
        entry = builder.load(builder.gep(start, [place]))
        entry = builder.select(inside, entry, ir.Constant(V.DOUBLE, -math.inf))
        row = builder.insert_element(row, entry, ir.Constant(ir.IntType(32), k))
    return row


def _gaussian(builder, width, entries, centres, tops, start, n_columns, values):
    kind = ir.VectorType(V.DOUBLE, width)
    n_entries = cgutils.unpack_tuple(builder, entries.shape)[0]
    diagonal = builder.icmp_signed("==", n_entries, n_columns)
    square, white, place = (cgutils.alloca_once(builder, x) for x in (kind, kind, V.LONG))
    builder.store(V.constant(0.0, width), square)
    builder.store(ir.Constant(V.LONG, 0), place)
    one = ir.Constant(V.LONG, 1)
    with cgutils.for_range(builder, n_columns) as outer:
        builder.store(V.constant(0.0, width), white)
        first = builder.select(diagonal, outer.index, ir.Constant(V.LONG, 0))
        with cgutils.for_range_slice(builder, first, builder.add(outer.index, one), one) as (j, _):
            value = V.everywhere(builder, builder.load(builder.gep(start, [j])), width)
            away = builder.fsub(value, _load(builder, centres, j, width))
            term = builder.fmul(_load(builder, entries, builder.load(place), width), away, flags=V.FAST)
            builder.store(builder.fadd(builder.load(white), term, flags=V.FAST), white)
            builder.store(builder.add(builder.load(place), one), place)
        own = builder.load(white)
        builder.store(builder.fadd(builder.load(square), builder.fmul(own, own, flags=V.FAST), flags=V.FAST), square)
    half = builder.fmul(builder.load(square), V.constant(-0.5, width), flags=V.FAST)
    return builder.fadd(_load(builder, centres, n_columns, width), half, flags=V.FAST)


def _of_a_row(exponentials):
    def typed(typing, size, kind, entries, centres, tops, values, b, t):
        width = len(size)
        logs = (_table, _symbol, _gaussian)[len(kind)]

        def generate(context, builder, signature, arguments):
            rows, means, largest, data = (
                context.make_array(array)(context, builder, argument)
                for array, argument in zip((entries, centres, tops, values), arguments[2:6], strict=True)
            )
            _, n_steps, n_columns = cgutils.unpack_tuple(builder, data.shape)
            step = builder.add(builder.mul(arguments[6], n_steps), arguments[7])
            start = builder.gep(data.data, [builder.mul(step, n_columns)])
            found = logs(builder, width, rows, means, largest, start, n_columns, data)
            if len(kind) == 1:
                return context.make_tuple(builder, signature.return_type, found)
            top = V.largest_entry(builder, found, width)
            some = builder.fcmp_ordered(">", top, ir.Constant(V.DOUBLE, -math.inf))
            top = builder.select(some, top, ir.Constant(V.DOUBLE, 0.0))
            row = builder.fsub(found, V.everywhere(builder, top, width))
            row = V.exponentials(builder, row, width) if exponentials else row
            return context.make_tuple(builder, signature.return_type, (row, top))

        result = types.Tuple((V.Vector(width), types.float64))
        return result(size, kind, entries, centres, tops, values, types.intp, types.intp), generate

    return typed


relative = intrinsic(_of_a_row(False))
emitted = intrinsic(_of_a_row(True))
