"""A layer that goes on from another one holds what Hugging Face's own would, and takes nothing from it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionAndFullAttentionLayer, LinearAttentionLayer

from probe.sessions.kv_cache import GrowingLayer, empty_cache, forked_rows, only_keys


def states(tokens: int, rows: int = 1) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4)


def begun(tokens: int = 5) -> DynamicLayer:
    layer = DynamicLayer()
    layer.update(*states(tokens))
    return layer


def test_it_holds_what_a_dynamic_layer_holds() -> None:
    theirs = begun()
    ours = GrowingLayer(theirs, capacity=3)
    for tokens in (4, 1, 1, 1, 1, 7, 1):
        new = states(tokens)
        expected, got = theirs.update(*new), ours.update(*new)
        assert all(map(torch.equal, got, expected))
        assert torch.equal(ours.keys, expected[0])
        assert torch.equal(ours.values, expected[1])
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_two_that_go_on_from_one_leave_it_and_each_other_alone() -> None:
    prefix = begun()
    keys = prefix.keys.clone()
    one, other = GrowingLayer(prefix, capacity=8), GrowingLayer(prefix, capacity=8)
    new = states(2)
    one.update(*new)
    other.update(*states(2))
    assert torch.equal(prefix.keys, keys)
    assert torch.equal(one.keys, torch.cat([keys, new[0]], 2))


def test_what_it_has_is_copied_once_until_the_room_is_full() -> None:
    layer = GrowingLayer(begun(), capacity=2)
    layer.update(*states(1))
    place = layer.keys.data_ptr()
    for _ in range(2):
        layer.update(*states(1))
        assert layer.keys.data_ptr() == place
    layer.update(*states(1))
    assert layer.keys.data_ptr() != place


def test_what_was_returned_stays_as_it_was() -> None:
    layer = GrowingLayer(begun(), capacity=8)
    returned = [layer.update(*states(tokens))[0] for tokens in (2, 1, 3)]
    as_they_were = [keys.clone() for keys in returned]
    layer.update(*states(4))
    assert all(map(torch.equal, returned, as_they_were))


def test_what_it_is_given_to_hold_is_gone_on_from_and_not_written_to() -> None:
    layer = GrowingLayer(begun(), capacity=4)
    layer.update(*states(1))
    some = [4, 0, 2]
    kept = layer.keys[:, :, some].clone()
    layer.hold(layer.keys[:, :, some], layer.values[:, :, some])
    new = states(1)
    assert torch.equal(layer.update(*new)[0], torch.cat([kept, new[0]], 2))

    rows = begun()
    given = rows.keys.clone()
    layer.hold(rows.keys.expand(3, -1, -1, -1), rows.values.expand(3, -1, -1, -1))
    new = states(1, rows=3)
    assert torch.equal(layer.update(*new)[0], torch.cat([given.expand(3, -1, -1, -1), new[0]], 2))
    assert torch.equal(rows.keys, given)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.reorder_cache(torch.tensor([1, 0])),
        lambda layer: layer.batch_select_indices(torch.tensor([1])),
        lambda layer: layer.batch_repeat_interleave(2),
        lambda layer: layer.crop(-2),
    ],
)
def test_what_hugging_face_does_to_a_layer_is_followed(change: Callable[[DynamicLayer], None]) -> None:
    theirs = DynamicLayer()
    theirs.update(*states(5, rows=2))
    ours = GrowingLayer(theirs, capacity=4)
    new = states(2, rows=2)
    theirs.update(*new)
    returned = ours.update(*new)[0]
    as_it_was = returned.clone()
    change(theirs)
    change(ours)
    new = states(1, rows=theirs.keys.shape[0])
    expected, got = theirs.update(*new), ours.update(*new)
    assert all(map(torch.equal, got, expected))
    assert torch.equal(returned, as_it_was)


def test_a_layer_that_has_nothing_yet_begins_with_what_comes() -> None:
    layer = GrowingLayer(DynamicLayer(), capacity=4)
    assert layer.get_seq_length() == 0
    new = states(3)
    assert torch.equal(layer.update(*new)[0], new[0])
    assert layer.get_seq_length() == 3


def test_a_recurrent_state_is_copied_for_each_row_and_its_source_is_left_as_it_is() -> None:
    source = LinearAttentionLayer()
    source.update_conv_state(torch.ones(1, 3, 4))
    source.update_recurrent_state(torch.full((1, 2, 3), 2.0))
    fork = forked_rows([source] * 3, capacity=8)
    assert isinstance(fork, LinearAttentionLayer)
    fork.conv_states[0].zero_()  # as the kernel of a single token does
    fork.update_recurrent_state(torch.zeros(3, 2, 3))
    assert fork.conv_states[0].shape == (3, 3, 4)
    assert source.conv_states[0].tolist() == torch.ones(1, 3, 4).tolist()
    assert source.recurrent_states[0].tolist() == torch.full((1, 2, 3), 2.0).tolist()


def test_a_layer_of_both_kinds_is_repeated_whole() -> None:
    source = LinearAttentionAndFullAttentionLayer()
    source.update_conv_state(torch.ones(1, 3, 4))
    source.update(*states(5))
    fork = forked_rows([source] * 2, capacity=8)
    fork.update(*states(1, rows=2))
    assert fork.keys.shape[:3] == (2, 2, 6)
    assert torch.equal(fork.keys[1, :, :5], source.keys[0])
    assert source.keys.shape[:3] == (1, 2, 5)


def test_an_empty_cache_keeps_what_a_sliding_window_drops() -> None:
    kinds = ["sliding_attention", "full_attention", "hybrid_sliding", "conv"]
    config = PreTrainedConfig(num_hidden_layers=4, layer_types=kinds, sliding_window=2)
    assert isinstance(DynamicCache(config=config).layers[0], DynamicSlidingWindowLayer)
    layers = empty_cache(config).layers
    expected = [DynamicLayer, DynamicLayer, LinearAttentionAndFullAttentionLayer, LinearAttentionLayer]
    assert [type(layer) for layer in layers] == expected
    assert [only_keys([layer]) for layer in layers] == [True, True, False, False]
