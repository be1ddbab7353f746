"""Elementwise functions that the compiler turns into vector instructions: no branch, no table, no library call.

    expm1(x) = 2^n (exp(r) - 1) + (2^n - 1),    n = round(x / log 2),    r = x - n log 2

with exp(r) - 1 from its Taylor series on |r| <= log(2) / 2, to the last digit of the type. Then

    logistic(x) = 1 / (2 + expm1(-x))        tanh(x) = expm1(2 x) / (2 + expm1(2 x))

to about one unit in the last place, also near zero. NaN stays NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

_TAYLOR = [1.0 / math.factorial(k) for k in range(14)]


def expm1(x: Any) -> Any:
    """exp(x) - 1 for |x| <= 40, inside compiled functions only."""
    raise NotImplementedError


def _single() -> Any:
    real, integer = np.float32, np.int32
    rate, magic = real(1.0 / math.log(2.0)), real(1.5 * 2.0**23)  # adding `magic` rounds to an integer
    high = real(0.693359375)  # log 2 to nine bits, so that n * high is exact; the rest
    low = real(math.log(2.0) - 0.693359375)
    c2, c3, c4, c5, c6, c7 = (real(c) for c in _TAYLOR[2:8])
    zero, one, bias, fraction = magic.view(integer), real(1.0), integer(127), integer(23)

    def run(x):
        rounded = x * rate + magic
        n = rounded - magic
        r = (x - n * high) - n * low
        rest = r + r * r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * c7)))))
        power = integer(((real(rounded).view(integer) - zero) + bias) << fraction).view(real)
        return power * rest + (power - one)

    return run


def _double() -> Any:
    real, integer = np.float64, np.int64
    rate, magic = 1.0 / math.log(2.0), real(1.5 * 2.0**52)
    high = math.ldexp(math.floor(math.ldexp(math.log(2.0), 32)), -32)  # 32 bits of log 2
    low = 1.90821492927058770002e-10 + (6.93147180369123816490e-01 - high)  # log 2 - high, to twice the precision
    c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13 = _TAYLOR[2:14]
    zero, bias, fraction = magic.view(integer), integer(1023), integer(52)

    def run(x):
        rounded = x * rate + magic
        n = rounded - magic
        r = (x - n * high) - n * low
        tail = c8 + r * (c9 + r * (c10 + r * (c11 + r * (c12 + r * c13))))
        rest = r + r * r * (c2 + r * (c3 + r * (c4 + r * (c5 + r * (c6 + r * (c7 + r * tail))))))
        power = integer(((real(rounded).view(integer) - zero) + bias) << fraction).view(real)
        return power * rest + (power - 1.0)

    return run


@overload(expm1, inline="always")
def _expm1(x):
    return _single() if x == types.float32 else _double()


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"}, inline="always")
def bounded(x, limit):
    """x moved into [-limit, limit]; NaN stays."""
    x = limit if x > limit else x
    return -limit if x < -limit else x


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def logistic_(x):
    """x = 1 / (1 + exp(-x)), in place."""
    number = x.dtype.type
    for j in range(x.size):
        x[j] = number(1) / (number(2) + expm1(bounded(-x[j], number(80))))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def peephole_logistic_(x, weights, memory):
    """x = logistic(x + weights * memory), in place."""
    number = x.dtype.type
    for j in range(x.size):
        total = x[j] + weights[j] * memory[j]
        x[j] = number(1) / (number(2) + expm1(bounded(-total, number(80))))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def tanh_(x):
    """x = tanh(x), in place."""
    number = x.dtype.type
    for j in range(x.size):
        e = expm1(bounded(number(2) * x[j], number(40)))
        x[j] = e / (number(2) + e)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def tanh_to(x, out):
    """out = tanh(x), in other memory: where the two overlap, the compiled loop goes one number at a time."""
    number = x.dtype.type
    for j in range(x.size):
        e = expm1(bounded(number(2) * x[j], number(40)))
        out[j] = e / (number(2) + e)
