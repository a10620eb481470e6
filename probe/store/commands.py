"""The commands `probe extract` and `probe store`. They import what they need when they run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from probe.store.reading.store import Store


def extract(
    model: Annotated[str, typer.Argument(help="A hub id, such as llava-hf/llava-1.5-7b-hf, or a local folder.")],
    to: Annotated[Path, typer.Option(help="The store's folder: a new one, or one to go on with.")],
    reads: Annotated[
        Path,
        typer.Option(
            help='What is kept of each item: a TOML file with a table "read" for each read: its kind, layers, at (docs/probe.md).'
        ),
    ],
    images: Annotated[Path | None, typer.Option(help="A folder of images, each with --prompt.")] = None,
    items: Annotated[Path | None, typer.Option(help="A JSON Lines file: id, image, prompt, answer, labels.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What the model is told about an image that has no prompt of its own.")] = None,
    pool: Annotated[str | None, typer.Option(help="mean: over the positions of each read.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of what is kept: float32, float16, bfloat16. Left out: as the model computes.")] = None,
    model_dtype: Annotated[str | None, typer.Option(help="Of the model. Left out: float32 on the CPU, else the checkpoint's.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps. With several workers, cuda gives each a GPU of its own.")
    ] = None,
    stretch: Annotated[bool, typer.Option("--stretch", help="Resize images directly, without tiles, as the fseg recipes do.")] = False,
    batch: Annotated[int, typer.Option(help="Items that go through the model together.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes, each with its own model.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Of each worker on the CPU.")] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: workers on a cluster.")] = "local",
    address: Annotated[str, typer.Option(help="Of the Ray cluster: HOST:PORT, auto, or local.")] = "local",
    shard: Annotated[str, typer.Option(help="I/N: the I-th of N parts; all may write into one folder.")] = "1/1",
    shard_bytes: Annotated[int, typer.Option(help="How large a file may become.")] = 10**9,
    shard_items: Annotated[int | None, typer.Option(help="How many items a file may hold.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do items that failed before again.")] = False,
) -> None:
    """Collect activations of many images into a folder. Started again, it goes on.

    Example: probe extract llava-hf/llava-1.5-7b-hf --images photos --prompt "Is there a cat?" --reads reads.toml --to store --dtype float16
    """
    import probe
    from probe.store.collecting.collect import collect
    from probe.store.collecting.items import items_of_file, items_of_folder
    from probe.store.format.read_values import reads_of_toml

    if (images is None) == (items is None):
        raise typer.BadParameter("one of --images and --items says what to collect.")
    if engine not in ("local", "ray"):
        raise typer.BadParameter(f"--engine {engine}: local or ray.")
    if images is not None and prompt is None:
        raise typer.BadParameter("--images needs --prompt: what the model is told about each.")
    asked = reads_of_toml(reads)
    collected = items_of_folder(images, prompt or "") if images is not None else items_of_file(items or Path(), prompt)
    options: dict[str, Any] = {"pool": pool, "dtype": dtype, "batch": batch, "threads": threads, "retry_failed": retry_failed}
    opener = partial(probe.load, model, device=device, dtype=model_dtype, resize="stretch" if stretch else "processor", tiles=not stretch)
    store = collect(
        opener,
        collected,
        asked,
        to=to,
        workers=workers,
        device=device if workers > 1 or engine == "ray" else None,
        cluster=address if engine == "ray" else None,
        part=_part(shard),
        shard_bytes=shard_bytes,
        shard_items=shard_items,
        **options,
    )
    _show(store)
    if store.failed:
        raise typer.Exit(1)


def show_store(
    folder: Annotated[Path, typer.Argument(help="A store's folder.")],
    check: Annotated[
        bool, typer.Option("--check", help="Compare every byte with what was written. Exits with 1 if anything differs.")
    ] = False,
) -> None:
    """Print what is in a store, and check it.

    Example: probe store store --check
    """
    from probe.store.reading.store import open_store

    store = open_store(folder)
    _show(store)
    problems = store.check() if check else [str(error) for error in store.damaged.values()]
    for problem in problems:
        typer.echo(f"damaged  {problem}")
    if problems:
        raise typer.Exit(1)
    if check:
        typer.echo("checked  every byte is as it was written")


def _part(shard: str) -> tuple[int, int]:
    number, _, of = shard.partition("/")
    if not (number.isdecimal() and of.isdecimal()):
        raise typer.BadParameter(f"--shard {shard}: I/N, such as 1/4.")
    return int(number), int(of)


def _show(store: Store) -> None:
    """A store as a table: a name and a value a line."""
    manifest = store.manifest
    model = manifest.model
    size = sum(shard.described.tensors["bytes"] for shard in store.shards)
    rows = {
        "items": f"{len(store.ids)} of {manifest.items}" + (f", {len(store.failed)} failed" if store.failed else ""),
        "shards": f"{len(store.shards)} of {manifest.shards}, {size / 1e6:.1f} MB, {manifest.items_per_shard} items each",
        "model": f"{model['name']} ({model['family']}, {model['dtype']}, {model['kernel']})",
        "values": manifest.dtype,
        **{f"read {number}": f"{read.as_read!r}{', mean' if read.pool else ''}" for number, read in enumerate(manifest.reads)},
        "labels": ", ".join(store.labels) or "none",
        **{f"{name} hash": str(value) for name, value in {**manifest.hashes, "data": store.data_hash}.items()},
        "versions": ", ".join(f"{name} {value}" for name, value in manifest.versions.items()),
    }
    width = max(map(len, rows))
    typer.echo("\n".join(f"{name:<{width}}  {value}" for name, value in rows.items()))
