"""The means of the Kalman filter and smoother for many sequences and few states, held in registers; compiled.

Sequences of equal length, complete, with the same covariances and constant parameters: one lane of a vector register
each, a `pack` of them at a time, forwards and at once backwards, while their moments are in the nearest caches. With
L_t = A (I - K_t C), the recursions of `kalman.py` and `kalman_adjoint.py` in the form that waits for least:

    v_t = y_t - C m_t      u_t = S_t^-1 v_t           m_{t+1} = L_t m_t + A K_t y_t + d
    e_t = u_t - (A K_t)' r_{t+1}                      r_t = L_t' r_{t+1} + C' u_t         zhat_t = m_t + P_t r_t

What multiplies moments depends on the step's covariances alone, the row slot[t] of `table`:

    table (rows, .)   L (n, n), A K (n, m), S^-1 (m, m), P (n, n) of every row, one after another
    emission (.,)     C (m, n), d (n,)
    data (T m, W)     y_t of the pack, then u_t, then e_t                     moments (T n, W)   m_t, then zhat_t
    sums (k, B)       of every sequence, the terms of its gradient: r_0, then over t
                      r_{t+1} zhat_t', r_{t+1} r_{t+1}' (j <= i), r_{t+1}, e_t zhat_t', e_t e_t' (k <= j)

B is padded to whole packs. The loops are written in LLVM's vector instructions, as those of `registers.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from probseq.kernels.instructions import LANES, ZEROS, Writer, constant

_INDEX = ir.IntType(32)


def n_sums(n: int, m: int) -> int:
    """Rows of `sums`."""
    return n + n * n + n * (n + 1) // 2 + n + m * n + m * (m + 1) // 2


class _Steps(Writer):
    """Steps of a pack: numbers of the table stand for vectors of equal entries."""

    def sizes(self) -> tuple[int, int]:
        """n and m, the lengths of the first two arguments."""
        return len(self.signature.args[0]), len(self.signature.args[1])

    def numbers(self, memory: Any, offset: Any, count: int) -> list[Any]:
        """`count` numbers from an offset on, each as a vector."""
        places = [self.builder.gep(memory, [self.builder.add(offset, constant(i))]) for i in range(count)]
        return [self.spread(self.builder.load(place)) for place in places]

    def rows(self, memory: Any, first: Any, count: int) -> list[Any]:
        """Rows first .. first + count - 1 of a table of vectors."""
        return [self.load(memory, self.row(first, i)) for i in range(count)]

    def put(self, values: list[Any], memory: Any, first: Any) -> None:
        for i, value in enumerate(values):
            self.store(value, memory, self.row(first, i))

    def row(self, first: Any, i: int) -> Any:
        return self.builder.mul(self.builder.add(first, constant(i)), constant(LANES))

    def plus_products(self, total: Any, left: list[Any], right: list[Any]) -> Any:
        for a, b in zip(left, right, strict=True):
            total = self.builder.fmul(a, b) if total is None else self.add_product(total, a, b)
        return total

    def minus_products(self, total: Any, left: list[Any], right: list[Any]) -> Any:
        for a, b in zip(left, right, strict=True):
            product = self.builder.fmul(a, b, flags=("contract",))
            total = self.builder.fsub(total, product, flags=("contract",))
        return total

    def place_of(self, slot: Any, t: Any, n: int, m: int) -> Any:
        """Where the row of step t begins in the table."""
        row = self.builder.load(self.builder.gep(slot, [t]))
        return self.builder.mul(row, constant(2 * n * n + n * m + m * m))


@intrinsic
def _forwards(typing_context, states, sensors, keep, table, slot, emission, start, n_steps, data, moments, square):
    """The filter: data becomes u_t; moments m_t where `keep` is a tuple of one; square (1, W) sum_t v_t' u_t."""
    signature = types.void(
        states, sensors, keep, table, slot, emission, start, types.intp, data, moments, square
    )  # fmt: skip

    def generate(context, builder, signature, arguments):
        writer = _Steps(context, builder, signature)
        n, m = writer.sizes()
        table, slot, emission, start, data, moments, square = (
            writer.memory(i, arguments[i]) for i in (3, 4, 5, 6, 8, 9, 10)
        )
        constants = writer.numbers(emission, constant(0), m * n + n)
        shift = constants[m * n :]

        def body(t: Any, carried: list[Any]) -> list[Any]:
            mean, total = carried[:n], carried[n]
            at = writer.place_of(slot, t, n, m)
            closed = writer.numbers(table, at, n * n)
            gain = writer.numbers(table, builder.add(at, constant(n * n)), n * m)
            inverse = writer.numbers(table, builder.add(at, constant(n * n + n * m)), m * m)
            first = builder.mul(t, constant(m))
            y = writer.rows(data, first, m)
            v = [writer.minus_products(y[j], constants[j * n : (j + 1) * n], mean) for j in range(m)]
            u = [writer.plus_products(None, inverse[j * m : (j + 1) * m], v) for j in range(m)]
            if len(signature.args[2]):
                writer.put(u, data, first)
                writer.put(mean, moments, builder.mul(t, constant(n)))
            following = [
                writer.plus_products(
                    writer.plus_products(shift[i], gain[i * m : (i + 1) * m], y), closed[i * n : (i + 1) * n], mean
                )
                for i in range(n)
            ]
            return [*following, writer.plus_products(total, v, u)]

        begun = [*writer.rows(start, constant(0), n), ZEROS]
        writer.put([writer.loop(constant(0), arguments[7], 1, begun, body)[n]], square, constant(0))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _backwards(typing_context, states, sensors, keep, table, slot, emission, n_steps, data, moments, sums, column):
    """The smoother: moments become zhat_t where `keep` is a tuple of one; else sums[:, column : column + W] are set.

    With a `keep` of two data become e_t.
    """
    signature = types.void(
        states, sensors, keep, table, slot, emission, types.intp, data, moments, sums, types.intp
    )  # fmt: skip

    def generate(context, builder, signature, arguments):
        writer = _Steps(context, builder, signature)
        n, m = writer.sizes()
        table, slot, emission, data, moments, sums = (writer.memory(i, arguments[i]) for i in (3, 4, 5, 7, 8, 9))
        constants = writer.numbers(emission, constant(0), m * n)
        last = builder.sub(arguments[6], constant(1))
        with_sums, with_errors = len(signature.args[2]) != 1, len(signature.args[2]) == 2
        zero = ZEROS

        def body(back: Any, carried: list[Any]) -> list[Any]:
            t = builder.sub(last, back)
            later, totals = carried[:n], carried[n:]
            at = writer.place_of(slot, t, n, m)
            closed = writer.numbers(table, at, n * n)
            cov = writer.numbers(table, builder.add(at, constant(n * n + n * m + m * m)), n * n)
            first, of_data = builder.mul(t, constant(n)), builder.mul(t, constant(m))
            mean, u = writer.rows(moments, first, n), writer.rows(data, of_data, m)
            r = []
            for i in range(n):
                own = writer.plus_products(None, [constants[j * n + i] for j in range(m)], u)
                r.append(writer.plus_products(own, closed[i::n], later))
            z = [writer.plus_products(mean[i], cov[i * n : (i + 1) * n], r) for i in range(n)]
            if not with_sums:
                writer.put(z, moments, first)
                return r
            gain = writer.numbers(table, builder.add(at, constant(n * n)), n * m)
            e = [writer.minus_products(u[j], gain[j::m], later) for j in range(m)]
            if with_errors:
                writer.put(e, data, of_data)
            pairs = [(a, b) for a in later for b in z]
            pairs += [(later[i], later[j]) for i in range(n) for j in range(i + 1)]
            terms: list[Any] = [writer.add_product(total, *pair) for total, pair in zip(totals, pairs, strict=False)]
            terms += [builder.fadd(total, one) for total, one in zip(totals[len(pairs) :], later, strict=False)]
            more = [(a, b) for a in e for b in z] + [(e[j], e[k]) for j in range(m) for k in range(j + 1)]
            rest = totals[len(terms) :]
            return [*r, *terms, *(writer.add_product(total, *pair) for total, pair in zip(rest, more, strict=True))]

        begun = [zero] * (n_sums(n, m) if with_sums else n)
        found = writer.loop(constant(0), arguments[6], 1, begun, body)
        if with_sums:
            array = context.make_array(signature.args[9])(context, builder, arguments[9])
            width = builder.extract_value(array.shape, 1)
            for i, value in enumerate(found):
                writer.store(value, sums, builder.add(builder.mul(width, constant(i)), arguments[10]))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _transpose(typing_context, source, at, stride, target, place, target_stride):
    """target[place + i * target_stride + l] = source[at + l * stride + i] for i, l < W, in places of flat memory."""
    signature = types.void(source, types.intp, types.intp, target, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        writer = Writer(context, builder, signature)
        (_, at, stride, _, place, target_stride) = arguments
        source, target = (writer.memory(i, arguments[i]) for i in (0, 3))
        rows = [writer.load(source, builder.add(at, builder.mul(stride, constant(i)))) for i in range(LANES)]
        step = 1
        while step < LANES:
            for i in range(LANES):
                if not i & step:
                    low = [LANES + lane - step if lane & step else lane for lane in range(LANES)]
                    high = [LANES + lane if lane & step else lane + step for lane in range(LANES)]
                    rows[i], rows[i + step] = (
                        builder.shuffle_vector(
                            rows[i], rows[i + step], ir.Constant(ir.VectorType(_INDEX, LANES), places)
                        )
                        for places in (low, high)
                    )
            step *= 2
        for i, row in enumerate(rows):
            writer.store(row, target, builder.add(place, builder.mul(target_stride, constant(i))))
        return context.get_dummy_value()

    return signature, generate


_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}


@njit(**_OPTIONS)
def gather(source, origin, width, target):
    """target[i, l] = source[origin + l, i] for a pack; lanes from `width` on repeat the last sequence."""
    size, i = source.shape[1], 0
    if width == LANES:
        while i + LANES <= size:
            _transpose(source, origin * size + i, size, target, i * LANES, LANES)
            i += LANES
    for k in range(i, size):
        for lane in range(LANES):
            target[k, lane] = source[origin + min(lane, width - 1), k]


@njit(**_OPTIONS)
def scatter(source, target, origin, width):
    """target[origin + l, i] = source[i, l] for a pack."""
    size, i = target.shape[1], 0
    if width == LANES:
        while i + LANES <= size:
            _transpose(source, i * LANES, LANES, target, origin * size + i, size)
            i += LANES
    for lane in range(width):
        for k in range(i, size):
            target[origin + lane, k] = source[k, lane]


@njit(**_OPTIONS)
def make_table(A, C, cov, gain, whitener, rows):
    """The `table` of the first rows of the workspaces."""
    n, m = A.shape[0], C.shape[0]
    table = np.empty((rows, 2 * n * n + n * m + m * m))
    for s in range(rows):
        place = n * n
        for i in range(n):
            for j in range(m):
                total = 0.0
                for k in range(n):
                    total += A[i, k] * gain[s, j, k]
                table[s, place + i * m + j] = total
            for k in range(n):
                total = A[i, k]
                for j in range(m):
                    total -= table[s, place + i * m + j] * C[j, k]
                table[s, i * n + k] = total
        place += n * m
        for j in range(m):
            for k in range(m):
                total = 0.0
                for h in range(max(j, k), m):
                    total += whitener[s, h, j] * whitener[s, h, k]
                table[s, place + j * m + k] = total
        if cov.shape[0] > 0:
            place += m * m
            for i in range(n):
                for k in range(n):
                    table[s, place + i * n + k] = cov[s, i, k]
    return table


@njit(**_OPTIONS)
def run_packs(states, sensors, table, slot, log_norm, emission, m0, y, log_prob, smoothed, errors, sums, column):
    """Write log p(y) (B,); zhat (B, T n) where that has columns; else sums from a column on, if it has rows, and then
    e (B, T m) where that has columns.

    m0 (B, n), y (B, T m); `states` and `sensors` are tuples of n and m zeros.
    """
    n, m, batch, steps = len(states), len(sensors), y.shape[0], slot.shape[0]
    with_sums, with_means = sums.shape[0] > 0, smoothed.shape[1] > 0
    data = np.empty((steps * m, LANES))
    moments = np.empty((steps * n if with_sums or with_means else 0, LANES))
    start, square, constant = np.empty((n, LANES)), np.empty((1, LANES)), 0.0
    for t in range(steps):
        constant += log_norm[slot[t]]
    for origin in range(0, batch, LANES):
        width = min(LANES, batch - origin)
        gather(y, origin, width, data)
        for lane in range(LANES):
            for i in range(n):
                start[i, lane] = m0[origin + min(lane, width - 1), i]
        if with_sums or with_means:
            _forwards(states, sensors, (0,), table, slot, emission, start, steps, data, moments, square)
        else:
            _forwards(states, sensors, (), table, slot, emission, start, steps, data, moments, square)
        for lane in range(width):
            log_prob[origin + lane] = constant - 0.5 * square[0, lane]
        if with_means:
            _backwards(states, sensors, (0,), table, slot, emission, steps, data, moments, sums, 0)
            scatter(moments, smoothed, origin, width)
        elif with_sums and errors.shape[1] > 0:
            _backwards(states, sensors, (0, 0), table, slot, emission, steps, data, moments, sums, column + origin)
            scatter(data, errors, origin, width)
        elif with_sums:
            _backwards(states, sensors, (), table, slot, emission, steps, data, moments, sums, column + origin)


@njit(**_OPTIONS)
def unpack(totals, grad_A, grad_Q, grad_d, grad_C, grad_R):
    """Add the weighted sums (k,) of all sequences to the gradients; those of r_0 are not read."""
    n, m = grad_A.shape[0], grad_C.shape[0]
    place = n
    for i in range(n):
        for k in range(n):
            grad_A[i, k] += totals[place]
            place += 1
    place = add_symmetric(totals, place, grad_Q)
    for i in range(n):
        grad_d[i] += totals[place]
        place += 1
    for j in range(m):
        for k in range(n):
            grad_C[j, k] += totals[place]
            place += 1
    add_symmetric(totals, place, grad_R)


@njit(**_OPTIONS)
def add_symmetric(lower, place, out):
    """Add half of the matrix whose lower triangle stands row by row from a place on; return the place behind it."""
    for i in range(out.shape[0]):
        for k in range(i + 1):
            out[i, k] += 0.5 * lower[place]
            if k < i:
                out[k, i] += 0.5 * lower[place]
            place += 1
    return place
