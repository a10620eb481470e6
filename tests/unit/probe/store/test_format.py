"""What lies in a store's folder is what docs/store.md says."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import probe
from probe.errors import DamagedStore, InvalidRead, OutputError, RunLocked, StoreMismatch
from probe.store.collecting import shard_writer
from probe.store.collecting.shard_writer import ShardWriter, work_folder
from probe.store.format.contexts import layout_of, runs, unrolled, values_of_layout
from probe.store.format.manifest import read_manifest
from probe.store.format.read_values import read_of_values, reads_of_toml, values_of_read
from probe.store.format.shards import items_path, read_items, tensors_path
from tests.unit.probe.store.synthetic import manifest, tokens_of, value, write_shard, write_store, written

READS = [
    probe.Hidden("all", at=("image", -1)),
    probe.Hidden(3, at=probe.Span((4, 6), "cat"), normed=False),
    probe.Attention([1, 2], query="answer", key=None, heads="mean"),
    probe.HeadOutput(2, at=None, heads=(0, 3)),
    probe.Vision(-2),
    probe.VisionAttention(1, query="class", key="patches"),
    probe.Projected(),
    probe.Module("model.multi_modal_projector", side="input", at="image"),
    probe.Logits(at="answer"),
]


@pytest.mark.parametrize("read", READS, ids=repr)
def test_every_kind_of_read_is_written_and_read_back(read: probe.Read) -> None:
    assert read_of_values(json.loads(json.dumps(values_of_read(read)))) == read


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"has nothing; it should have \[\[read\]\] tables"),
        ('[[read]]\nkind = "State"\n', "kind = 'State' is no read. Reads are Hidden, Attention"),
        ('[[read]]\nkind = "Hidden"\nlayer = 4\n', "Hidden has no 'layer'. It has layers, at, normed"),
        ('[[read]]\nkind = "Hidden"\n', "missing 1 required positional argument: 'layers'"),
        ("[[read", "is no file of reads"),
    ],
)
def test_a_file_of_reads_that_is_none_says_why(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "reads.toml").write_text(text)
    with pytest.raises(InvalidRead, match=reason):
        reads_of_toml(tmp_path / "reads.toml")


@given(st.lists(st.integers(0, 50)))
def test_runs_are_the_numbers_in_their_order(numbers: list[int]) -> None:
    assert unrolled(runs(numbers)) == tuple(numbers)


@pytest.mark.parametrize(
    "layout",
    [
        probe.ImageLayout((probe.Grid.whole(2, 3, (20, 30)), probe.Grid.at(((0, 5), (5, 10)), ((0, 8), (12, 20)), (6, 7, 9, 8), (20, 30)))),
        probe.ImageLayout((), (0, 1), "queries", shown=probe.Grid.whole(1, 1, (2, 2))),
        probe.VideoLayout.repeated(probe.Grid.whole(1, 2, (10, 20), first=1), frames=3, merged=2, stride=3, last=1),
    ],
    ids=["views", "no grid", "video"],
)
def test_layouts_are_written_and_read_back(layout: probe.ImageLayout | probe.VideoLayout) -> None:
    assert layout_of(json.loads(json.dumps(values_of_layout(layout)))) == layout


def test_a_shard_is_a_safetensors_file_of_the_tensors_that_the_page_lists(tmp_path: Path) -> None:
    write_store(tmp_path, items=9, per_shard=4)
    tensors = load_file(tensors_path(tmp_path, 1))  # items 4 to 7, of which 6 failed
    counts = [tokens_of(4), tokens_of(5), 0, tokens_of(7)]
    assert tensors["r0.offsets"].tolist() == [0, 4, 10, 10, 14]
    assert tensors["tokens.offsets"].tolist() == [0, 7, 16, 16, 23]
    assert tensors["tokens"].dtype == torch.int32
    assert tensors["r0.l4"].shape == (sum(counts), 3)
    assert torch.equal(tensors["r0.l4"], torch.cat([value(number, 4)[0] for number in (4, 5, 7)]))
    described = read_items(tmp_path, 1)
    assert [item["id"] for item in described.items] == ["item-4", "item-5", "item-6", "item-7"]
    assert described.items[2]["error"] == "ImageError: none"
    assert [context["tokens"] for context in described.contexts] == [7, 9]
    assert [item.get("context") for item in described.items] == [0, 1, None, 0]
    assert [len(layout["grids"]) for layout in described.layouts] == [1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        *(f"shard-0000{number}.{ending}" for number in range(3) for ending in ("json", "safetensors")),
    ]


def test_a_manifest_reads_back(tmp_path: Path) -> None:
    of = write_store(tmp_path, items=9, per_shard=4)
    assert read_manifest(tmp_path) == replace(of, reads=tuple(replace(read, read=dict(read.read)) for read in of.reads))


def killed_writer(folder: Path, delay: float) -> None:
    """Write shard 0 in a process that is ended after so many seconds."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process at once, wherever it is
        signal.setitimer(signal.ITIMER_REAL, delay)
        with suppress(BaseException):
            write_shard(folder, manifest(60, 60), 0)
        os._exit(0)
    os.waitpid(child, 0)


def test_a_shard_whose_writers_are_killed_is_the_same(tmp_path: Path) -> None:
    started = time.perf_counter()
    write_store(tmp_path / "whole", items=60, per_shard=60)
    took = time.perf_counter() - started
    (tmp_path / "killed").mkdir()
    manifest(60, 60).write(tmp_path / "killed")
    chance = random.Random(0)
    journal, lengths = work_folder(tmp_path / "killed", 0) / "journal.jsonl", set()
    for _ in range(20):
        killed_writer(tmp_path / "killed", chance.uniform(0.001, took))
        lengths.add(journal.stat().st_size if journal.exists() else 0)
    assert len(lengths) >= 3  # killed at work, not before or behind it
    write_shard(tmp_path / "killed", manifest(60, 60), 0)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("harm", ["a torn line", "a torn file", "a flipped bit", "bytes behind"])
def test_what_the_journal_does_not_vouch_for_is_done_again(tmp_path: Path, harm: str) -> None:
    write_store(tmp_path / "whole", items=5, per_shard=5)
    of, folder = manifest(5, 5), tmp_path / "begun"
    folder.mkdir()
    with ShardWriter(folder, of, 0) as writer:
        for number in range(4):
            writer.append([written(number, writer)])
    values, journal = work_folder(folder, 0) / "r0.l4.bin", work_folder(folder, 0) / "journal.jsonl"
    content = values.read_bytes()
    torn = {"a torn line": (journal, journal.read_bytes()[:-5]), "a torn file": (values, content[:-5])}
    flipped = {"a flipped bit": (values, content[:-1] + bytes([content[-1] ^ 1])), "bytes behind": (values, content + b"more")}
    path, harmed = {**torn, **flipped}[harm]
    path.write_bytes(harmed)
    with ShardWriter(folder, of, 0) as writer:
        assert len(writer.entries) == (4 if harm == "bytes behind" else 3)
    write_shard(folder, of, 0)
    assert tensors_path(folder, 0).read_bytes() == tensors_path(tmp_path / "whole", 0).read_bytes()
    assert items_path(folder, 0).read_bytes() == items_path(tmp_path / "whole", 0).read_bytes()


def test_a_second_writer_of_a_shard_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "PATIENCE", 0.05)
    with ShardWriter(tmp_path, manifest(5, 5), 0), pytest.raises(RunLocked, match="Another process writes"):
        ShardWriter(tmp_path, manifest(5, 5), 0)


def test_a_disk_that_is_full_in_mid_shard_keeps_what_is_finished(tmp_path: Path) -> None:
    write_store(tmp_path / "whole", items=5, per_shard=5)
    of, folder = manifest(5, 5), tmp_path / "full"
    folder.mkdir()

    class Full:
        """A file on a full disk: a few bytes go in, then no more."""

        def __init__(self, file: object) -> None:
            self.file = file

        def write(self, content: memoryview) -> None:
            self.file.write(content[:7])  # type: ignore[attr-defined]
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    with ShardWriter(folder, of, 0) as writer:
        for number in range(3):
            writer.append([written(number, writer)])
        writer._files["r0.l4"] = Full(writer._files["r0.l4"])  # type: ignore[assignment]
        with pytest.raises(OutputError, match=r"No space left on device\. What is finished is kept; free some space and start again"):
            writer.append([written(3, writer)])
    with ShardWriter(folder, of, 0) as writer:
        assert len(writer.entries) == 3
    write_shard(folder, of, 0)
    assert tensors_path(folder, 0).read_bytes() == tensors_path(tmp_path / "whole", 0).read_bytes()


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path, items=2, per_shard=2)
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(StoreMismatch, match="is of version 2 of the store's format; this probe reads version 1"):
        probe.open_store(tmp_path)
    path.write_text('{"format": "zarr"}')
    with pytest.raises(StoreMismatch, match="is not of a probe store"):
        probe.open_store(tmp_path)
    path.write_text("{")
    with pytest.raises(DamagedStore, match="cannot be read"):
        probe.open_store(tmp_path)
