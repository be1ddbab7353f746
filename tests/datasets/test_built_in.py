"""The built-in series."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import probseq as ps


def test_built_in_data():
    nile, sunspots = ps.datasets.nile(), ps.datasets.sunspots()
    assert (len(nile), nile.index[0], nile.index[-1], nile.iloc[0]) == (100, 1871, 1970, 1120.0)
    assert (len(sunspots), sunspots.index[0], sunspots.index[-1]) == (309, 1700, 2008)
    earthquakes = ps.datasets.earthquakes()
    published = json.loads((Path(__file__).parents[1] / "golden" / "earthquakes.json").read_text())["y"]
    assert earthquakes.tolist() == published
    assert (len(published), earthquakes.index[0], earthquakes.index[-1], sum(published)) == (107, 1900, 2006, 2072)
    with pytest.raises(ValueError, match="unknown data set"):
        ps.datasets.load("moon")
