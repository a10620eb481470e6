"""A store is read in part: an item, a layer, a span, a matrix, batches."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import probe
from probe.errors import DamagedStore, InvalidRead, NotRead, SpanNotFound
from probe.store.format.shards import items_path, tensors_path
from tests.unit.probe.store.synthetic import READ, tokens_of, value, write_store

FOUR = probe.Hidden(4, at="image")
GOOD = [number for number in range(20) if number % 7 != 6]


@pytest.fixture
def store(tmp_path: Path) -> probe.Store:
    """20 items in three shards, of which 6 and 13 failed."""
    write_store(tmp_path / "store", items=20, per_shard=8)
    return probe.open_store(tmp_path / "store")


@pytest.fixture
def pooled(tmp_path: Path) -> probe.Store:
    """20 pooled items in one shard."""
    write_store(tmp_path / "pooled", items=20, per_shard=20, pool="mean")
    return probe.open_store(tmp_path / "pooled")


def test_an_item_comes_with_its_layers_positions_and_grid(store: probe.Store) -> None:
    activation = store[READ]["item-11"]
    assert activation.dims == ("layer", "batch", "token", "feature")
    assert torch.equal(activation.data, torch.stack([value(11, 2), value(11, 4)]))
    assert activation.coords == {"layer": (2, 4), "token": tuple(range(1, 7))}
    assert activation.normed == (False, True)
    assert activation.grid().shape == {"layer": 2, "batch": 1, "row": 3, "col": 2, "feature": 3}


def test_a_part_of_a_read_is_a_layer_or_a_span_of_it(store: probe.Store) -> None:
    assert torch.equal(store[FOUR]["item-3"].data, value(3, 4)[None])
    assert store[probe.Hidden(-1, at="image")]["item-3"] == store[FOUR]["item-3"]  # the last of layers 0 to 4
    last = store[probe.Hidden(4, at=(2, 1))]["item-3"]
    assert torch.equal(last.data, value(3, 4)[None, :, [1, 0]])
    assert last.coords["token"] == (2, 1)
    with pytest.raises(NotRead, match=r"Position 0 of 'item-3' was not collected\. Collected: Hidden"):
        store[probe.Hidden(4, at=0)]["item-3"]


@pytest.mark.parametrize(
    "read", [probe.Hidden(3, at="image"), probe.Hidden(4, at="answer"), probe.MLPOutput(4, at="image"), probe.Hidden(4)]
)
def test_a_read_that_was_not_collected_names_those_that_were(store: probe.Store, read: probe.Read) -> None:
    with pytest.raises(NotRead, match=r"was not collected\. Collected: Hidden\(layers=\(2, 4\), at=\('image',\), normed=True\)"):
        store[read]


def test_one_item_at_one_layer_is_a_view_of_its_bytes(store: probe.Store) -> None:
    shard, position = store.find("item-3")
    item, whole = store[FOUR]["item-3"].data, shard.rows(0, 4)
    before = sum(map(tokens_of, range(3)))
    assert item.data_ptr() == whole.data_ptr() + before * 3 * 4
    assert position == 3


def test_ids_labels_and_failures(store: probe.Store) -> None:
    assert store.ids == tuple(f"item-{number}" for number in GOOD)
    assert store.labels["number"].tolist() == GOOD
    assert store.failed == {"item-6": "ImageError: none", "item-13": "ImageError: none"}
    assert (store.missing, store.damaged) == ((), {})
    with pytest.raises(NotRead, match=r"No item 'item-6' .*: it failed: ImageError: none"):
        store[READ]["item-6"]
    with pytest.raises(NotRead, match=r"No item 'cat' .*: it has 18 items, such as 'item-0', 'item-1', 'item-2'"):
        store[READ]["cat"]
    assert "item-6" not in store[READ]
    assert list(store[READ]) == list(store.ids)


def test_a_pooled_matrix_of_one_shard_is_the_mapped_file(pooled: probe.Store) -> None:
    matrix = pooled.matrix(FOUR)
    assert np.array_equal(matrix, np.concatenate([value(number, 4, "mean").numpy() for number in GOOD]))
    assert matrix.ctypes.data == pooled.shards[0].rows(0, 4).data_ptr()
    assert np.array_equal(pooled.matrix(FOUR, pool="mean"), matrix)


def test_a_matrix_of_several_shards(store: probe.Store) -> None:
    rows = np.concatenate([value(number, 4)[0].numpy() for number in GOOD])
    assert np.array_equal(store.matrix(FOUR), rows)
    assert store.owners(FOUR).tolist() == [index for index, number in enumerate(GOOD) for _ in range(tokens_of(number))]
    means = store.matrix(FOUR, pool="mean")
    assert means.dtype == np.float32
    assert np.allclose(means, [value(number, 4)[0].mean(0).tolist() for number in GOOD])
    first = probe.Hidden(4, at=1)
    assert np.array_equal(store.matrix(first), np.stack([value(number, 4)[0, 0].numpy() for number in GOOD]))
    with pytest.raises(NotRead, match=r"A matrix is of one layer, and .* has 2, 4\. Name one"):
        store.matrix(READ)
    with pytest.raises(InvalidRead, match="pool='max': 'mean'"):
        store.matrix(FOUR, pool="max")  # type: ignore[arg-type]


def test_rows_by_number(store: probe.Store) -> None:
    dataset = store.dataset(FOUR)
    assert len(dataset) == sum(map(tokens_of, GOOD))
    row, item = dataset[-1]
    assert (row.tolist(), store.ids[item]) == (value(19, 4)[0, -1].tolist(), "item-19")
    with pytest.raises(IndexError, match="Row 1000 was asked for"):
        dataset[1000]


@pytest.mark.parametrize("workers", [0, 2])
def test_shuffled_rows_come_once_an_epoch_in_another_order(store: probe.Store, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shuffled = store.shuffled(FOUR, batch=4, buffer=8, seed=1)
    monkeypatch.setattr(type(shuffled), "PIECE", 3)
    loader, rows = DataLoader(shuffled, batch_size=None, num_workers=workers), store.matrix(FOUR)
    epochs = [
        [(tuple(row), item) for batch, items in loader for row, item in zip(batch.tolist(), items.tolist(), strict=True)] for _ in range(2)
    ]
    expected = sorted(zip(map(tuple, rows.tolist()), store.owners(FOUR).tolist(), strict=True))
    assert [sorted(epoch) for epoch in epochs] == [expected, expected]
    assert epochs[0] != epochs[1]


def test_a_buffer_smaller_than_a_batch_is_refused(store: probe.Store) -> None:
    with pytest.raises(InvalidRead, match="batch=4, buffer=2"):
        store.shuffled(FOUR, batch=4, buffer=2)


def test_a_store_can_be_sent_to_another_process(store: probe.Store) -> None:
    store.matrix(FOUR)
    sent = pickle.loads(pickle.dumps((store, store.dataset(FOUR))))
    assert sent[0][READ]["item-3"] == store[READ]["item-3"]
    assert torch.equal(sent[1][5][0], store.dataset(FOUR)[5][0])


def test_a_truncated_shard_is_named_and_the_rest_is_read(store: probe.Store) -> None:
    path = tensors_path(store.folder, 1)
    path.write_bytes(path.read_bytes()[:-1])
    harmed = probe.open_store(store.folder)
    with pytest.raises(DamagedStore, match=r"shard-00001\.safetensors' has \d+ bytes, \d+ were written: it is cut short"):
        harmed[READ]["item-9"]
    assert torch.equal(harmed[FOUR]["item-3"].data, value(3, 4)[None])
    with pytest.raises(DamagedStore, match="shard-00001"):
        harmed.matrix(FOUR)
    sound = harmed.intact()
    assert sound.ids == tuple(f"item-{number}" for number in GOOD if not 8 <= number < 16)
    assert len(sound.matrix(FOUR, pool="mean")) == len(sound.ids)
    (problem,) = harmed.check()
    assert "cut short" in problem


def test_a_shard_whose_items_are_damaged_or_gone_is_named_and_the_rest_is_read(store: probe.Store) -> None:
    items_path(store.folder, 0).unlink()
    path = items_path(store.folder, 2)
    path.write_text(path.read_text().replace("item-17", "item-18"))
    harmed = probe.open_store(store.folder)
    assert harmed.missing == (0, 2)
    assert harmed.ids == tuple(f"item-{number}" for number in range(8, 16) if number != 13)
    assert [line.partition("store/shard")[2][:8] or line[:8] for line in harmed.check()] == ["-00002.j", "Shard 0 "]
    with pytest.raises(NotRead, match=r"shard-00002\.json' does not have the content that was written"):
        harmed[READ]["item-16"]


@pytest.mark.parametrize("byte", [0, 40, -1])
def test_any_flipped_bit_of_a_shard_is_found(store: probe.Store, byte: int) -> None:
    assert store.check() == []
    path = tensors_path(store.folder, 2)
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(content)
    (problem,) = probe.open_store(store.folder).check()
    assert "shard-00002.safetensors" in problem


def test_an_array_with_names(pooled: probe.Store) -> None:
    pytest.importorskip("xarray", reason="xarray is an extra")
    array = pooled.to_xarray(FOUR)
    assert array.sel(item="item-3").values.tolist() == value(3, 4, "mean")[0].tolist()
    assert array.where(array.number > 17, drop=True).item.values.tolist() == ["item-18", "item-19"]


def test_an_array_of_more_rows_than_items_is_refused(store: probe.Store) -> None:
    pytest.importorskip("xarray", reason="xarray is an extra")
    with pytest.raises(NotRead, match="rows of 18 items: pass pool='mean'"):
        store.to_xarray(FOUR)


def test_a_pool_of_no_position_is_named(store: probe.Store) -> None:
    with pytest.raises(SpanNotFound, match="'item-0' has no position there"):
        store.matrix(probe.Hidden(4, at=probe.Span(())), pool="mean")
