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
_VECTORS = 2
ROWS = 8 if BYTES == 64 else 4  # accumulators, factors and one broadcast fill the registers without spilling
DEPTH = 256  # terms summed before moving on: a panel of b this deep stays in the first cache


def width_of(dtype: Any) -> int:
    """Columns of a tile of this floating type."""
    return _VECTORS * BYTES // np.dtype(dtype).itemsize


def _make_tile(rows: int, turned: bool = False) -> Any:
    """An intrinsic: c[i, :] (+)= sum_{k < n} a[i, k] b[k, :] for `rows` rows and two vectors of columns.

    Entry (i, k) of a is where the module's table says, or, `turned`, at i * a_row + k * a_panel.
    """

    @intrinsic
    def tile(typing_context, a, a_at, a_row, a_panel, b, b_at, b_row, c, c_at, c_row, n, keep):
        signature = types.void(
            a, *[types.intp] * 3, b, *[types.intp] * 2, c, *[types.intp] * 2, types.intp, types.boolean
        )

        def generate(context, builder, signature, arguments):
            word = context.get_value_type(signature.args[0].dtype)
            lanes = BYTES // np.dtype(str(signature.args[0].dtype)).itemsize
            shift = (_VECTORS * lanes).bit_length() - 1
            vector, integer = ir.VectorType(word, lanes), ir.IntType(64)
            (a, a_at, a_row, a_panel, b, b_at, b_row, c, c_at, c_row, n, keep) = arguments

            def constant(value: int) -> Any:
                return ir.Constant(integer, value)

            def start(place: int, argument: Any, at: Any) -> Any:
                array = context.make_array(signature.args[place])(context, builder, argument)
                return builder.gep(array.data, [at])

            def vectors(pointer: Any, offset: Any) -> list[Any]:
                places = [builder.add(offset, constant(v * lanes)) for v in range(_VECTORS)]
                return [builder.bitcast(builder.gep(pointer, [p]), vector.as_pointer()) for p in places]

            def load(pointers: list[Any]) -> list[Any]:
                values = [builder.load(p) for p in pointers]
                for value in values:
                    value.align = 4
                return values

            left, right, result = start(0, a, a_at), start(4, b, b_at), start(7, c, c_at)
            places = [p for i in range(rows) for p in vectors(result, builder.mul(c_row, constant(i)))]
            offsets = [builder.mul(a_row, constant(i)) for i in range(rows)]
            entry = builder.block
            held, loop, end = (builder.append_basic_block(name) for name in ("held", "loop", "end"))
            first = builder.append_basic_block("first")
            builder.cbranch(keep, held, first)
            builder.position_at_end(held)
            old = load(places)
            builder.branch(first)
            builder.position_at_end(first)
            begun = [builder.phi(vector) for _ in places]
            for phi, value in zip(begun, old, strict=True):
                phi.add_incoming(ir.Constant(vector, [0.0] * lanes), entry)
                phi.add_incoming(value, held)
            builder.branch(loop)

            builder.position_at_end(loop)
            k = builder.phi(integer)
            k.add_incoming(constant(0), first)
            sums = [builder.phi(vector) for _ in places]
            for phi, value in zip(sums, begun, strict=True):
                phi.add_incoming(value, first)
            columns = load(vectors(right, builder.mul(k, b_row)))
            if turned:
                here = builder.gep(left, [builder.mul(k, a_panel)])
            else:
                panel = builder.mul(builder.lshr(k, constant(shift)), a_panel)
                inside = builder.and_(k, constant(_VECTORS * lanes - 1))
                here = builder.gep(left, [builder.add(panel, inside)])
            nothing, zeros = ir.Constant(vector, ir.Undefined), ir.VectorType(ir.IntType(32), lanes)
            totals = []
            for i in range(rows):
                scalar = builder.load(builder.gep(here, [offsets[i]]))
                one = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
                spread = builder.shuffle_vector(one, nothing, ir.Constant(zeros, [0] * lanes))
                for v in range(_VECTORS):
                    term = builder.fmul(spread, columns[v], flags=("contract",))
                    totals.append(builder.fadd(term, sums[i * _VECTORS + v], flags=("contract",)))
            following = builder.add(k, constant(1))
            k.add_incoming(following, loop)
            for phi, value in zip(sums, totals, strict=True):
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, n), loop, end)

            builder.position_at_end(end)
            for value, place in zip(totals, places, strict=True):
                builder.store(value, place).align = 4
            return context.get_dummy_value()

        return signature, generate

    return tile


_tile, _row, _turned = _make_tile(ROWS), _make_tile(1), _make_tile(ROWS, turned=True)


@njit(cache=True, nogil=True, error_model="numpy")
def product(a, a_at, a_row, a_panel, b, first, last, c, c_at, n_rows, keep):
    """Panels first .. last - 1 of a b, for `n_rows` rows; added to c if `keep`. `*_at` are offsets into flat memory."""
    depth, width = b.shape[1], b.shape[2]
    parts = max(1, (depth + DEPTH - 1) // DEPTH)
    part = ((depth + parts - 1) // parts + width - 1) // width * width  # whole panels of a
    for q in range(first, last):
        for k in range(0, depth, part):
            n, held = min(part, depth - k), keep or k > 0
            b_at, left = (q * depth + k) * width, a_at + k // width * a_panel
            to = c_at + (q - first) * n_rows * width
            i = 0
            while i + ROWS <= n_rows:
                _tile(a, left + i * a_row, a_row, a_panel, b, b_at, width, c, to + i * width, width, n, held)
                i += ROWS
            while i < n_rows:
                _row(a, left + i * a_row, a_row, a_panel, b, b_at, width, c, to + i * width, width, n, held)
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
    for q in range(n_panels):
        for i in range(0, lines, ROWS):
            left, to = i // high * rows * high + i % high, i * columns + q * width
            for s in range(n_steps):
                b_at = s * b_step + q * rows * width
                held = keep or s > 0
                _turned(flat, left + s * step, 1, high, right, b_at, width, out, to, columns, rows, held)
