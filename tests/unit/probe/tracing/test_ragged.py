"""Ragged activations: the rows of a batch that do not fit into one tensor."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

from probe.errors import GridUnknown, InvalidRead, NotRead
from probe.tracing.activation import Activation, RaggedActivation

SHORT = Activation(torch.arange(2.0).reshape(1, 2), ("batch", "token"), {"batch": (0,)})
LONG = Activation(torch.arange(3.0).reshape(1, 3), ("batch", "token"), {"batch": (1,)})
RAGGED = RaggedActivation([SHORT, LONG])


def test_it_is_a_sequence_of_its_rows() -> None:
    assert RAGGED.rows() == (SHORT, LONG)
    assert len(RAGGED) == 2
    assert list(RAGGED) == [SHORT, LONG]
    assert RAGGED[-1] == LONG
    assert RAGGED[np.int64(0)] == SHORT
    assert repr(RAGGED) == "RaggedActivation(2 rows of batch, token; token=2, 3)"


@pytest.mark.parametrize(
    "use",
    [
        lambda: RAGGED.data,
        lambda: RAGGED.shape,
        lambda: RAGGED.mean(),
        lambda: RAGGED.sel(token=0),
        lambda: RAGGED.isel(token=0),
        lambda: RAGGED.numpy(),
        lambda: np.asarray(RAGGED),
        lambda: RAGGED.map(torch.zeros(1, 1)),
        lambda: RAGGED.cosine(SHORT),
    ],
)
def test_what_needs_one_tensor_names_the_rows(use: Callable[[], object]) -> None:
    with pytest.raises(NotRead):
        use()


def test_a_row_that_is_not_there_is_refused() -> None:
    for wrong in (2, -3, slice(0, 1), (0, 0)):
        with pytest.raises(NotRead, match="Rows are numbered 0 to 1"):
            _ = RAGGED[wrong]


def test_it_does_not_fold_as_a_whole() -> None:
    with pytest.raises(GridUnknown, match=r"differ in length; fold each of \.rows\(\)"):
        RAGGED.grid()


def test_rows_have_the_same_axes() -> None:
    with pytest.raises(InvalidRead, match="all with the same axes"):
        RaggedActivation([SHORT, LONG.isel(batch=0)])
    with pytest.raises(InvalidRead, match="one or more rows"):
        RaggedActivation([])


def test_it_is_copied_pickled_and_compared() -> None:
    for again in (copy.deepcopy(RAGGED), pickle.loads(pickle.dumps(RAGGED))):
        assert again == RAGGED
        assert again is not RAGGED
    assert RaggedActivation([SHORT, SHORT]) != RAGGED
    assert RAGGED != SHORT


def test_activations_are_equal_where_values_and_names_are() -> None:
    holed = Activation(torch.tensor([1.0, torch.nan]), ("token",))
    assert copy.deepcopy(holed) == holed
    assert pickle.loads(pickle.dumps(holed)) == holed
    assert Activation(torch.tensor([1.0, 2.0]), ("token",)) != holed
    assert Activation(torch.tensor([1.0, torch.nan]), ("key",)) != holed
    assert Activation(torch.tensor([1.0, torch.nan]), ("token",), {"token": (4, 5)}) != holed
    assert holed.map(holed.data.double()) != holed
    assert holed != holed.data.tolist()


def test_all_rows_move_together() -> None:
    half = RAGGED.to(torch.float16)
    assert isinstance(half, RaggedActivation)
    assert [row.data.dtype for row in half] == [torch.float16] * 2
    assert [row.coords for row in half] == [{"batch": (0,)}, {"batch": (1,)}]
    assert len(half) == 2
    assert half[1].shape == {"batch": 1, "token": 3}
