"""Collecting against the forward alone and against a loop that saves with torch.save; reading a store of 1 GB; shuffled rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import psutil
import torch
from torch.utils.data import DataLoader

import probe
from tests.benchmarks.models import Size, opened, picture
from tests.benchmarks.timing import quotient, turns

QUESTION = "Is there a cat in the image?"


def collecting(size: Size, items: int | None = None, repeats: int = 3) -> list[dict[str, object]]:
    """The image tokens' states of the last layer, kept whole and pooled, and of every layer."""
    model = opened(size)
    count = items or {"embedded": 100, "mid": 48, "full": 3}[size]
    last = len(model.modules.layers)
    return [
        _collecting(size, model, count, repeats, name, read, pool)
        for name, read, pool in (
            ("last layer", probe.Hidden(last, at="image"), None),
            ("last layer, mean", probe.Hidden(last, at="image"), "mean"),
            ("every layer", probe.Hidden("all", at="image"), None),
        )
    ]


def _collecting(
    size: Size, model: probe.Probe, count: int, repeats: int, name: str, read: probe.Hidden, pool: Literal["mean"] | None
) -> dict[str, object]:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        picture().save(folder / "image.png")
        items = [probe.Item(f"{number}", folder / "image.png", QUESTION) for number in range(count)]
        encodings = [model.encode(picture(), QUESTION)] * count
        numbers = iter(range(10**6))

        def collect() -> None:
            probe.collect(model, items, read, to=folder / f"store-{next(numbers)}", pool=pool, dtype="float16")

        ways: dict[str, Callable[[], None]] = {
            "plain": lambda: _plain(model, encodings),
            "collect": collect,
            "torch.save": lambda: _saved(model, folder, count, read, pool),
        }
        held = _growth(collect)  # apart, and first: what watches takes a moment of a core, and later there is memory to use again
        took = turns(ways, repeats)
    rates = {way: count / median(times) for way, times in took.items()}
    return {
        "size": size,
        "kept": name,
        "items": count,
        **{f"{way}, items/s": rate for way, rate in rates.items()},
        "collect / plain": quotient(took["plain"], took["collect"]),
        "collect / torch.save": quotient(took["torch.save"], took["collect"]),
        "beyond the model, MB": held / 1e6,
    }


@torch.no_grad()
def _plain(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    for encoding in encodings:
        model.model(**encoding.inputs, use_cache=False, logits_to_keep=1)


@torch.no_grad()
def _saved(model: probe.Probe, folder: Path, count: int, read: probe.Hidden, pool: str | None) -> None:
    """What a user would write: each image opened, encoded, run with all hidden states, and a file saved."""
    for number in range(count):
        encoding = model.encode(folder / "image.png", QUESTION)
        states = model.model(**encoding.inputs, use_cache=False, logits_to_keep=1, output_hidden_states=True).hidden_states
        image = list(encoding.tokens.span("image").positions)
        kept = states if read.layers == "all" else [states[-1]]
        rows = torch.stack([state[0, image] for state in kept])
        torch.save((rows.mean(1) if pool else rows).half().cpu(), folder / f"{number}.pt")


def _growth(work: Callable[[], None]) -> int:
    """By how many bytes the resident memory of this process grows at most during the work."""
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    peak = [before]

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak[0] - before


def reading(gigabytes: float = 1.0) -> list[dict[str, object]]:
    """One item at one layer, and shuffled rows, of a store of every layer of the embedded model in float32."""
    model = opened("embedded")
    read = probe.Hidden("all", at="image")
    encoding = model.encode(picture(), QUESTION)
    each = model.run(encoding, read)[read].data.nbytes
    items = [probe.Item(f"{number}", picture(), QUESTION) for number in range(int(gigabytes * 1e9 / each) + 1)]
    with TemporaryDirectory() as temporary:
        store = probe.collect(model, items, read, to=Path(temporary) / "store", dtype="float32")
        layer = probe.Hidden(4, at="image")
        return [{**_one(store, layer), **_rows(store, layer)}]


def _one(store: probe.Store, read: probe.Hidden, count: int = 200) -> dict[str, object]:
    chosen = [store.ids[int(index)] for index in torch.randint(len(store.ids), (count,), generator=torch.Generator().manual_seed(0))]
    stored = store[read]
    for name in chosen:  # warm: in the page cache, and each shard's header parsed
        stored[name].data.sum()
    times = []
    for name in chosen:
        start = time.perf_counter()
        stored[name].data.sum()
        times.append(time.perf_counter() - start)
    fresh = probe.open_store(store.folder)
    fresh[read][fresh.ids[0]]
    before = psutil.Process().memory_info().rss
    one = fresh[read][fresh.ids[1]].data
    one.sum()
    size = sum(shard.described.tensors["bytes"] for shard in store.shards)
    return {
        "store, GB": size / 1e9,
        "one item at one layer, ms": 1e3 * median(times),
        "slowest, ms": 1e3 * max(times),
        "its bytes, kB": one.nbytes / 1e3,
        "memory touched, kB": (psutil.Process().memory_info().rss - before) / 1e3,
    }


def _rows(store: probe.Store, read: probe.Hidden) -> dict[str, object]:
    dataset = store.dataset(read)
    few = torch.utils.data.Subset(dataset, torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:20_000].tolist())
    loaders: dict[str, tuple[int, DataLoader[Any]]] = {
        "random": (len(few), DataLoader(few, batch_size=256)),
        "shuffled": (len(dataset), DataLoader(store.shuffled(read), batch_size=None)),
    }
    rates = {}
    for name, (rows, loader) in loaders.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            for _batch in loader:
                pass
            times.append(time.perf_counter() - start)
        rates[name] = rows / median(times)
    return {
        "random, rows/s": rates["random"],
        "shuffled, rows/s": rates["shuffled"],
        "shuffled / random": rates["shuffled"] / rates["random"],
    }
