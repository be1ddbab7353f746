"""The elementwise half of one step of an LSTM with every part, forward and adjoint, in LLVM's vector instructions.

    i, f = logistic(a_i + p_i c_{t-1}), logistic(a_f + p_f c_{t-1});   g = tanh(a_g)
    c_t = f c_{t-1} + i g;   o = logistic(a_o + p_o c_t);   r_t = o tanh(c_t)

    d_o = d_r tanh(c_t) o (1 - o)                            gates' arguments
    d_c = d_c + d_r o (1 - tanh(c_t)^2) + p_o d_o            all that reaches c_t
    d_f = d_c c_{t-1} f (1 - f);   d_i = d_c g i (1 - i);   d_g = d_c i (1 - g^2)
    d_c <- d_c f + p_f d_f + p_i d_i                         what reaches c_{t-1} but through r_{t-1}
    d_p = d_p + sum over sequences of (d_i c_{t-1}, d_f c_{t-1}, d_o c_t)

Up to seventeen arrays are read or written. As loops of scalars they would be many short passes: the compiler would have
to see that none of so many overlap before it makes one loop of vectors, and gives up. Arrays are in panels (`tiles`);
a panel's peephole weights stay in registers for all sequences.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from probseq.kernels.instructions import Writer, constant
from probseq.kernels.tiles import BYTES, VECTORS

_TERMS = {4: 8, 8: 14}  # of the exponential's series, by the bytes of a number: to the last digit for |r| <= log(2) / 2
_FRACTION = {4: 23, 8: 52}  # bits


class _Numbers(Writer):
    """Vectors of the numbers of the first array, single or double precision."""

    def __init__(self, context: Any, builder: Any, signature: Any) -> None:
        super().__init__(context, builder, signature)
        number = signature.args[0].dtype
        self.size = np.dtype(str(number)).itemsize
        self.lanes = BYTES // self.size
        self.width = VECTORS * self.lanes
        self.kind = ir.VectorType(context.get_value_type(number), self.lanes)
        self.integers = ir.VectorType(ir.IntType(8 * self.size), self.lanes)

    def _at(self, memory: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(memory, [offset]), self.kind.as_pointer())

    def load(self, memory: Any, offset: Any) -> Any:
        value = self.builder.load(self._at(memory, offset))
        value.align = self.size
        return value

    def store(self, value: Any, memory: Any, offset: Any) -> None:
        self.builder.store(value, self._at(memory, offset)).align = self.size

    def number(self, value: float) -> Any:
        return ir.Constant(self.kind, [value] * self.lanes)

    def whole(self, value: int) -> Any:
        return ir.Constant(self.integers, [value] * self.lanes)

    def times(self, *factors: Any) -> Any:
        product = factors[0]
        for factor in factors[1:]:
            product = self.builder.fmul(product, factor, flags=("contract",))
        return product

    def less(self, left: Any, right: Any) -> Any:
        """1 - left * right."""
        return self.builder.fsub(self.number(1.0), self.times(left, right), flags=("contract",))

    def slope(self, gate: Any) -> Any:
        """gate (1 - gate)."""
        return self.times(gate, self.builder.fsub(self.number(1.0), gate))

    def bounded(self, x: Any, limit: float) -> Any:
        """x moved into [-limit, limit]; NaN stays."""
        for sign, bound in ((">", self.number(limit)), ("<", self.number(-limit))):
            x = self.builder.select(self.builder.fcmp_ordered(sign, x, bound), bound, x)
        return x

    def expm1(self, xs: list[Any]) -> list[Any]:
        """exp(x) - 1 for |x| <= 80 of each, as `activations` has it: 2^n (exp(r) - 1) + (2^n - 1)."""
        builder, bits = self.builder, _FRACTION[self.size]
        kind = np.float32 if self.size == 4 else np.float64
        magic = float(np.float64(1.5 * 2.0**bits))  # adding it rounds to an integer
        half = 9 if self.size == 4 else 32  # bits of log 2 whose multiples are exact
        high = math.floor(math.ldexp(math.log(2.0), half)) / 2.0**half
        low = math.log(2.0) - high if self.size == 4 else 1.90821492927058770002e-10 + (0.693147180369123816490 - high)
        rate = self.number(float(kind(1.0 / math.log(2.0))))
        rounded = [self.add_product(self.number(magic), x, rate) for x in xs]
        ns = [builder.fsub(value, self.number(magic)) for value in rounded]
        rs = xs
        for part in (high, low):
            rs = [self.add_product(r, n, self.number(-float(kind(part)))) for r, n in zip(rs, ns, strict=True)]
        series = [float(kind(1.0 / math.factorial(k))) for k in range(2, _TERMS[self.size])]
        tails = [self.number(series[-1])] * len(xs)
        for coefficient in series[-2::-1]:
            tails = [self.add_product(self.number(coefficient), r, t) for r, t in zip(rs, tails, strict=True)]
        squares = [self.times(r, r) for r in rs]
        rests = [self.add_product(r, square, t) for r, square, t in zip(rs, squares, tails, strict=True)]
        offset = int(kind(magic).view(np.int32 if self.size == 4 else np.int64)) - (2 ** (8 * self.size - 2 - bits) - 1)
        exponents = [builder.sub(builder.bitcast(value, self.integers), self.whole(offset)) for value in rounded]
        powers = [builder.bitcast(builder.shl(e, self.whole(bits)), self.kind) for e in exponents]
        lower = [builder.fsub(power, self.number(1.0)) for power in powers]
        return [self.add_product(one, power, r) for one, power, r in zip(lower, powers, rests, strict=True)]

    def squash(self, gates: list[Any], values: list[Any]) -> tuple[list[Any], list[Any]]:
        """logistic of each gate and tanh of each value, one instruction for all before the next.

        Each waits long for the one before it; a processor that looks a hundred instructions ahead must find others.
        """
        builder, one, two = self.builder, self.number(1.0), self.number(2.0)
        xs = [self.bounded(builder.fneg(gate), 80.0) for gate in gates]
        xs += [self.bounded(builder.fadd(value, value), 40.0) for value in values]
        es = self.expm1(xs)
        below = [builder.fadd(two, e) for e in es]
        above = [one] * len(gates) + es[len(gates) :]
        found = [
            builder.fdiv(*pair, flags=("arcp", "afn", "ninf", "contract")) for pair in zip(above, below, strict=True)
        ]
        return found[: len(gates)], found[len(gates) :]

    def each_panel(self, start: Any, stop: Any, rows: Any, body: Any) -> None:
        """body(first number, number after the last) for every panel from `start` to before `stop`."""
        size = self.builder.mul(rows, constant(self.width))

        def one(q: Any, _: list[Any]) -> list[Any]:
            first = self.builder.mul(q, size)
            body(first, self.builder.add(first, size))
            return []

        self.loop(start, stop, 1, [], one)


@intrinsic
def hold_peephole_step(typing_context, gates, memory, peep, following, shown, hidden, first, last, panels, rows):
    """One step of `cells.forward` for panels first .. last - 1 of a cell with every part.

    i, f, o, g stand one after another in gates, their arguments on entry. Writes the gates and following = c_t,
    shown = tanh(c_t), hidden = r_t, all (panels, rows, width).
    """
    signature = types.void(gates, memory, peep, following, shown, hidden, *[types.intp] * 4)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        writer = _Numbers(context, builder, signature)
        gates, memory, peep, following, shown, hidden = (writer.memory(k, arguments[k]) for k in range(6))
        begin, end, panels, rows = arguments[6:]
        length = builder.mul(builder.mul(panels, rows), constant(writer.width))
        starts = [builder.mul(length, constant(k)) for k in range(4)]

        def panel(first: Any, stop: Any) -> None:
            moves = [constant(v * writer.lanes) for v in range(VECTORS)]
            weights = [
                [writer.load(peep, builder.add(builder.add(start, first), move)) for move in moves]
                for start in starts[:3]
            ]

            def row(j: Any, _: list[Any]) -> list[Any]:
                here = [builder.add(j, move) for move in moves]
                places = [[builder.add(start, place) for place in here] for start in starts]
                totals = [[writer.load(gates, place) for place in part] for part in places]
                before = [writer.load(memory, place) for place in here]
                closing = [
                    writer.add_product(total, p, c)
                    for k in range(2)
                    for total, p, c in zip(totals[k], weights[k], before, strict=True)
                ]
                open_, g = writer.squash(closing, totals[3])
                i, f = open_[:VECTORS], open_[VECTORS:]
                fresh = [writer.times(*pair) for pair in zip(i, g, strict=True)]
                now = [writer.add_product(*three) for three in zip(fresh, f, before, strict=True)]
                last = [writer.add_product(*three) for three in zip(totals[2], weights[2], now, strict=True)]
                o, tanh = writer.squash(last, now)
                for values, part in zip((i, f, o, g), places, strict=True):
                    for value, place in zip(values, part, strict=True):
                        writer.store(value, gates, place)
                shows = [writer.times(*pair) for pair in zip(o, tanh, strict=True)]
                for values, array in ((now, following), (tanh, shown), (shows, hidden)):
                    for value, place in zip(values, here, strict=True):
                        writer.store(value, array, place)
                return []

            writer.loop(first, stop, writer.width, [], row)

        writer.each_panel(begin, end, rows, panel)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def pull_peephole_step(
    typing_context, gates, memory, following, shown, peep, d_out, d_memory, d_gates, d_peep, panels, rows
):  # fmt: skip
    """One step of `cells.backward` for a cell with every part: i, f, o, g one after another in gates and d_gates.

    memory is c_{t-1}, following c_t, shown tanh(c_t), all (panels, rows, width) like d_out and d_memory. The sums over
    the sequences are added to the first row of each panel of d_peep.
    """
    signature = types.void(
        gates, memory, following, shown, peep, d_out, d_memory, d_gates, d_peep, types.intp, types.intp
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        writer = _Numbers(context, builder, signature)
        gates, memory, following, shown, peep, d_out, d_memory, d_gates, d_peep = (
            writer.memory(place, arguments[place]) for place in range(9)
        )
        panels, rows = arguments[9:]
        length = builder.mul(builder.mul(panels, rows), constant(writer.width))
        starts = [builder.mul(length, constant(k)) for k in range(4)]

        def panel(first: Any, stop: Any) -> None:
            moves = [constant(v * writer.lanes) for v in range(VECTORS)]
            tops = [builder.add(builder.add(start, first), move) for move in moves for start in starts[:3]]
            weights = [writer.load(peep, top) for top in tops]

            def row(j: Any, sums: list[Any]) -> list[Any]:
                made = []
                for v, move in enumerate(moves):
                    here = builder.add(j, move)
                    places = [builder.add(start, here) for start in starts]
                    p_i, p_f, p_o = weights[3 * v : 3 * v + 3]
                    i, f, o, g = (writer.load(gates, place) for place in places)
                    before, now, tanh, of_r = (writer.load(part, here) for part in (memory, following, shown, d_out))
                    d_o = writer.times(of_r, tanh, writer.slope(o))
                    d_c = writer.add_product(
                        writer.load(d_memory, here), writer.times(of_r, o), writer.less(tanh, tanh)
                    )
                    d_c = writer.add_product(d_c, p_o, d_o)
                    d_f = writer.times(d_c, before, writer.slope(f))
                    d_i = writer.times(d_c, g, writer.slope(i))
                    d_g = writer.times(d_c, i, writer.less(g, g))
                    left = writer.add_product(writer.add_product(writer.times(d_c, f), p_f, d_f), p_i, d_i)
                    writer.store(left, d_memory, here)
                    for value, place in zip((d_i, d_f, d_o, d_g), places, strict=True):
                        writer.store(value, d_gates, place)
                    parts = zip((d_i, d_f, d_o), (before, before, now), sums[3 * v : 3 * v + 3], strict=True)
                    made += [writer.add_product(total, value, cell) for value, cell, total in parts]
                return made

            sums = writer.loop(first, stop, writer.width, [writer.load(d_peep, top) for top in tops], row)
            for total, top in zip(sums, tops, strict=True):
                writer.store(total, d_peep, top)

        writer.each_panel(constant(0), panels, rows, panel)
        return context.get_dummy_value()

    return signature, generate
