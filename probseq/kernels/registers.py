"""Rows of weights, whole vector registers at a time, for the recursions of hidden Markov models with many states.

| call                                   | what it does                                                               |
|----------------------------------------|----------------------------------------------------------------------------|
| weigh(a, i, b, j, c, k, W)             | c = a * b, returns its sum                                                 |
| move(a, i, m, j, W, b, k, turn)        | b = a @ m, m (W, W)                                                        |
| move_both(a, i, m, W, scale, b, j, c,  | b = scale * (a @ m),  d = scale_2 * (m @ c), m (W, W) read once for both   |
|           k, scale_2, d, at, turn)     |                                                                            |
| rescale(a, i, W, scale, smallest, n)   | a *= scale; returns whether one of the first n is below `smallest`         |
| add_pairs(a, b, j, T, W, m)            | m += a' b, sums over T rows                                                |

Rows have W entries, a whole number of times 8; i, j, k, at are offsets into the memory of contiguous arrays of float64,
which are not checked. The loops are written in LLVM's vector instructions, since the compiler keeps no sums in
registers over a loop of scalars: a step with 32 states is three times faster. Sums are taken in an order that the
sizes alone fix.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from probseq.kernels.instructions import INTEGER, LANES, ZEROS, Writer, constant

GROUP = 8  # sums in registers at once: what it takes to keep multipliers of four steps' latency busy
PANELS = (16, 8, 4, 2, 1) if LANES == 8 else (8, 4, 2, 1)  # vectors of sums that a product holds
ROWS_AT_ONCE = min(4, LANES)  # that share a factor
TURNING = 64  # the width whose matrix still fits in the fastest cache, 32 KB
_BIT = ir.IntType(1)
_MASK = ir.VectorType(_BIT, LANES)


@intrinsic
def weigh(typing_context, a, i, b, j, c, k, width):
    """c[k:] = a[i:] * b[j:], and the sum of these products."""
    signature = types.float64(a, types.intp, b, types.intp, c, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        writer = Writer(context, builder, signature)
        (_, i, _, j, _, k, width) = arguments
        a, b, c = (writer.memory(place, arguments[place]) for place in (0, 2, 4))

        def body(at: Any, sums: list[Any]) -> list[Any]:
            product = builder.fmul(writer.load(a, builder.add(i, at)), writer.load(b, builder.add(j, at)))
            writer.store(product, c, builder.add(k, at))
            return [*sums[1:], builder.fadd(sums[0], product)]

        sums = writer.loop(constant(0), width, LANES, [ZEROS] * 4, body)
        return writer.entries_sum(builder.fadd(builder.fadd(sums[0], sums[1]), builder.fadd(sums[2], sums[3])))

    return signature, generate


@intrinsic
def move(typing_context, a, i, matrix, j, width, b, k, turn):
    """b[k:] = a[i:] @ matrix, which begins at j; from the last row on with odd `turn`.

    To turn at every step finds those rows of a large matrix that were read last still in the fastest cache.
    """
    signature = types.void(a, types.intp, matrix, types.intp, types.intp, b, types.intp, types.intp)

    def generate(context, builder, signature, arguments):
        writer = Writer(context, builder, signature)
        (_, i, _, j, width, _, k, turn) = arguments
        a, matrix, b = (writer.memory(place, arguments[place]) for place in (0, 2, 5))
        odd = builder.trunc(turn, _BIT)
        last = builder.sub(width, constant(1))
        start = builder.gep(a, [builder.add(i, builder.select(odd, last, constant(0)))])
        begin = builder.add(j, builder.select(odd, builder.mul(last, width), constant(0)))
        sign = builder.select(odd, constant(-1), constant(1))
        stride = builder.mul(sign, width)

        def panel(column: Any, size: int) -> None:
            rows = max(1, GROUP // size)

            def body(row: Any, sums: list[Any]) -> list[Any]:
                made = []
                for r in range(rows):
                    one = builder.add(row, constant(r))
                    entry = writer.spread(builder.load(builder.gep(start, [builder.mul(one, sign)])))
                    place = builder.add(builder.add(begin, builder.mul(one, stride)), column)
                    for v in range(size):
                        other = writer.load(matrix, builder.add(place, constant(v * LANES)))
                        made.append(writer.add_product(sums[r * size + v], entry, other))
                return made

            sums = writer.loop(constant(0), width, rows, [ZEROS] * (rows * size), body)
            while len(sums) > size:
                half = len(sums) // 2
                sums = [builder.fadd(x, y) for x, y in zip(sums[:half], sums[half:], strict=True)]
            for v in range(size):
                writer.store(sums[v], b, builder.add(builder.add(k, column), constant(v * LANES)))

        writer.panels(width, PANELS, panel)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def move_both(typing_context, a, i, matrix, width, scale, b, j, c, k, scale_2, d, at, turn):
    """b[j:] = scale * (a[i:] @ matrix) and d[at:] = scale_2 * (matrix @ c[k:]); `turn` as for `move`.

    A matrix that is larger than the fastest cache is read once instead of twice, which is what a step waits for.
    """
    place, number = types.intp, types.float64
    signature = types.void(
        a, place, matrix, place, number, b, place, c, place, number, d, place, place
    )  # fmt: skip

    def generate(context, builder, signature, arguments):
        writer = Writer(context, builder, signature)
        (_, i, _, width, scale, _, j, _, k, scale_2, _, first, turn) = arguments
        a, matrix, b, c, d = (writer.memory(which, arguments[which]) for which in (0, 2, 5, 7, 10))
        forwards, back = writer.spread(scale), writer.spread(scale_2)
        odd, last = builder.trunc(turn, _BIT), builder.sub(width, constant(LANES))

        def clear(at: Any, _: list[Any]) -> list[Any]:
            writer.store(ZEROS, d, builder.add(first, at))
            return []

        def panel(column: Any, size: int) -> None:
            steps = [constant(v * LANES) for v in range(size)]

            def body(row: Any, sums: list[Any]) -> list[Any]:
                row, made, dots = builder.select(odd, builder.sub(last, row), row), list(sums), []
                for begin in range(0, LANES, ROWS_AT_ONCE):
                    lines = [builder.add(row, constant(begin + r)) for r in range(ROWS_AT_ONCE)]
                    entries = [writer.spread(builder.load(builder.gep(a, [builder.add(i, one)]))) for one in lines]
                    places = [builder.add(builder.mul(one, width), column) for one in lines]
                    parts = [ZEROS] * ROWS_AT_ONCE
                    for v, step in enumerate(steps):
                        factor = writer.load(c, builder.add(builder.add(k, column), step))
                        for r, place in enumerate(places):
                            other = writer.load(matrix, builder.add(place, step))
                            made[v] = writer.add_product(made[v], entries[r], other)
                            parts[r] = writer.add_product(parts[r], other, factor)
                    dots += parts
                at = builder.add(first, row)
                more = builder.fmul(writer.sums_of_each(dots), back)
                writer.store(builder.fadd(writer.load(d, at), more), d, at)
                return made

            sums = writer.loop(constant(0), width, LANES, [ZEROS] * size, body)
            for step, total in zip(steps, sums, strict=True):
                writer.store(builder.fmul(total, forwards), b, builder.add(builder.add(j, column), step))

        writer.loop(constant(0), width, LANES, [], clear)
        writer.panels(width, PANELS, panel)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def rescale(typing_context, a, i, width, scale, smallest, n):
    """a[i:] *= scale; whether one of the first n entries is below `smallest` then."""
    signature = types.boolean(a, types.intp, types.intp, types.float64, types.float64, types.intp)

    def generate(context, builder, signature, arguments):
        writer = Writer(context, builder, signature)
        (_, i, width, scale, smallest, n) = arguments
        a = writer.memory(0, arguments[0])
        factor, bound = writer.spread(scale), writer.spread(smallest)
        lanes = ir.VectorType(INTEGER, LANES)
        numbers = ir.Constant(lanes, list(range(LANES)))
        zero = ir.Constant(ir.IntType(32), 0)

        def body(at: Any, found: list[Any]) -> list[Any]:
            place = builder.add(i, at)
            value = builder.fmul(writer.load(a, place), factor)
            writer.store(value, a, place)
            left = builder.insert_element(ir.Constant(lanes, ir.Undefined), builder.sub(n, at), zero)
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            room = builder.shuffle_vector(left, ir.Constant(lanes, ir.Undefined), zeros)
            counts = builder.icmp_signed("<", numbers, room)
            low = builder.and_(builder.fcmp_ordered("<", value, bound), counts)
            return [builder.or_(found[0], low)]

        (found,) = writer.loop(constant(0), width, LANES, [ir.Constant(_MASK, [0] * LANES)], body)
        bits = builder.bitcast(found, ir.IntType(LANES))
        return context.cast(
            builder, builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0)), types.boolean, types.boolean
        )

    return signature, generate


@intrinsic
def add_pairs(typing_context, a, b, j, n_rows, width, matrix):
    """matrix += sum_t outer(a[t], b[t]) over n_rows rows of W entries, those of b from the offset j on."""
    signature = types.void(a, b, types.intp, types.intp, types.intp, matrix)

    def generate(context, builder, signature, arguments):
        writer = Writer(context, builder, signature)
        (_, _, j, n_rows, width, _) = arguments
        a, b, matrix = (writer.memory(place, arguments[place]) for place in (0, 1, 5))
        lines = GROUP if LANES == GROUP else 4  # two columns of sums and their factors fill the registers

        def panel(column: Any, size: int) -> None:
            def tile(line: Any, _: list[Any]) -> list[Any]:
                places = [
                    builder.add(builder.add(builder.mul(builder.add(line, constant(r)), width), column),
                                constant(v * LANES))
                    for r in range(lines)
                    for v in range(size)
                ]  # fmt: skip

                def body(t: Any, sums: list[Any]) -> list[Any]:
                    row = builder.mul(t, width)
                    begin = builder.add(builder.add(j, row), column)
                    right = [writer.load(b, builder.add(begin, constant(v * LANES))) for v in range(size)]
                    left = builder.gep(a, [builder.add(row, line)])
                    made = []
                    for r in range(lines):
                        entry = writer.spread(builder.load(builder.gep(left, [constant(r)])))
                        made += [writer.add_product(sums[r * size + v], entry, right[v]) for v in range(size)]
                    return made

                begun = [writer.load(matrix, place) for place in places]
                sums = writer.loop(constant(0), n_rows, 1, begun, body)
                for value, place in zip(sums, places, strict=True):
                    writer.store(value, matrix, place)
                return []

            writer.loop(constant(0), width, lines, [], tile)

        writer.panels(width, (2, 1), panel)
        return context.get_dummy_value()

    return signature, generate
