"""The door: containers, padding, missing values, indexes and the errors that name the place."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from probseq.sequences import Sequences, future_inputs


def test_one_dimension_gets_an_event_axis():
    sequences = Sequences.of([1.0, 2.0, 3.0])
    assert sequences.values.shape == (3, 1)
    assert sequences.batch_shape == ()
    assert sequences.event_shape == (1,)
    assert sequences.complete
    assert int(sequences.lengths) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: x.tolist(),
        lambda x: torch.as_tensor(x),
        lambda x: torch.as_tensor(x, dtype=torch.float32),
        lambda x: x.astype(np.longdouble),
        lambda x: x.astype(np.float32),
        lambda x: x.astype(">f8"),
        lambda x: pd.Series(x),
        lambda x: np.ma.masked_array(x),
        lambda x: x[::-1][::-1],
        lambda x: pd.Series(x).astype("Float64"),
    ],
)
def test_every_container_gives_the_same_numbers(make):
    data = np.arange(5.0)
    assert torch.equal(Sequences.of(make(data)).values[:, 0], torch.arange(5.0, dtype=torch.float64))
    assert np.array_equal(data, np.arange(5.0)), "the input was changed"


def test_integers_and_booleans_are_numbers():
    assert torch.equal(Sequences.of(np.array([0, 2, 1])).values[:, 0], torch.tensor([0.0, 2.0, 1.0]).double())
    assert torch.equal(Sequences.of(np.array([True, False])).values[:, 0], torch.tensor([1.0, 0.0]).double())


def test_read_only_input_is_accepted_and_copied():
    data = np.arange(3.0)
    data.flags.writeable = False
    values = Sequences.of(data).values
    values += 1
    assert data[0] == 0


def test_nan_and_masks_mean_missing():
    by_nan = Sequences.of(np.array([[1.0, np.nan], [np.nan, np.nan]]))
    by_mask = Sequences.of(np.ma.masked_array([[1.0, 7.0], [8.0, 9.0]], mask=[[0, 1], [1, 1]]))
    expected = torch.tensor([[True, False], [False, False]])
    for sequences in (by_nan, by_mask):
        assert torch.equal(sequences.observed, expected)
        assert torch.equal(sequences.values, torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double())
        assert not sequences.complete
        assert sequences.seen.tolist() == [True, False]


def test_ragged_list_is_padded_and_remembered():
    sequences = Sequences.of([np.ones(2), np.ones(4), np.ones(0)])
    assert sequences.layout == "list"
    assert sequences.lengths.tolist() == [2, 4, 0]
    assert sequences.values.shape == (3, 4, 1)
    assert sequences.inside.sum().item() == 6
    assert sequences.complete
    assert not sequences.rectangular


def test_concatenated_equals_list():
    parts = [np.arange(6.0).reshape(3, 2), 10 + np.arange(4.0).reshape(2, 2)]
    joined = Sequences.of(np.concatenate(parts), lengths=[3, 2])
    separate = Sequences.of(parts)
    assert torch.equal(joined.values, separate.values)
    assert torch.equal(joined.observed, separate.observed)
    assert joined.layout == "list"


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e300])
def test_padding_may_hold_anything(garbage):
    data = np.ones((2, 3, 1))
    data[0, 2] = garbage
    sequences = Sequences.of(data, lengths=[2, 3])
    assert sequences.complete
    assert sequences.values[0, 2].item() == 0
    assert torch.isfinite(sequences.values).all()


def test_one_padded_sequence():
    sequences = Sequences.of(np.ones((4, 2)), lengths=3)
    assert sequences.layout == "batch"
    assert int(sequences.lengths) == 3


@pytest.mark.parametrize(
    ("data", "keywords", "words"),
    [
        ([1.0, np.inf], {}, ["y must be finite", "step 1, column 0"]),
        ([np.ones(2), np.array([1.0, -np.inf])], {}, ["y[1]", "step 1"]),
        (np.array([1 + 2j]), {}, ["y", "complex128"]),
        (np.array(["a", "b"]), {}, ["y", "real numbers"]),
        (np.array([object(), 1.0], dtype=object), {}, ["y", "numbers"]),
        (np.ones((10, 1)), {"lengths": [5, 4]}, ["lengths sum to 9", "10 rows"]),
        (np.ones((10, 1)), {"lengths": [5.0, 5.0]}, ["lengths must be integers"]),
        (np.ones((10, 1)), {"lengths": [11, -1]}, ["lengths must not be negative", "-1"]),
        (np.ones((2, 3, 1)), {"lengths": [4, 3]}, ["lengths must not exceed", "4"]),
        (np.ones((2, 3, 1)), {"lengths": [3]}, ["lengths must have shape (2,)"]),
        ([np.ones(2), np.ones((2, 2))], {}, ["y[1] has 2 columns"]),
        ([np.ones(2)], {"lengths": [2]}, ["lengths must be left out"]),
        (3.0, {}, ["y must be an array or a list with a time axis, got 3.0"]),
        ("abc", {}, ["time axis, got str"]),
        (None, {}, ["time axis, got NoneType"]),
        ({"a": [1.0]}, {}, ["time axis, got dict"]),
        ((value for value in [1.0, 2.0]), {}, ["time axis, got generator"]),
        ([np.ones((1, 2, 3))], {}, ["y[0]", "one sequence"]),
    ],
)
def test_bad_data_are_named(data, keywords, words):
    with pytest.raises(ValueError, match=r"must|has|sum") as error:
        Sequences.of(data, **keywords)
    for word in words:
        assert word in str(error.value)


def test_a_zero_length_among_others_is_allowed():
    assert Sequences.of(np.ones((3, 1)), lengths=[3, 0]).lengths.tolist() == [3, 0]


def test_inputs_follow_the_layout_of_y():
    one = Sequences.of(np.ones(4), np.arange(8.0).reshape(4, 2))
    assert one.inputs.shape == (4, 2)
    shared = Sequences.of(np.ones((3, 4, 1)), np.arange(4.0))
    assert shared.inputs.shape == (3, 4, 1)
    ragged = Sequences.of([np.ones(2), np.ones(3)], [np.ones((2, 1)), np.ones((3, 1))])
    assert ragged.inputs.shape == (2, 3, 1)
    joined = Sequences.of(np.ones((5, 1)), np.arange(5.0)[:, None], lengths=[2, 3])
    assert joined.inputs[1, :, 0].tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("u", "words"),
    [
        (np.array([[1.0], [np.nan]]), ["u must be known", "step 1"]),
        (np.ones((3, 1)), ["u has 3 steps but y has 2"]),
        (np.array([[1.0], [np.inf]]), ["u", "finite"]),
    ],
)
def test_bad_inputs_are_named(u, words):
    with pytest.raises(ValueError, match="u") as error:
        Sequences.of(np.ones(2), u)
    for word in words:
        assert word in str(error.value)


def test_ragged_inputs_must_match():
    with pytest.raises(ValueError, match=r"u\[1\] has 2 steps but y\[1\] has 3"):
        Sequences.of([np.ones(3), np.ones(3)], [np.ones((3, 1)), np.ones((2, 1))])


def test_pandas_index_and_names_are_kept():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, index=pd.period_range("2000", periods=2, freq="Y"))
    sequences = Sequences.of(frame)
    assert sequences.index.equals(frame.index)
    assert sequences.names == ("a", "b")
    assert Sequences.of(pd.Series([1.0], name="flow")).names == ("flow",)


def test_flat_select_and_steps():
    data = np.arange(24.0).reshape(2, 2, 3, 2)
    sequences = Sequences.of(data, lengths=[[3, 2], [1, 3]])
    flat = sequences.flat()
    assert flat.lengths.tolist() == [3, 2, 1, 3]
    assert torch.equal(flat.values.reshape(2, 2, 3, 2), sequences.values)
    chosen = flat.select([3, 1])
    assert chosen.lengths.tolist() == [3, 2]
    assert torch.equal(chosen.values[0], flat.values[3])
    tail = flat.steps(1, 3)
    assert tail.lengths.tolist() == [2, 1, 0, 2]
    assert torch.equal(tail.values, flat.values[:, 1:3])


def test_future_inputs_are_checked():
    assert future_inputs(np.ones((3, 2)), (4,), 3).shape == (4, 3, 2)
    with pytest.raises(ValueError, match="future_u must give 3 steps, got 2"):
        future_inputs(np.ones((2, 2)), (), 3)
    with pytest.raises(ValueError, match="future_u must be known"):
        future_inputs(np.array([[np.nan]]), (), 1)


def test_gradients_pass_the_door():
    y = torch.ones(3, 1, dtype=torch.float64, requires_grad=True)
    Sequences.of(y).values.sum().backward()
    assert torch.equal(y.grad, torch.ones(3, 1, dtype=torch.float64))
