"""Short vectors of numbers that the processor holds in its registers, as a type of the compiler.

Loops over four or eight entries of small arrays are read from memory and written back at every step, and often stay
scalar, because the compiler cannot know that the arrays are different. A `Vector` is a value: what is computed stays
in registers, and every operation is one instruction or a few, whatever the processor's own width.

    x = load(size, array, i)      the row array[i, :W] of a C-contiguous array, W = len(size);  store(array, i, x)
    add, subtract, multiply, smaller, larger   (x, y) entry by entry, y may be a number
    total(x), largest(x)          over the entries, without NaN
    times(x, array, r)            x @ array[r], array (.., W, W);  plus(x, array, r) the same with maxima of sums
    exponential(x)                for entries up to 0, as `rows.exponentiate`
    logarithm(x)                  for entries from 0 on, as `rows.take_logarithms`; -inf of what is no normal number
    first_place(x, number)        the first index where x is this number
    split(number)                 m in [1, 2) and k with number = m 2^k, of normal numbers above 0

`len(size)` must be a power of two.
"""

from __future__ import annotations

import math

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from probseq.kernels.rows import (
    LN_2_HIGH,
    LN_2_LOW,
    LOG2_E,
    LOG_2_HIGH,
    LOG_2_LOW,
    LOG_SMALLEST,
    ROUND,
    SMALLEST_NORMAL,
    SQRT_HALF_BITS,
    TWO_52,
    TWO_52_BITS,
)

DOUBLE, LONG = ir.DoubleType(), ir.IntType(64)
FAST = ("contract",)
EIGHT = (0,) * 8


class Vector(types.Type):
    """W numbers of double precision."""

    def __init__(self, width):
        self.width = width
        super().__init__(name=f"Vector({width})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, ir.VectorType(DOUBLE, kind.width))


def _row(context, builder, array_type, array, index, width):
    """A pointer to array[index, :width] as a vector."""
    data = context.make_array(array_type)(context, builder, array)
    stride = context.get_constant(types.intp, 1)
    shape = cgutils.unpack_tuple(builder, data.shape)
    for size in shape[1:]:
        stride = builder.mul(stride, size)
    place = builder.gep(data.data, [builder.mul(index, stride)])
    return builder.bitcast(place, ir.VectorType(DOUBLE, width).as_pointer())


def whole(number):
    """A constant place."""
    return ir.Constant(LONG, number)


def everywhere(builder, number, width):
    """The vector of equal entries."""
    kind = ir.VectorType(number.type, width)
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, single, ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width))


def constant(number, width):
    return ir.Constant(ir.VectorType(DOUBLE, width), [number] * width)


def _same(builder, x, i, width):
    """Entry i everywhere."""
    return builder.shuffle_vector(x, x, ir.Constant(ir.VectorType(ir.IntType(32), width), [i] * width))


def _fold(builder, x, width, combine):
    """Entries combined in pairs, then pairs of pairs, down to a number."""
    while width > 1:
        width //= 2
        kind = ir.VectorType(ir.IntType(32), width)
        low = builder.shuffle_vector(x, x, ir.Constant(kind, list(range(width))))
        high = builder.shuffle_vector(x, x, ir.Constant(kind, list(range(width, 2 * width))))
        x = combine(low, high)
    return builder.extract_element(x, ir.Constant(ir.IntType(32), 0))


@intrinsic
def load(typing, size, array, index):
    width = len(size)

    def generate(context, builder, signature, arguments):
        place = _row(context, builder, array, arguments[1], arguments[2], width)
        return builder.load(place, align=8)

    return Vector(width)(size, array, types.intp), generate


@intrinsic
def store(typing, array, index, x):
    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _row(context, builder, array, arguments[0], arguments[1], x.width), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, x), generate


@intrinsic
def fill(typing, size, number):
    """The vector of equal entries."""
    width = len(size)

    def generate(context, builder, signature, arguments):
        return everywhere(builder, arguments[1], width)

    return Vector(width)(size, types.float64), generate


def _binary(operation):
    def typed(typing, x, y):
        scalar = not isinstance(y, Vector)

        def generate(context, builder, signature, arguments):
            left, right = arguments
            right = everywhere(builder, right, x.width) if scalar else right
            return operation(builder, left, right)

        return x(x, types.float64 if scalar else y), generate

    return typed


add = intrinsic(_binary(lambda builder, x, y: builder.fadd(x, y, flags=FAST)))
subtract = intrinsic(_binary(lambda builder, x, y: builder.fsub(x, y, flags=FAST)))
multiply = intrinsic(_binary(lambda builder, x, y: builder.fmul(x, y, flags=FAST)))
smaller = intrinsic(_binary(lambda builder, x, y: builder.select(builder.fcmp_ordered("<", x, y), x, y)))
larger = intrinsic(_binary(lambda builder, x, y: builder.select(builder.fcmp_ordered(">", x, y), x, y)))


@intrinsic
def total(typing, x):
    def generate(context, builder, signature, arguments):
        return _fold(builder, arguments[0], x.width, lambda a, b: builder.fadd(a, b, flags=FAST))

    return types.float64(x), generate


@intrinsic
def largest(typing, x):
    """Of entries without NaN."""

    def generate(context, builder, signature, arguments):
        return largest_entry(builder, arguments[0], x.width)

    return types.float64(x), generate


def largest_entry(builder, x, width):
    """The instructions of `largest`."""
    return _fold(builder, x, width, lambda a, b: _maximum(builder, a, b))


def _with_rows(combine, gather):
    """An intrinsic that combines every row of array[r] with one entry of x, and gathers the results in pairs."""

    def typed(typing, x, array, r):
        width = x.width

        def generate(context, builder, signature, arguments):
            vector, matrix, index = arguments
            data = context.make_array(array)(context, builder, matrix).data
            base = builder.mul(index, context.get_constant(types.intp, width * width))
            terms = []
            for i in range(width):
                place = builder.gep(data, [builder.add(base, context.get_constant(types.intp, i * width))])
                place = builder.bitcast(place, ir.VectorType(DOUBLE, width).as_pointer())
                term = combine(builder, _same(builder, vector, i, width), builder.load(place, align=8))
                if len(terms) < 4:
                    terms.append(term)
                else:
                    terms[i % 4] = gather(builder, terms[i % 4], term)
            while len(terms) > 1:
                terms = [gather(builder, a, b) for a, b in zip(terms[::2], terms[1::2], strict=True)]
            return terms[0]

        return x(x, array, types.intp), generate

    return typed


def _sum(builder, x, y):
    return builder.fadd(x, y, flags=FAST)


def _product(builder, x, y):
    return builder.fmul(x, y, flags=FAST)


def _maximum(builder, x, y):
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


times = intrinsic(_with_rows(_product, _sum))
plus = intrinsic(_with_rows(_sum, _maximum))


@intrinsic
def first_place(typing, x, number):
    width = x.width

    def generate(context, builder, signature, arguments):
        equal = builder.fcmp_ordered("==", arguments[0], everywhere(builder, arguments[1], width))
        mask = builder.zext(builder.bitcast(equal, ir.IntType(width)), LONG)
        return builder.cttz(mask, ir.Constant(ir.IntType(1), 0))

    return types.int64(x, types.float64), generate


@intrinsic
def split(typing, number):
    def generate(context, builder, signature, arguments):
        bits = builder.bitcast(arguments[0], LONG)
        power = builder.sub(builder.lshr(bits, whole(52)), whole(1023))
        mantissa = builder.or_(builder.and_(bits, whole((1 << 52) - 1)), whole(1023 << 52))
        return context.make_tuple(builder, signature.return_type, (builder.bitcast(mantissa, DOUBLE), power))

    return types.Tuple((types.float64, types.int64))(types.float64), generate


@intrinsic
def load_part(typing, size, array, place):
    """array[place : place + W] of a flat array, 0 behind its end."""
    width = len(size)

    def generate(context, builder, signature, arguments):
        source = context.make_array(array)(context, builder, arguments[1])
        n = cgutils.unpack_tuple(builder, source.shape)[0]
        kind = ir.VectorType(DOUBLE, width)
        result = cgutils.alloca_once(builder, kind)
        inside = builder.icmp_signed("<=", builder.add(arguments[2], whole(width)), n)
        with builder.if_else(inside) as (all_there, part):
            with all_there:
                pointer = builder.bitcast(builder.gep(source.data, [arguments[2]]), kind.as_pointer())
                builder.store(builder.load(pointer, align=8), result)
            with part:
                x = constant(0.0, width)
                for i in range(width):
                    index = builder.add(arguments[2], whole(i))
                    there = builder.icmp_signed("<", index, n)
                    safe = builder.select(there, index, whole(0))
                    entry = builder.select(there, builder.load(builder.gep(source.data, [safe])), DOUBLE(0.0))
                    x = builder.insert_element(x, entry, ir.Constant(ir.IntType(32), i))
                builder.store(x, result)
        return builder.load(result)

    return Vector(width)(size, array, types.intp), generate


@intrinsic
def add_outer(typing, array, x, y):
    """array[i] += x[i] * y for every entry of x, array (W, W)."""
    width = x.width

    def generate(context, builder, signature, arguments):
        for i in range(width):
            place = _row(context, builder, array, arguments[0], context.get_constant(types.intp, i), width)
            more = builder.fmul(_same(builder, arguments[1], i, width), arguments[2], flags=FAST)
            builder.store(builder.fadd(builder.load(place, align=8), more, flags=FAST), place, align=8)
        return context.get_dummy_value()

    return types.void(array, x, y), generate


@intrinsic
def store_part(typing, array, place, n, x):
    """array[place : place + W] = x for a flat array, or only the first n entries of it where W would be too many."""
    width = x.width

    def generate(context, builder, signature, arguments):
        target = context.make_array(array)(context, builder, arguments[0])
        pointer = builder.gep(target.data, [arguments[1]])
        size = cgutils.unpack_tuple(builder, target.shape)[0]
        end = builder.add(arguments[1], context.get_constant(types.intp, width))
        with builder.if_else(builder.icmp_signed("<=", end, size)) as (whole, part):
            with whole:
                builder.store(
                    arguments[3], builder.bitcast(pointer, ir.VectorType(DOUBLE, width).as_pointer()), align=8
                )
            with part:
                for i in range(width):
                    place = context.get_constant(types.intp, i)
                    with builder.if_then(builder.icmp_signed("<", place, arguments[2])):
                        entry = builder.extract_element(arguments[3], ir.Constant(ir.IntType(32), i))
                        builder.store(entry, builder.gep(pointer, [place]))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, x), generate


@intrinsic
def exponential(typing, x):
    def generate(context, builder, signature, arguments):
        return exponentials(builder, arguments[0], x.width)

    return x(x), generate


def exponentials(builder, value, width):
    """The instructions of `exponential`."""

    def scaled(a, number, b):
        return builder.fadd(builder.fmul(a, constant(number, width), flags=FAST), b, flags=FAST)

    tiny = builder.fcmp_ordered("<", value, constant(LOG_SMALLEST, width))
    inside = builder.select(tiny, constant(LOG_SMALLEST, width), value)
    shifted = scaled(inside, LOG2_E, constant(ROUND, width))
    q = builder.fsub(shifted, constant(ROUND, width))
    r = scaled(q, -LOG_2_LOW, scaled(q, -LOG_2_HIGH, inside))
    p = constant(1 / math.factorial(13), width)
    for i in range(12, -1, -1):
        p = builder.fadd(builder.fmul(p, r, flags=FAST), constant(1 / math.factorial(i), width), flags=FAST)
    longs = ir.VectorType(LONG, width)
    bits = builder.add(builder.bitcast(shifted, longs), ir.Constant(longs, [1023] * width))
    power = builder.bitcast(builder.shl(bits, ir.Constant(longs, [52] * width)), ir.VectorType(DOUBLE, width))
    return builder.select(tiny, constant(0.0, width), builder.fmul(p, power))


@intrinsic
def logarithm(typing, x):
    width = x.width

    def generate(context, builder, signature, arguments):
        def const(number):
            return constant(number, width)

        def mul(a, b):
            return builder.fmul(a, b, flags=FAST)

        def plus(a, b):
            return builder.fadd(a, b, flags=FAST)

        value, longs = arguments[0], ir.VectorType(LONG, width)

        def long(number):
            return ir.Constant(longs, [number] * width)

        bits = builder.bitcast(value, longs)
        shifted = builder.sub(bits, long(SQRT_HALF_BITS - (1023 << 52)))
        k = builder.lshr(shifted, long(52))
        mantissa = builder.sub(bits, builder.shl(builder.sub(k, long(1023)), long(52)))
        power = builder.fsub(builder.bitcast(builder.or_(k, long(TWO_52_BITS)), value.type), const(TWO_52 + 1023.0))
        f = builder.fsub(builder.bitcast(mantissa, value.type), const(1.0))
        s = builder.fdiv(f, plus(f, const(2.0)))
        z = mul(s, s)
        rest = const(2 / 23.0)
        for odd in range(21, 2, -2):
            rest = plus(mul(rest, z), const(2.0 / odd))
        half = mul(const(0.5), mul(f, f))
        inner = builder.fsub(half, plus(mul(s, plus(half, mul(z, rest))), mul(power, const(LN_2_LOW))), flags=FAST)
        result = builder.fsub(mul(power, const(LN_2_HIGH)), builder.fsub(inner, f))
        normal = builder.fcmp_ordered(">=", value, const(SMALLEST_NORMAL))
        return builder.select(normal, result, const(-math.inf))

    return x(x), generate


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def exponentials_of(flat, out):
    """out = exp(flat), for entries up to 709."""
    for i in range(0, flat.shape[0], 8):
        store_part(out, i, flat.shape[0] - i, exponential(load_part(EIGHT, flat, i)))
