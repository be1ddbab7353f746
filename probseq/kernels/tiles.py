"""Products of small matrices at the rate of the vector units, for recurrences that take one at every step.

    c[i, j] (+)= sum_k a[i, k] b[k, j]        i < ROWS, j < width: one tile, kept in registers over all k

A library's general product packs its arguments anew at every call, and takes a step's few rows for a remainder; the
same weights serve every step here, so they are packed once. `tile` is written in LLVM's vector instructions, since
no loop of scalars is turned into a register tile by the compiler.

| symbol   | layout                 | meaning                                                                        |
|----------|------------------------|--------------------------------------------------------------------------------|
| width    |                        | columns of a tile: two vector registers, `width_of(dtype)`                     |
| panels   | (columns/width, rows, width) | a matrix (rows, columns) cut into panels of `width` columns, zeros beyond |
| a        | rows or panels         | entry (i, k) at i * a_row + (k // width) * a_panel + k % width                 |
| b        | panels                 | the right factor                                                               |
| c        | panels                 | the result                                                                     |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic

_FEATURES = binding.get_host_cpu_features()
BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx") else 16
VECTORS = 2
ROWS = 8 if BYTES == 64 else 4  # accumulators, factors and one broadcast fill the registers without spilling
UNROLLED = 4  # terms between two jumps: the instructions around the products then cost nothing
ZERO, NO, YES = np.int64(0), np.bool_(False), np.bool_(True)  # arguments: each literal would compile `product` anew
DEPTH = 256  # terms summed before moving on: a panel of b this deep stays in the first cache


def width_of(dtype: Any) -> int:
    """Columns of a tile of this floating type."""
    return VECTORS * BYTES // np.dtype(dtype).itemsize


def _make_tile(rows: int, turned: bool = False) -> Any:
    """An intrinsic: c[i, :] (+)= sum_{s < n_parts} sum_{k < n} a[s, i, k] b[s, k, :] for `rows` rows, a tile's columns.

    Entry (s, i, k) of a is at s * a_part + i * a_row + k or, `turned`, at s * a_part + i + k * a_row; line (s, k) of b
    at s * b_part + k * width.
    """

    @intrinsic
    def tile(typing_context, a, a_at, a_row, a_part, b, b_at, b_part, c, c_at, c_row, n_parts, n, keep):
        signature = types.void(
            a, *[types.intp] * 3, b, *[types.intp] * 2, c, *[types.intp] * 4, types.boolean
        )  # fmt: skip

        def generate(context, builder, signature, arguments):
            word = context.get_value_type(signature.args[0].dtype)
            size = np.dtype(str(signature.args[0].dtype)).itemsize
            lanes = BYTES // size
            width = VECTORS * lanes
            vector, integer = ir.VectorType(word, lanes), ir.IntType(64)
            (a, a_at, a_row, a_part, b, b_at, b_part, c, c_at, c_row, n_parts, n, keep) = arguments

            def constant(value: int) -> Any:
                return ir.Constant(integer, value)

            def start(place: int, argument: Any, at: Any) -> Any:
                array = context.make_array(signature.args[place])(context, builder, argument)
                return builder.gep(array.data, [at])

            def vectors(pointer: Any, offset: int) -> list[Any]:
                places = [builder.gep(pointer, [constant(offset + v * lanes)]) for v in range(VECTORS)]
                return [builder.bitcast(p, vector.as_pointer()) for p in places]

            def load(pointers: list[Any]) -> list[Any]:
                values = [builder.load(p) for p in pointers]
                for value in values:
                    value.align = size
                return values

            def add_term(left: Any, right: Any, k: int, sums: list[Any]) -> list[Any]:
                columns = load(vectors(right, k * width))
                nothing, zeros = ir.Constant(vector, ir.Undefined), ir.VectorType(ir.IntType(32), lanes)
                here = builder.gep(left, [builder.mul(a_row, constant(k)) if turned else constant(k)])
                totals = []
                for i in range(rows):
                    scalar = builder.load(
                        builder.gep(here, [constant(i) if turned else builder.mul(a_row, constant(i))])
                    )
                    one = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
                    spread = builder.shuffle_vector(one, nothing, ir.Constant(zeros, [0] * lanes))
                    for v in range(VECTORS):
                        term = builder.fmul(spread, columns[v], flags=("contract",))
                        totals.append(builder.fadd(term, sums[i * VECTORS + v], flags=("contract",)))
                return totals

            def loop(count: Any, steps: tuple[Any, Any], begun: list[Any], body: Any) -> list[Any]:
                """begun = [left, right, *sums]; `count` times: sums = body(*begun), left and right move by `steps`."""
                before = builder.block
                head, inside, end = (builder.append_basic_block(name) for name in ("head", "inside", "end"))
                builder.branch(head)
                builder.position_at_end(head)
                left = builder.phi(integer)
                left.add_incoming(count, before)
                held = [builder.phi(value.type) for value in begun]
                for phi, value in zip(held, begun, strict=True):
                    phi.add_incoming(value, before)
                builder.cbranch(builder.icmp_signed(">", left, constant(0)), inside, end)
                builder.position_at_end(inside)
                moved = [builder.gep(pointer, [step]) for pointer, step in zip(held[:2], steps, strict=True)]
                for phi, value in zip(held, [*moved, *body(*held)], strict=True):
                    phi.add_incoming(value, builder.block)
                left.add_incoming(builder.sub(left, constant(1)), builder.block)
                builder.branch(head)
                builder.position_at_end(end)
                return held

            def terms(left: Any, right: Any, *sums: Any) -> list[Any]:
                def several(left: Any, right: Any, *sums: Any) -> list[Any]:
                    totals = list(sums)
                    for k in range(UNROLLED):
                        totals = add_term(left, right, k, totals)
                    return totals

                step = a_row if turned else constant(1)
                steps = builder.mul(step, constant(UNROLLED)), constant(UNROLLED * width)
                held = loop(builder.udiv(n, constant(UNROLLED)), steps, [left, right, *sums], several)
                rest = builder.urem(n, constant(UNROLLED))
                alone = loop(rest, (step, constant(width)), held, lambda x, y, *z: add_term(x, y, 0, list(z)))
                return alone[2:]

            lines = [builder.gep(start(7, c, c_at), [builder.mul(c_row, constant(i))]) for i in range(rows)]
            places = [p for line in lines for p in vectors(line, 0)]
            entry, nothing = builder.block, ir.Constant(vector, [0.0] * lanes)
            kept, first = builder.append_basic_block("kept"), builder.append_basic_block("first")
            builder.cbranch(keep, kept, first)
            builder.position_at_end(kept)
            old = load(places)
            builder.branch(first)
            builder.position_at_end(first)
            begun = [builder.phi(vector) for _ in places]
            for phi, value in zip(begun, old, strict=True):
                phi.add_incoming(nothing, entry)
                phi.add_incoming(value, kept)
            ends = loop(n_parts, (a_part, b_part), [start(0, a, a_at), start(4, b, b_at), *begun], terms)
            for value, place in zip(ends[2:], places, strict=True):
                builder.store(value, place).align = size
            return context.get_dummy_value()

        return signature, generate

    return tile


_tile, _row, _turned = _make_tile(ROWS), _make_tile(1), _make_tile(ROWS, turned=True)


@njit(cache=True, nogil=True, error_model="numpy")
def steps_at_once(rows):
    """Steps of so many sequences in one product: enough to reuse the weights, few enough to stay in the cache."""
    return max(1, DEPTH // rows)


@njit(cache=True, nogil=True, error_model="numpy")
def product(a, a_at, a_row, a_panel, b, first, last, c, c_at, n_rows, keep):
    """Panels first .. last - 1 of a b, for `n_rows` rows; added to c if `keep`. `*_at` are offsets into flat memory."""
    depth, width = b.shape[1], b.shape[2]
    parts = max(1, (depth + DEPTH - 1) // DEPTH)
    part = ((depth + parts - 1) // parts + width - 1) // width * width  # whole panels of a
    for q in range(first, last):
        for k in range(0, depth, part):
            n, held = min(part, depth - k), keep or k > 0
            to = c_at + (q - first) * n_rows * width
            for rest in range(2):  # whole panels of a, then what is left of the last
                n_parts, terms = (1, n % width) if rest else (n // width, width)
                if n_parts * terms == 0:
                    continue
                skipped = n // width if rest else 0
                b_at, left = (q * depth + k + skipped * width) * width, a_at + (k // width + skipped) * a_panel
                more = held or skipped > 0
                i = 0
                while i + ROWS <= n_rows:
                    at, place = left + i * a_row, to + i * width
                    _tile(a, at, a_row, a_panel, b, b_at, width * width, c, place, width, n_parts, terms, more)
                    i += ROWS
                while i < n_rows:
                    at, place = left + i * a_row, to + i * width
                    _row(a, at, a_row, a_panel, b, b_at, width * width, c, place, width, n_parts, terms, more)
                    i += 1


@njit(cache=True, nogil=True, error_model="numpy")
def outer(a, b, n_panels, out, keep):
    """out[i, :] (+)= sum_{t, row} a[t, row, i] b[t, row, :], both in panels (T, panels, rows, columns), contiguous.

    The panels of a may have any multiple of ROWS for a width, b's have the tile's; `n_panels` of b, from the first,
    take part, and as many columns of a as `out` (a multiple of ROWS; columns of b) has lines.
    """
    n_steps, _, rows, width = b.shape
    lines, columns = out.shape
    high, step, b_step = a.shape[3], a.shape[1] * rows * a.shape[3], b.shape[1] * rows * width
    flat, right = a.reshape(-1), b.reshape(-1)
    at_once = steps_at_once(rows)
    for s in range(0, n_steps, at_once):
        steps = min(at_once, n_steps - s)
        for q in range(n_panels):
            for i in range(0, lines, ROWS):
                left, to = s * step + i // high * rows * high + i % high, i * columns + q * width
                b_at = s * b_step + q * rows * width
                _turned(flat, left, high, step, right, b_at, b_step, out, to, columns, steps, rows, keep or s > 0)
