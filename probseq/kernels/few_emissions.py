"""What a hidden state says about one row of data, for `hmm_few`: log-densities of W states in the registers.

    relative(size, kind, entries, centres, tops, values, b, t) = log p(y_t given z_t) - shift, shift     largest is 0
    emitted (size, kind, entries, centres, tops, values, b, t) = e_t = exp of that, shift

| kind       | entries (P, W)                                | centres                      | tops          |
|------------|-----------------------------------------------|------------------------------|---------------|
| a table    | none                                          | none                         | none          |
| symbols    | log p - top of each, or the exponential; P = M| none                         | (M,), largest |
|            |                                               |                              | log p of each |
| Gaussian   | whiteners W_k, their lower triangles row by   | (D + 1, W), means, and the   | none          |
|            | row, or (P = D) their diagonals               | density's logarithm at them  |               |

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

#: kinds of emission, as lengths of a tuple; GAUSSIAN + D - 1 for D columns, and WIDEST more with diagonal covariances
TABLE, SYMBOLS, GAUSSIAN = 0, 1, 2
WIDEST = 8
#: states that are few
WIDTH = 16
ZEROS = (0,) * (GAUSSIAN + 2 * WIDEST)

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
def _prepare_table(size):
    return np.empty((0, len(size))), np.empty((0, len(size))), np.empty(0)


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
    return lambda size, emission, n, exponentials: _prepare_table(size)


def kind_of(emission):
    """The kind of an emission's stored parameters, as the tuple that the kernels want."""
    if len(emission) < 2:
        return ZEROS[: len(emission)]
    return ZEROS[: GAUSSIAN + emission[0].shape[1] - 1 + (WIDEST if emission[1].ndim == 2 else 0)]


def _row_of(builder, array, index, width):
    """A pointer to a row of a (.., W) array as a vector."""
    place = builder.gep(array.data, [builder.mul(index, V.whole(width))])
    return builder.bitcast(place, ir.VectorType(V.DOUBLE, width).as_pointer())


def _load(builder, array, index, width):
    return builder.load(_row_of(builder, array, index, width), align=8)


def _one(builder, array, index):
    return builder.load(builder.gep(array.data, [index]))


def _symbol(builder, width, entries, tops, start):
    m, n_symbols = builder.fptosi(builder.load(start), V.LONG), cgutils.unpack_tuple(builder, tops.shape)[0]
    m = builder.select(builder.icmp_unsigned("<", m, n_symbols), m, V.whole(0))  # stay inside the memory
    return _load(builder, entries, m, width), _one(builder, tops, m)


def _table(builder, width, n_columns, start):
    row = ir.Constant(ir.VectorType(V.DOUBLE, width), [-math.inf] * width)
    for k in range(width):
        inside = builder.icmp_signed("<", V.whole(k), n_columns)
        place = builder.select(inside, V.whole(k), V.whole(0))
        entry = builder.load(builder.gep(start, [place]))
        entry = builder.select(inside, entry, ir.Constant(V.DOUBLE, -math.inf))
        row = builder.insert_element(row, entry, ir.Constant(ir.IntType(32), k))
    return row


def _gaussian(builder, width, n_columns, diagonal, entries, centres, start):
    away = []
    for j in range(n_columns):
        value = V.everywhere(builder, builder.load(builder.gep(start, [V.whole(j)])), width)
        away.append(builder.fsub(value, _load(builder, centres, V.whole(j), width)))
    square, place = V.constant(0.0, width), 0
    for d in range(n_columns):
        white = V.constant(0.0, width)
        for j in range(d if diagonal else 0, d + 1):
            term = builder.fmul(_load(builder, entries, V.whole(place), width), away[j], flags=V.FAST)
            white = term if j == 0 or diagonal else builder.fadd(white, term, flags=V.FAST)
            place += 1
        own = builder.fmul(white, white, flags=V.FAST)
        square = own if d == 0 else builder.fadd(square, own, flags=V.FAST)
    half = builder.fmul(square, V.constant(-0.5, width), flags=V.FAST)
    return builder.fadd(_load(builder, centres, V.whole(n_columns), width), half, flags=V.FAST)


def _of_a_row(exponentials):
    def typed(typing, size, kind, entries, centres, tops, values, b, t):
        width = len(size)

        def generate(context, builder, signature, arguments):
            rows, means, largest, data = (
                context.make_array(array)(context, builder, argument)
                for array, argument in zip((entries, centres, tops, values), arguments[2:6], strict=True)
            )
            _, n_steps, n_columns = cgutils.unpack_tuple(builder, data.shape)
            step = builder.add(builder.mul(arguments[6], n_steps), arguments[7])
            start = builder.gep(data.data, [builder.mul(step, n_columns)])
            if len(kind) == SYMBOLS:
                found = _symbol(builder, width, rows, largest, start)
                return context.make_tuple(builder, signature.return_type, found)
            if len(kind) == TABLE:
                found = _table(builder, width, n_columns, start)
            else:
                n_known, diagonal = (len(kind) - GAUSSIAN) % WIDEST + 1, len(kind) >= GAUSSIAN + WIDEST
                found = _gaussian(builder, width, n_known, diagonal, rows, means, start)
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


@njit(**_OPTIONS)
def moments(size, n_columns, first, last, rows, weights, means, mass, away_sum, total):
    """`gaussian.scatter_groups` for few states and columns (D, the length of n_columns) of complete rows.

    Group g of mass.shape[0] gets the sums over its stretch of rows: mass (G, K), away_sum (G, K, D), and of
    total (G, K, D, D) the lower triangle.
    """
    (n_rows, n), dim, n_groups = weights.shape, len(n_columns), mass.shape[0]
    centres, flat = np.zeros((dim, len(size))), weights.reshape(weights.size)
    for k in range(n):
        for d in range(dim):
            centres[d, k] = means[k, d]
    for g in range(first, last + 1):
        sums = np.zeros((1 + dim + dim * (dim + 1) // 2, len(size)))
        for row in range((g * n_rows + n_groups - 1) // n_groups, ((g + 1) * n_rows + n_groups - 1) // n_groups):
            V.add_moments(sums, n_columns, centres, rows, row, V.load_part(size, flat, row * n))
        for k in range(n):
            mass[g, k] = sums[0, k]
            place = 1 + dim
            for i in range(dim):
                away_sum[g, k, i] = sums[1 + i, k]
                for j in range(i + 1):
                    total[g, k, i, j] = sums[place, k]
                    place += 1
