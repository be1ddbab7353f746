"""LLVM's vector instructions for loops over contiguous memory, a whole register at a time, as intrinsics write them.

For what the compiler makes no good loop of: sums that stay in registers, many arrays of which it cannot see that they
do not overlap. `registers`, `kalman_packs` and `cells_steps` are written so; in `vectors` a short vector is a value
that compiled functions hand on, whatever the width of a register.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from probseq.kernels.tiles import BYTES

#: numbers of double precision in a register
LANES = BYTES // 8
DOUBLE, INTEGER = ir.DoubleType(), ir.IntType(64)
VECTOR = ir.VectorType(DOUBLE, LANES)
ZEROS = ir.Constant(VECTOR, [0.0] * LANES)


def constant(value: int) -> Any:
    """An index."""
    return ir.Constant(INTEGER, value)


class Writer:
    """Vector instructions on contiguous memory, and loops that carry values."""

    def __init__(self, context: Any, builder: Any, signature: Any) -> None:
        self.context, self.builder, self.signature = context, builder, signature

    def memory(self, place: int, argument: Any) -> Any:
        """Where the entries of the array that is argument `place` begin."""
        array = self.signature.args[place]
        return self.context.make_array(array)(self.context, self.builder, argument).data

    def _at(self, memory: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(memory, [offset]), VECTOR.as_pointer())

    def load(self, memory: Any, offset: Any) -> Any:
        value = self.builder.load(self._at(memory, offset))
        value.align = 8
        return value

    def store(self, value: Any, memory: Any, offset: Any) -> None:
        self.builder.store(value, self._at(memory, offset)).align = 8

    def spread(self, scalar: Any) -> Any:
        """A vector of equal entries."""
        nothing, zero = ir.Constant(VECTOR, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(self.builder.insert_element(nothing, scalar, zero), nothing, zeros)

    def add_product(self, total: Any, left: Any, right: Any) -> Any:
        product = self.builder.fmul(left, right, flags=("contract",))
        return self.builder.fadd(total, product, flags=("contract",))

    def entries_sum(self, vector: Any) -> Any:
        """The sum of a vector's entries: its halves added, and again."""
        builder, size, nothing = self.builder, LANES, ir.Constant(VECTOR, ir.Undefined)
        while size > 1:
            size //= 2
            places = [(i + size) % LANES if i < size else i for i in range(LANES)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), places)
            vector = builder.fadd(vector, builder.shuffle_vector(vector, nothing, mask))
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    def sums_of_each(self, vectors: list[Any]) -> Any:
        """The vector of the sums of so many vectors as one has entries."""
        mask, size = ir.VectorType(ir.IntType(32), LANES), 1
        while len(vectors) > 1:
            blocks = [z + base for base in range(0, LANES, 2 * size) for z in (0, LANES)]
            low, high = ([b + half * size + q for b in blocks for q in range(size)] for half in (0, 1))
            vectors = [
                self.builder.fadd(*(self.builder.shuffle_vector(x, y, ir.Constant(mask, part)) for part in (low, high)))
                for x, y in zip(vectors[::2], vectors[1::2], strict=True)
            ]
            size *= 2
        return vectors[0]

    def loop(
        self, first: Any, stop: Any, step: int, carried: list[Any], body: Callable[[Any, list[Any]], list[Any]]
    ) -> list[Any]:
        """for i in range(first, stop, step): carried = body(i, carried); returns the last."""
        builder, before = self.builder, self.builder.block
        head, inside, end = (builder.append_basic_block(name) for name in ("head", "inside", "end"))
        builder.branch(head)
        builder.position_at_end(head)
        i = builder.phi(INTEGER)
        i.add_incoming(first, before)
        phis = [builder.phi(value.type) for value in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", i, stop), inside, end)
        builder.position_at_end(inside)
        for phi, value in zip(phis, body(i, phis), strict=True):
            phi.add_incoming(value, builder.block)
        i.add_incoming(builder.add(i, constant(step)), builder.block)
        builder.branch(head)
        builder.position_at_end(end)
        return phis

    def panels(self, width: Any, sizes: tuple[int, ...], body: Callable[[Any, int], None]) -> None:
        """body(first column, vectors) over panels of so many vectors that cover the width, the widest first."""
        first: Any = constant(0)
        for size in sizes:
            columns = size * LANES

            def panel(j: Any, _: list[Any], size: int = size) -> list[Any]:
                body(j, size)
                return []

            left = self.builder.sub(width, first)
            whole = self.builder.mul(self.builder.sdiv(left, constant(columns)), constant(columns))
            stop = self.builder.add(first, whole)
            self.loop(first, stop, columns, [], panel)
            first = stop
