"""Bach's chorales, 88 keys a frame: the bounds of stochastic networks on the test pieces, in nats per frame."""

from __future__ import annotations

import os
from typing import Any

import pytest

from benchmarks import bench_music

#: what must be reached: the deep Markov model's own mark; that of a GRU of 46 units with independent keys
MOST = {"deep-markov": 7.6, "vrnn": 8.54, "srnn": 8.54}


@pytest.mark.slow
@pytest.mark.parametrize("name", MOST)
def test_bounds_on_chorales(name: str) -> None:
    if not os.path.exists(os.path.join(os.environ.get("PROBSEQ_DATA", ""), "JSB_Chorales.mat")):
        pytest.skip("PROBSEQ_DATA does not name a folder with JSB_Chorales.mat")
    found: Any = bench_music.ROWS[name](bench_music.chorales(), 0)
    print(name, found)
    assert found["importance"] < found["bound"] < MOST[name]
