"""What hidden states say about one row of data, for `hmm_few` and `hmm_many`: log-densities of L states in registers.

    relative(size, kind, entries, centres, tops, values, b, t) = log p(y_t given z_t) - shift, shift     largest is 0
    emitted (size, kind, entries, centres, tops, values, b, t) = e_t = exp of that, shift
    emit_rows(size, kind, entries, centres, tops, values, b, first, n, e, shifts): e_t of n steps and of all states
    collect (size, kind, sums, centres, values, b, t, weight): add what the derivative in parameters is made of

L = len(size) states make a group, and `prepare` returns the parameters of all G groups; all but `emit_rows` take those
of one.

| kind       | entries (G, P, L)                             | centres (G, D + 1, L)        | tops (M,)              |
|------------|-----------------------------------------------|------------------------------|------------------------|
| a table    | none                                          | none                         | none                   |
| symbols    | log p - top of each, or the exponential; P = M| none                         | largest log p of each  |
| Gaussian   | whiteners W_k, their lower triangles row by   | means, and the density's     | none                   |
|            | row, or (P = D) their diagonals               | logarithm at them            |                        |

`collect` adds to sums (S, L): the weights of each symbol (S = M), or w, w (x - m) and the lower triangle (the diagonal)
of w (x - m)(x - m)'.

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
    return np.empty((1, 0, len(size))), np.empty((1, 0, len(size))), np.empty(0)


@njit(**_OPTIONS)
def _prepare_symbols(size, log_probs, exponentials):
    (n, n_symbols), lanes = log_probs.shape, len(size)
    entries, row = np.full((-(-n // lanes), n_symbols, lanes), -np.inf), np.empty(n_symbols)
    tops = np.full(n_symbols, -np.inf)
    for k in range(n):
        normalise_logs(log_probs[k], row)
        for m in range(n_symbols):
            entries[k // lanes, m, k % lanes] = row[m]
            tops[m] = max(tops[m], row[m])
    for m in range(n_symbols):
        tops[m] = tops[m] if tops[m] > -np.inf else 0.0
        for g in range(entries.shape[0]):
            logs = V.subtract(V.load(size, entries[g], m), tops[m])
            V.store(entries[g], m, V.exponential(logs) if exponentials else logs)
    return entries, np.empty((1, 0, lanes)), tops


@njit(**_OPTIONS)
def _prepare_gaussian(size, means, stored):
    (n, dim), lanes = means.shape, len(size)
    diagonal, groups = stored.ndim == 2, -(-n // lanes)
    whitener = np.empty((n, dim, dim))
    if diagonal:
        gaussian.invert_variances(stored, whitener)
    else:
        gaussian.invert_factors(stored, whitener)
    entries = np.zeros((groups, dim if diagonal else dim * (dim + 1) // 2, lanes))
    centres = np.zeros((groups, dim + 1, lanes))
    centres[:, dim] = -np.inf
    for k in range(n):
        g, lane = k // lanes, k % lanes
        centres[g, dim, lane] = -0.5 * dim * gaussian.LOG_2PI
        place = 0
        for d in range(dim):
            centres[g, dim, lane] += math.log(whitener[k, d, d])
            centres[g, d, lane] = means[k, d]
            for j in range(d if diagonal else 0, d + 1):
                entries[g, place, lane] = whitener[k, d, j]
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


def _known(kind):
    """The number of columns of Gaussian rows, and whether the covariances are diagonal."""
    return (len(kind) - GAUSSIAN) % WIDEST + 1, len(kind) >= GAUSSIAN + WIDEST


def n_sums(kind, n_symbols):
    """How many sums `collect` adds to for every state."""
    if len(kind) < GAUSSIAN:
        return n_symbols if len(kind) == SYMBOLS else 0
    dim, diagonal = _known(kind)
    return 1 + dim + (dim if diagonal else dim * (dim + 1) // 2)


def _which(builder, start, n_symbols):
    """The symbol at a place, or 0 for what is none, to stay inside the memory."""
    m = builder.fptosi(builder.load(start), V.LONG)
    return builder.select(builder.icmp_unsigned("<", m, n_symbols), m, V.whole(0))


def _symbol(builder, width, entries, tops, start):
    m = _which(builder, start, cgutils.unpack_tuple(builder, tops.shape)[0])
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


def _start_of(builder, data, b, t):
    """Where the row values[b, t] begins, and its size."""
    _, n_steps, n_columns = cgutils.unpack_tuple(builder, data.shape)
    step = builder.add(builder.mul(b, n_steps), t)
    return builder.gep(data.data, [builder.mul(step, n_columns)]), n_columns


def _of_a_row(exponentials):
    def typed(typing, size, kind, entries, centres, tops, values, b, t):
        width = len(size)

        def generate(context, builder, signature, arguments):
            rows, means, largest, data = (
                context.make_array(array)(context, builder, argument)
                for array, argument in zip((entries, centres, tops, values), arguments[2:6], strict=True)
            )
            start, n_columns = _start_of(builder, data, arguments[6], arguments[7])
            if len(kind) == SYMBOLS:
                found = _symbol(builder, width, rows, largest, start)
                return context.make_tuple(builder, signature.return_type, found)
            if len(kind) == TABLE:
                found = _table(builder, width, n_columns, start)
            else:
                found = _gaussian(builder, width, *_known(kind), rows, means, start)
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


@intrinsic
def _density(typing, size, kind, entries, centres, values, b, t):
    """log p(y_t given z_t) of Gaussian states."""
    width = len(size)

    def generate(context, builder, signature, arguments):
        rows, means, data = (
            context.make_array(array)(context, builder, argument)
            for array, argument in zip((entries, centres, values), arguments[2:5], strict=True)
        )
        start, _ = _start_of(builder, data, arguments[5], arguments[6])
        return _gaussian(builder, width, *_known(kind), rows, means, start)

    return V.Vector(width)(size, kind, entries, centres, values, types.intp, types.intp), generate


@intrinsic
def collect(typing, size, kind, sums, centres, values, b, t, weight):
    """Add the row values[b, t] with the weights of its states to `sums`."""
    width = len(size)

    def generate(context, builder, signature, arguments):
        total, means, data = (
            context.make_array(array)(context, builder, argument)
            for array, argument in zip((sums, centres, values), arguments[2:5], strict=True)
        )
        start, _ = _start_of(builder, data, arguments[5], arguments[6])
        weight = arguments[7]

        def increase(place, more):
            row = _row_of(builder, total, place, width)
            builder.store(builder.fadd(builder.load(row, align=8), more, flags=V.FAST), row, align=8)

        if len(kind) == SYMBOLS:
            increase(_which(builder, start, cgutils.unpack_tuple(builder, total.shape)[0]), weight)
        if len(kind) >= GAUSSIAN:
            (dim, diagonal), away = _known(kind), []
            increase(V.whole(0), weight)
            place = 1 + dim
            for i in range(dim):
                value = V.everywhere(builder, builder.load(builder.gep(start, [V.whole(i)])), width)
                away.append(builder.fsub(value, _load(builder, means, V.whole(i), width)))
                weighted = builder.fmul(weight, away[i], flags=V.FAST)
                increase(V.whole(1 + i), weighted)
                for j in range(i if diagonal else 0, i + 1):
                    increase(V.whole(place), builder.fmul(weighted, away[j], flags=V.FAST))
                    place += 1
        return context.get_dummy_value()

    arguments = (size, kind, sums, centres, values, types.intp, types.intp, V.Vector(width))
    return types.void(*arguments), generate


# ---------------------------------------------------------------------------------------------- many rows


def _fill(size, kind, entries, centres, tops, values, b, first, n_rows, e, shifts):
    """Logarithms in e (n_rows * G, L); or e itself and the shifts, with True, where it is only looked up."""


@overload(_fill)
def _fill_rows(size, kind, entries, centres, tops, values, b, first, n_rows, e, shifts):
    def from_table(size, kind, entries, centres, tops, values, b, first, n_rows, e, shifts):
        n, flat = values.shape[2], e.reshape(e.size)
        width = flat.size // n_rows if n_rows > 0 else 0
        for i in range(n_rows):
            for k in range(n):
                flat[i * width + k] = values[b, first + i, k]
            for k in range(n, width):
                flat[i * width + k] = -np.inf
        return False

    def symbols(size, kind, entries, centres, tops, values, b, first, n_rows, e, shifts):
        groups, n_symbols = entries.shape[0], tops.shape[0]
        for g in range(groups):
            rows = entries[g]
            for i in range(n_rows):
                m = int(values[b, first + i, 0])
                m = m if 0 <= m < n_symbols else 0
                shifts[i] = tops[m]
                V.store(e, i * groups + g, V.load(size, rows, m))
        return True

    def densities(size, kind, entries, centres, tops, values, b, first, n_rows, e, shifts):
        groups = entries.shape[0]
        for g in range(groups):
            rows, means = entries[g], centres[g]
            for i in range(n_rows):
                V.store(e, i * groups + g, _density(size, kind, rows, means, values, b, first + i))
        return False

    return (from_table, symbols, densities)[min(len(kind), GAUSSIAN)]


@njit(**_OPTIONS)
def emit_rows(size, kind, entries, centres, tops, values, b, first, n_rows, e, shifts):
    """Write e_t of n_rows steps from `first` on to e (n_rows * G, L), and their shifts."""
    if n_rows == 0 or _fill(size, kind, entries, centres, tops, values, b, first, n_rows, e, shifts):
        return
    groups = e.shape[0] // n_rows
    for i in range(n_rows):
        most = V.load(size, e, i * groups)
        for g in range(1, groups):
            most = V.larger(most, V.load(size, e, i * groups + g))
        top = V.largest(most)
        top = top if top > -np.inf else 0.0
        shifts[i] = top
        for g in range(groups):
            V.store(e, i * groups + g, V.exponential(V.subtract(V.load(size, e, i * groups + g), top)))


@njit(**_OPTIONS)
def moments(size, kind, first, last, values, weights, means, sums):
    """`collect` complete rows of a group of GAUSSIAN: values (1, N, D), weights (N, K), means (K, D).

    Stretch s of sums (stretches, G, S, L), `first` to `last` of them, gets the sums over its rows.
    """
    (n_rows, n), (stretches, groups), lanes = weights.shape, sums.shape[:2], len(size)
    centres, flat = np.zeros((groups, means.shape[1], lanes)), weights.reshape(weights.size)
    for k in range(n):
        for d in range(means.shape[1]):
            centres[k // lanes, d, k % lanes] = means[k, d]
    for s in range(first, last + 1):
        for g in range(groups):
            own, mine = sums[s, g], centres[g]
            for row in range(-(-s * n_rows // stretches), -(-(s + 1) * n_rows // stretches)):
                collect(size, kind, own, mine, values, 0, row, V.load_part(size, flat, row * n + g * lanes))


@njit(**_OPTIONS)
def unpack_moments(sums, mass, away_sum, total):
    """Sums of Gaussian states over stretches (stretches, G, S, L) as `gaussian` has them; total's lower triangle."""
    (n, dim), lanes = away_sum.shape, sums.shape[3]
    diagonal = sums.shape[2] == 1 + 2 * dim and dim > 1
    for k in range(n):
        g, lane = k // lanes, k % lanes
        mass[k] = 0.0
        for s in range(sums.shape[0]):
            mass[k] += sums[s, g, 0, lane]
        place = 1 + dim
        for i in range(dim):
            away_sum[k, i] = 0.0
            for s in range(sums.shape[0]):
                away_sum[k, i] += sums[s, g, 1 + i, lane]
            for j in range(i if diagonal else 0, i + 1):
                total[k, i, j] = 0.0
                for s in range(sums.shape[0]):
                    total[k, i, j] += sums[s, g, place, lane]
                place += 1
