"""Series that come with the library, and tasks that are drawn: what a recurrent network is asked to do.

    u, y = datasets.binary_addition(n_sequences=2000, length=12, seed=0)      # inputs and targets, (n, T, .)
    series = datasets.mackey_glass(5000, tau=17, seed=0)                      # (T,)

    teacher = datasets.mess3()                                                # a model: sample it, filter with it

A task is a pair of arrays: inputs u (n, T, input_dim) and targets y (n, T, obs_dim), float64, where NaN marks a step
that is not scored. The same seed gives the same numbers.
"""

from probseq.datasets.built_in import BUILT_IN, earthquakes, load, nile, sunspots
from probseq.datasets.chaotic import lorenz, mackey_glass, narma10
from probseq.datasets.grammar import REBER_SYMBOLS, reber_grammar
from probseq.datasets.long_range import (
    adding,
    five_bit_memory,
    multiplication,
    temporal_order,
    twenty_bit_memory,
    xor,
)
from probseq.datasets.processes import (
    even,
    golden_mean,
    local_level,
    mess3,
    oscillator,
    random_random_xor,
    zero_one_random,
)
from probseq.datasets.streams import binary_addition, parity, two_streams
from probseq.datasets.text import Characters, characters

__all__ = [
    # real series
    "BUILT_IN",
    "earthquakes",
    "load",
    "nile",
    "sunspots",
    # automata
    "binary_addition",
    "parity",
    "two_streams",
    # long dependencies
    "adding",
    "five_bit_memory",
    "multiplication",
    "temporal_order",
    "twenty_bit_memory",
    "xor",
    # dynamical systems
    "lorenz",
    "mackey_glass",
    "narma10",
    # processes with a known filter
    "even",
    "golden_mean",
    "local_level",
    "mess3",
    "oscillator",
    "random_random_xor",
    "zero_one_random",
    # symbols
    "REBER_SYMBOLS",
    "Characters",
    "characters",
    "reber_grammar",
]
