"""The elementwise half of an LSTM's adjoint in one pass, in LLVM's vector instructions.

    d_o = d_r tanh(c_t) o (1 - o)                            gates' arguments
    d_c = d_c + d_r o (1 - tanh(c_t)^2) + p_o d_o            all that reaches c_t
    d_f = d_c c_{t-1} f (1 - f);   d_i = d_c g i (1 - i);   d_g = d_c i (1 - g^2)
    d_c <- d_c f + p_f d_f + p_i d_i                         what reaches c_{t-1} but through r_{t-1}
    d_p = d_p + (d_i c_{t-1}, d_f c_{t-1}, d_o c_t)

Seventeen arrays are read or written. As loops of scalars they would be many short passes: the compiler would have to
see that none of so many overlap before it makes one loop of vectors, and gives up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from probseq.kernels.registers import _constant, _Writer
from probseq.kernels.tiles import BYTES


class _Numbers(_Writer):
    """Vectors of the numbers of the first array, single or double precision."""

    def __init__(self, context: Any, builder: Any, signature: Any) -> None:
        super().__init__(context, builder, signature)
        number = signature.args[0].dtype
        self.size = np.dtype(str(number)).itemsize
        self.lanes = BYTES // self.size
        self.kind = ir.VectorType(context.get_value_type(number), self.lanes)

    def _at(self, memory: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(memory, [offset]), self.kind.as_pointer())

    def load(self, memory: Any, offset: Any) -> Any:
        value = self.builder.load(self._at(memory, offset))
        value.align = self.size
        return value

    def store(self, value: Any, memory: Any, offset: Any) -> None:
        self.builder.store(value, self._at(memory, offset)).align = self.size

    def times(self, *factors: Any) -> Any:
        product = factors[0]
        for factor in factors[1:]:
            product = self.builder.fmul(product, factor, flags=("contract",))
        return product

    def less(self, left: Any, right: Any) -> Any:
        """1 - left * right."""
        one = ir.Constant(self.kind, [1.0] * self.lanes)
        return self.builder.fsub(one, self.times(left, right), flags=("contract",))

    def slope(self, gate: Any) -> Any:
        """gate (1 - gate)."""
        one = ir.Constant(self.kind, [1.0] * self.lanes)
        return self.times(gate, self.builder.fsub(one, gate))


@intrinsic
def pull_peephole_step(
    typing_context, gates, memory, following, shown, peep, d_out, d_memory, d_gates, d_peep, length
):  # fmt: skip
    """One step of `cells.backward` for a cell with every part: i, f, o, g one after another in gates and d_gates.

    memory is c_{t-1}, following c_t, shown tanh(c_t), (length,) like d_out and d_memory; length must be whole vectors.
    """
    signature = types.void(
        gates, memory, following, shown, peep, d_out, d_memory, d_gates, d_peep, types.intp
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        writer = _Numbers(context, builder, signature)
        gates, memory, following, shown, peep, d_out, d_memory, d_gates, d_peep = (
            writer.memory(place, arguments[place]) for place in range(9)
        )
        length = arguments[9]
        starts = [builder.mul(length, _constant(k)) for k in range(4)]

        def body(j: Any, _: list[Any]) -> list[Any]:
            places = [builder.add(start, j) for start in starts]
            i, f, o, g = (writer.load(gates, place) for place in places)
            p_i, p_f, p_o = (writer.load(peep, place) for place in places[:3])
            before, now, tanh, of_r = (writer.load(part, j) for part in (memory, following, shown, d_out))
            d_o = writer.times(of_r, tanh, writer.slope(o))
            d_c = writer.add_product(writer.load(d_memory, j), writer.times(of_r, o), writer.less(tanh, tanh))
            d_c = writer.add_product(d_c, p_o, d_o)
            d_f = writer.times(d_c, before, writer.slope(f))
            d_i = writer.times(d_c, g, writer.slope(i))
            d_g = writer.times(d_c, i, writer.less(g, g))
            left = writer.add_product(writer.add_product(writer.times(d_c, f), p_f, d_f), p_i, d_i)
            writer.store(left, d_memory, j)
            for value, place in zip((d_i, d_f, d_o, d_g), places, strict=True):
                writer.store(value, d_gates, place)
            for value, cell, place in zip((d_i, d_f, d_o), (before, before, now), places, strict=False):
                writer.store(writer.add_product(writer.load(d_peep, place), value, cell), d_peep, place)
            return []

        writer.loop(_constant(0), length, writer.lanes, [], body)
        return context.get_dummy_value()

    return signature, generate
