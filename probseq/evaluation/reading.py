"""One column of numbers from a CSV file, or a built-in series.

- A first line of numbers is data, not a header; the columns are then named 0, 1, ...
- The first of several columns is the index if it holds dates or other text, or integers that increase strictly
  while another column holds numbers. Dates must increase.
- Empty cells, NA and NaN are missing values. The order of the rows is the order in time.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from probseq import datasets


def read_column(name: str, column: str | None = None) -> Any:
    """One column of numbers, by built-in name or path, as a pandas Series; a ValueError says what there is instead."""
    if name in datasets.BUILT_IN:
        y = datasets.load(name)
        if column not in (None, y.name):
            raise ValueError(f"{name} has no column {column!r}; it has {y.name}")
        return y
    path = Path(name)
    if not path.is_file():
        raise ValueError(
            f"there is no file {name}, nor a built-in series of that name ({', '.join(datasets.BUILT_IN)})"
        )
    return _pick(_indexed(_frame(path), column), column, name)


def _frame(path: Path) -> Any:
    """The table of a CSV file; a first line of numbers is data, not a header."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, skipinitialspace=True)
        if len(frame.columns) and all(_is_number(str(label)) for label in frame.columns):
            frame = pd.read_csv(path, skipinitialspace=True, header=None).rename(columns=str)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV table: {error}") from error
    return frame


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _indexed(frame: Any, column: str | None) -> Any:
    """The frame with its first column as the index where that is what it looks like."""
    import pandas as pd

    if len(frame.columns) < 2 or column == frame.columns[0]:
        return frame
    first = frame.iloc[:, 0]
    others = frame.iloc[:, 1:]
    if pd.api.types.is_numeric_dtype(first):
        counts = pd.api.types.is_integer_dtype(first) and first.is_monotonic_increasing and first.is_unique
        numbers = len(others.select_dtypes("number").columns) > 0
        return others.set_axis(pd.Index(first), axis=0) if counts and numbers else frame
    dates = _dates(first)
    if dates is None:
        return others.set_axis(pd.Index(first), axis=0)
    if not dates.is_monotonic_increasing:
        raise ValueError(f"the dates in column {first.name!r} must increase from row to row; sort the file by date")
    return others.set_axis(pd.DatetimeIndex(dates, name=first.name), axis=0)


def _dates(column: Any) -> Any:
    """The column as dates, or None if it holds other text."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pd.to_datetime(column)
        except (ValueError, TypeError, OverflowError):
            return None


def _pick(frame: Any, column: str | None, name: str) -> Any:
    """The asked column, or the only numeric one."""
    numeric = list(frame.select_dtypes("number").columns)
    if column is None:
        if not numeric:
            raise ValueError(f"{name} has no column of numbers; its columns are {', '.join(map(str, frame.columns))}")
        if len(numeric) > 1:
            raise ValueError(f"{name} has several columns of numbers, choose one with --column: {', '.join(numeric)}")
        column = numeric[0]
    if column not in frame.columns:
        raise ValueError(f"{name} has no column {column!r}; it has {', '.join(map(str, frame.columns))}")
    if column not in numeric:
        raise ValueError(
            f"column {column!r} of {name} holds text such as {str(_first_text(frame[column]))!r}, not numbers"
        )
    return frame[column].astype("float64")


def _first_text(column: Any) -> Any:
    return next((value for value in column if not _is_number(str(value))), column.iloc[0])
