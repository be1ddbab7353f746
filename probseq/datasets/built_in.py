"""Series that come with the library."""

from __future__ import annotations

from importlib import resources
from typing import Any

BUILT_IN = ("earthquakes", "nile", "sunspots")


def load(name: str) -> Any:
    """A built-in series by name, as a pandas Series with a yearly integer index."""
    import pandas as pd

    if name not in BUILT_IN:
        raise ValueError(f"unknown data set {name!r}; there are {', '.join(BUILT_IN)}")
    with resources.files("probseq").joinpath("data", f"{name}.csv").open() as file:
        frame = pd.read_csv(file, index_col=0)
    return frame.iloc[:, 0].astype("float64")


def earthquakes() -> Any:
    """Earthquakes per year of magnitude 7 and more, 1900-2006 (US Geological Survey; Zucchini and MacDonald 2009)."""
    return load("earthquakes")


def nile() -> Any:
    """Annual flow of the Nile at Aswan, 1871-1970, in 10^8 cubic metres (Cobb 1978); 100 values."""
    return load("nile")


def sunspots() -> Any:
    """Yearly mean sunspot numbers, 1700-2008 (SIDC, Royal Observatory of Belgium); 309 values."""
    return load("sunspots")
