"""Activations in arithmetic and in NumPy's functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probe
from probe.errors import InvalidRead, NotRead
from probe.tracing.activation import RaggedActivation


def states(*shape: int, layers: tuple[int, ...] = (), dims: tuple[str, ...] = ("layer", "token", "feature")) -> probe.Activation:
    data = torch.arange(float(np.prod(shape))).reshape(shape)
    return probe.Activation(data, dims, {"layer": layers} if layers else {})


def test_numbers_tensors_and_arrays_are_broadcast_and_coordinates_stay() -> None:
    a = states(2, 2, 3, layers=(7, 9))
    row = np.array([1.0, 2.0, 4.0], dtype=np.float32)
    for ours, theirs in (
        (a + 1, a.data + 1),
        (2 * a, a.data * 2),
        (1 - a, 1 - a.data),
        (a / row, a.data / torch.from_numpy(row)),
        (row - a, torch.from_numpy(row) - a.data),
        (torch.from_numpy(row) * a, a.data * torch.from_numpy(row)),
        (np.float32(2) * a, a.data * 2),
        (a**2, a.data**2),
        (1 / (a + 1), 1 / (a.data + 1)),
        (-a, -a.data),
        (abs(a - 3), (a.data - 3).abs()),
    ):
        assert torch.equal(ours.data, theirs)
        assert ours.data.dtype == torch.float32
        assert ours.coords == {"layer": (7, 9)}


def test_axes_of_two_activations_are_matched_by_name() -> None:
    a = states(2, 2, 3, layers=(7, 9))
    mean = a.mean("token")
    assert (a - mean).data.tolist() == [[[-1.5] * 3, [1.5] * 3]] * 2
    assert (mean - a).data.tolist() == [[[1.5] * 3, [-1.5] * 3]] * 2
    assert (mean - a).coords == {"layer": (7, 9)}
    turned = probe.Activation(a.data.permute(2, 0, 1), ("feature", "layer", "token"), {"layer": (7, 9)})
    assert (a - turned).data.abs().max() == 0


def test_other_coordinates_axes_or_lengths_are_refused() -> None:
    a = states(2, 2, 3, layers=(7, 9))
    with pytest.raises(InvalidRead, match=r"other coordinates along layer.*a - b\.data"):
        a - states(2, 2, 3, layers=(8, 9))
    assert (a - states(2, 2, 3, layers=(8, 9)).data).coords == {"layer": (7, 9)}
    with pytest.raises(InvalidRead, match="other coordinates along token"):
        a - states(2, 1, 3, layers=(7, 9))
    with pytest.raises(InvalidRead, match="axes that the other lacks"):
        a.sel(layer=7) - states(2, 3, layers=(7, 9), dims=("layer", "feature"))
    with pytest.raises(InvalidRead, match=r"shape \(4,\) does not broadcast"):
        a - torch.ones(4)
    with pytest.raises(InvalidRead, match=r"shape \(1, 2, 2, 3\) does not broadcast"):
        a - torch.ones(1, 2, 2, 3)
    with pytest.raises(TypeError, match="unsupported operand"):
        a - "7"  # type: ignore[operator]
    with pytest.raises(NotRead, match="differ in length"):
        RaggedActivation([states(1, 2, 3), states(1, 3, 3)]) - 1


def test_numpys_functions_take_an_activation_as_its_array() -> None:
    a = states(2, 2, 3, layers=(7, 9))
    assert np.array_equal(np.mean(a, axis=0), a.numpy().mean(0))  # type: ignore[call-overload]
    assert np.array_equal(np.stack([a, a]), np.stack([a.numpy(), a.numpy()]))  # type: ignore[call-overload]
    assert np.concatenate((a.sel(layer=7), a.sel(layer=9)), axis=1).shape == (2, 6)  # type: ignore[call-overload]
    assert isinstance(np.exp(a), np.ndarray)  # type: ignore[call-overload]
    assert np.allclose(a, a.data)  # type: ignore[arg-type]
