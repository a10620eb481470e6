"""Collecting: what is refused before any forward, what fails by itself, and what a second run does."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.errors import InvalidItems, InvalidLayer, InvalidRead, NotFinite, OutputError, SpanNotFound, StoreMismatch
from probe.store.collecting import collect as collecting
from probe.store.collecting.collector import Asked, Collector, Progress, ShardJob
from probe.store.collecting.items import items_of_folder
from probe.store.format.shards import tensors_path
from tests import zoo

READ = probe.Hidden([1, 2], at="image")


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor, resize="stretch")


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8))


def items(count: int = 5) -> list[probe.Item]:
    return [probe.Item(f"{number}", picture(number), "cat", labels={"n": number}) for number in range(count)]


def refused(model: probe.Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> str:
    """The message with which a collection is refused, before any forward and before anything is written."""
    monkeypatch.setattr(probe.Probe, "run", lambda *_: pytest.fail("a forward was run"))
    with pytest.raises(probe.ProbeError) as raised:
        probe.collect(model, *arguments, to=tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()
    return f"{type(raised.value).__name__}: {raised.value}"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "InvalidItems: Items were expected, got none"),
        (["cat.png"], "InvalidItems: Items were expected, got 'cat.png'. Pass probe.Item"),
        ([*items(2), items(2)[1]], "InvalidItems: The id '1' is there 2 times"),
        ([*items(1), probe.Item("bare", None, "cat", labels={"n": 1})], "InvalidItems: 1 items have no image, the first 'bare'"),
        ([*items(1), probe.Item("x", picture(0), "cat")], "InvalidItems: 'x' has the labels none, '0' has n"),
        ([*items(1), probe.Item("x", picture(0), "cat", labels={"n": "1"})], "The label 'n' of 'x' is text, that of '0' is whole number"),
        (
            [probe.Item(f"{n}", picture(0), "cat", labels={"box": [1.0] * n}) for n in (4, 3)],
            "The label 'box' of '3' is 3 x number, that of '4' is 4 x number",
        ),
        ([probe.Item("x", picture(0), "cat", labels={"n": object()})], "The label 'n' of 'x' is a object. A label is a text"),
    ],
)
def test_items_that_do_not_go_together_are_refused(
    model: probe.Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[Any], reason: str
) -> None:
    assert reason in refused(model, tmp_path, monkeypatch, given, READ)


@pytest.mark.parametrize(
    ("reads", "options", "reason"),
    [
        (probe.Hidden(99), {}, "InvalidLayer: Layer 99 was asked for"),
        ([], {}, "InvalidRead: No reads were given"),
        (READ, {"pool": "max"}, "InvalidRead: pool='max'"),
        (READ, {"dtype": "int8"}, "InvalidRead: dtype='int8': a store keeps float32, float16, bfloat16"),
        (READ, {"batch": 0}, "InvalidItems: batch=0: a whole number of at least 1"),
        (READ, {"workers": 2}, "InvalidItems: Workers in other processes open their own models. Pass a function"),
        (READ, {"part": (3, 2)}, "InvalidItems: part=(3, 2): (i, n) is the i-th of n parts"),
    ],
)
def test_options_that_cannot_be_are_refused(
    model: probe.Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: Any, options: dict[str, Any], reason: str
) -> None:
    assert reason in refused(model, tmp_path, monkeypatch, items(), reads, **options)


def test_an_id_is_a_text() -> None:
    with pytest.raises(InvalidItems, match="an id is a text that is not empty"):
        probe.Item(3, picture(0), "cat")  # type: ignore[arg-type]


def test_an_item_that_fails_is_recorded_and_the_others_go_on(model: probe.Probe, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    given = [
        *items(2),
        probe.Item("broken", tmp_path / "broken.png", "cat", labels={"n": 7}),
        probe.Item("last", picture(9), "cat", labels={"n": 9}),
    ]
    store = probe.collect(model, given, READ, to=tmp_path / "store")
    assert store.ids == ("0", "1", "last")
    assert store.labels["n"].tolist() == [0, 1, 9]
    assert list(store.failed) == ["broken"]
    assert store.failed["broken"].startswith("ImageError: ")
    picture(3).save(tmp_path / "broken.png")
    assert probe.collect(model, given, READ, to=tmp_path / "store").failed == store.failed
    again = probe.collect(model, given, READ, to=tmp_path / "store", retry_failed=True)
    assert (again.ids, again.failed) == (("0", "1", "broken", "last"), {})


def test_a_first_item_that_fails_does_not_stop_the_plan_and_eight_do(model: probe.Probe, tmp_path: Path) -> None:
    bad = [probe.Item(f"bad-{number}", tmp_path / "none.png", "cat") for number in range(9)]
    good = [probe.Item(f"good-{number}", picture(number), "cat") for number in range(2)]
    assert probe.collect(model, [*bad[:7], *good], READ, to=tmp_path / "some").ids == ("good-0", "good-1")
    with pytest.raises(probe.errors.ImageError, match=r"None of the first 8 items can be collected, such as 'bad-0'\. No image file"):
        probe.collect(model, [*bad, *good], READ, to=tmp_path / "none")


def test_the_item_that_the_plan_tried_is_not_run_again_unless_its_image_changed(
    model: probe.Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(0).save(tmp_path / "0.png")
    given, runs = [probe.Item("0", tmp_path / "0.png", "cat"), probe.Item("1", picture(1), "cat")], []
    run, plan = probe.Probe.run, Collector._plan

    def counted(*arguments: Any, **options: Any) -> probe.Trace:
        runs.append(arguments)
        return run(*arguments, **options)

    def planned_before_a_change(collector: Collector, of: Any) -> Any:
        made = plan(collector, of)
        picture(2).save(tmp_path / "0.png")
        return made

    monkeypatch.setattr(probe.Probe, "run", counted)
    store = probe.collect(model, given, READ, to=tmp_path / "same")
    assert len(runs) == 2
    assert store[READ]["0"] == run(model, model.encode(picture(0), "cat"), READ)[READ]
    monkeypatch.setattr(Collector, "_plan", planned_before_a_change)
    store = probe.collect(model, given, READ, to=tmp_path / "changed")
    assert len(runs) == 5
    assert store[READ]["0"] == run(model, model.encode(picture(2), "cat"), READ)[READ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_values_are_those_of_run_in_the_stores_dtype(model: probe.Probe, tmp_path: Path, dtype: Any) -> None:
    store = probe.collect(model, items(), READ, to=tmp_path, dtype=dtype)
    trace = model.run(model.encode(picture(4), "cat"), READ)
    assert store[READ]["4"] == trace[READ].to(dtype)


def test_batches_are_those_of_the_items_whatever_was_done_before(model: probe.Probe, tmp_path: Path) -> None:
    broken = probe.Item("broken", tmp_path / "none.png", "cat", labels={"n": 0})
    given = [*items(4), broken, *(probe.Item(f"long {n}", picture(n), "cat " * (n + 2), labels={"n": n}) for n in range(4))]
    alone = probe.collect(model, given, READ, to=tmp_path / "alone", shard_items=7)
    whole = probe.collect(model, given, READ, to=tmp_path / "whole", shard_items=7, batch=3)
    assert whole.ids == alone.ids
    for name in whole.ids:  # another order of sums, in float32
        assert torch.allclose(whole[READ][name].data, alone[READ][name].data, atol=1e-5, rtol=0)
    (tmp_path / "begun").mkdir()
    whole.manifest.write(tmp_path / "begun")
    collector = Collector(model, Asked((READ,), None, None, 3, None))
    job = ShardJob(whole.manifest, tmp_path / "begun", 0, tuple(given[:7]))
    first = next(collector.do(job))  # the work ends behind its first batch
    assert isinstance(first, Progress)
    assert first.items == 3
    probe.collect(model, given, READ, to=tmp_path / "begun", shard_items=7, batch=3)
    for path in (tmp_path / "whole").glob("*.*"):
        assert (tmp_path / "begun" / path.name).read_bytes() == path.read_bytes()


def test_a_pool_is_the_mean_in_float32_over_the_positions(model: probe.Probe, tmp_path: Path) -> None:
    store = probe.collect(
        model, items(), [READ, probe.Attention(1, query=(-1, -2), key="image")], to=tmp_path, pool="mean", dtype="float16"
    )
    trace = model.run(model.encode(picture(4), "cat"), [READ, probe.Attention(1, query=(-1, -2), key="image")])
    assert torch.equal(store[READ]["4"].data, trace[READ].mean("token").data.to(torch.float16))
    assert store[READ]["4"].dims == ("layer", "batch", "feature")
    rows = store[probe.Attention(1, query=(-1, -2), key="image")]["4"]
    assert rows.dims == ("layer", "batch", "head", "key")
    assert rows.coords["key"] == trace.tokens[0].span("image").positions


def test_a_pool_of_an_empty_span_fails_by_its_name(model: probe.Probe, tmp_path: Path) -> None:
    given = [probe.Item("empty", picture(0), "cat", answer=""), probe.Item("full", picture(0), "cat", answer="yes")]
    store = probe.collect(model, given, probe.Hidden(2, at="answer"), to=tmp_path / "some", pool="mean")
    assert store.ids == ("full",)
    assert "SpanNotFound: 'empty', Hidden(layers=(2,), at=('answer',)" in store.failed["empty"]
    with pytest.raises(SpanNotFound, match="None of the first 1 items"):
        probe.collect(model, given[:1], probe.Hidden(2, at="answer"), to=tmp_path / "none", pool="mean")


def test_a_value_beyond_the_dtype_is_no_infinity(tmp_path: Path) -> None:
    hf, processor = zoo.llava()
    with torch.no_grad():
        hf.model.language_model.embed_tokens.weight.mul_(1e7)
    loud = probe.load(model=hf, processor=processor, resize="stretch")
    with pytest.raises(NotFinite, match=r"are beyond float16\. Collect with dtype='bfloat16' or 'float32'"):
        probe.collect(loud, items(), probe.Hidden(0, at=-1), to=tmp_path / "half", dtype="float16")
    assert len(probe.collect(loud, items(), probe.Hidden(0, at=-1), to=tmp_path / "whole", dtype="bfloat16").ids) == 5


def test_a_full_disk_is_foreseen(model: probe.Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 10))
    with pytest.raises(OutputError, match=r"5 items of [\d,]+ bytes need .* GB in .*, where 1e-08 GB are free\. Free some"):
        probe.collect(model, items(), READ, to=tmp_path)
    assert not list(tmp_path.glob("shard-*"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reads": probe.Hidden([1, 2], at=-1)}, r"reads\.0\.read\.at: \['image'\] stored, \[-1\] requested"),
        ({"dtype": "float16"}, "dtype: float32 stored, float16 requested"),
        ({"items": items(6)}, "items: 5 stored, 6 requested"),
        ({"items": [*items(4), probe.Item("4", picture(4), "dog", labels={"n": 4})]}, "hashes.prompts: "),
        ({"items": [*items(4), probe.Item("4", picture(4), "cat", labels={"n": 5})]}, "hashes.labels: "),
        ({"template": "vicuna_v1"}, "template: None stored, vicuna_v1 requested"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_another_collection_does_not_go_on_with_a_store(model: probe.Probe, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    probe.collect(model, items(), READ, to=tmp_path)
    asked = {"items": items(), "reads": READ, **change}
    with pytest.raises(StoreMismatch, match=reason):
        probe.collect(model, asked.pop("items"), asked.pop("reads"), to=tmp_path, **asked)


def test_another_model_does_not_go_on_with_a_store(model: probe.Probe, tmp_path: Path) -> None:
    probe.collect(model, items(), READ, to=tmp_path / "begun", shard_items=2, part=(1, 2))
    probe.collect(model, items(), READ, to=tmp_path / "finished", shard_items=2)
    hf, processor = zoo.llava()
    with torch.no_grad():
        hf.model.language_model.layers[0].mlp.up_proj.weight[0, 0] += 1
    other = probe.load(model=hf, processor=processor, resize="stretch")
    for folder in ("begun", "finished"):
        with pytest.raises(StoreMismatch, match=r"hashes\.model: \w+ stored, \w+ requested"):
            probe.collect(other, items(), READ, to=tmp_path / folder, shard_items=2)


def test_images_prepared_in_another_way_do_not_go_on_with_a_store(model: probe.Probe, tmp_path: Path) -> None:
    probe.collect(model, items(), READ, to=tmp_path, shard_items=2, part=(1, 2))
    with pytest.raises(StoreMismatch, match=r"model\.images: stretch stored, pad requested"):
        probe.collect(model.with_preparation(resize="pad"), items(), READ, to=tmp_path, shard_items=2)


def test_a_folder_of_something_else_is_left_alone(model: probe.Probe, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreMismatch, match=r"is no folder of a store: it holds 'thesis\.txt'"):
        probe.collect(model, items(), READ, to=tmp_path)
    with pytest.raises(StoreMismatch, match=r"is no store: it has no manifest\.json"):
        probe.open_store(tmp_path)


def test_a_finished_store_is_opened_without_a_forward(model: probe.Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe.collect(model, items(), READ, to=tmp_path)
    monkeypatch.setattr(probe.Probe, "run", lambda *_: pytest.fail("a forward was run"))
    assert len(probe.collect(lambda: pytest.fail("a model was opened"), items(), READ, to=tmp_path).ids) == 5


def test_a_shard_that_is_gone_is_done_again_to_the_same_bytes(model: probe.Probe, tmp_path: Path) -> None:
    store = probe.collect(model, items(), READ, to=tmp_path, shard_items=2)
    path = tensors_path(tmp_path, 1)
    before = path.read_bytes()
    path.unlink()
    path.with_suffix(".json").unlink()
    assert probe.open_store(tmp_path).missing == (1,)
    again = probe.collect(model, items(), READ, to=tmp_path, shard_items=2)
    assert (path.read_bytes(), again.data_hash) == (before, store.data_hash)


def test_shards_hold_as_many_items_as_their_bytes_allow(model: probe.Probe, tmp_path: Path) -> None:
    one = probe.collect(model, items(1), READ, to=tmp_path / "one")
    size = one.shards[0].file.entries["r0.l1"].bytes * 2
    store = probe.collect(model, items(8), READ, to=tmp_path / "eight", shard_bytes=int(size * 3.9))
    assert (store.manifest.items_per_shard, len(store.shards)) == (3, 3)
    assert probe.collect(model, items(8), READ, to=tmp_path / "two", shard_items=2).manifest.items_per_shard == 2
    assert probe.collect(model, items(8), READ, to=tmp_path / "all").manifest.items_per_shard == 16


def test_the_images_of_a_folder_are_items_named_after_their_files(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "a.jpg"):
        picture(0).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "empty").mkdir()
    assert [item.id for item in items_of_folder(tmp_path, "cat")] == ["a.jpg", "a.png", "b"]
    with pytest.raises(InvalidItems, match="has no image files"):
        items_of_folder(tmp_path / "empty", "cat")
    with pytest.raises(InvalidItems, match="cannot be listed: No such file"):
        items_of_folder(tmp_path / "none", "cat")


def test_progress_counts_items_and_bytes(model: probe.Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Bar(collecting.tqdm):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "disable": True})

        def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
            shown.append(s)

    monkeypatch.setattr(collecting, "tqdm", Bar)
    probe.collect(model, items(3), READ, to=tmp_path)
    assert len(shown) == 3
    assert shown[-1] == "0 MB left"


def test_reads_and_errors_are_exported() -> None:
    assert probe.collect is collecting.collect
    assert issubclass(InvalidItems, probe.ProbeError)
    assert issubclass(InvalidLayer, InvalidRead)
