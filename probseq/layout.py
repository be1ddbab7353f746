"""The way out: results of a flat batch get the layout that the data came in."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from probseq import beliefs as B
from probseq.sequences import Sequences


class Paths(NamedTuple):
    """State paths dressed as a belief, so that they leave by the same way."""

    values: Tensor


def leave(result: Any, sequences: Sequences, *, unwrap: bool = False, samples: int = 0) -> Any:
    """Give results of a flat batch the layout of the data: a list of own lengths, or (*batch, time, ...)."""

    def open_up(item: Any) -> Any:
        return item[0] if unwrap else item

    if sequences.layout == "list":
        cut = (slice(None),) * samples

        def own(i: int, length: int) -> Any:
            return open_up(B.map_tensors(lambda field, _: field[i][(*cut, slice(0, length))], result))

        return [own(i, length) for i, length in enumerate(sequences.lengths.tolist())]
    return open_up(result if sequences.lengths.ndim == 1 else B.reshape_batch(result, 1, sequences.batch_shape))
