"""`collect`: the activations of many items, kept on disk."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from probe.disk.files import check_writable, clear_temporary
from probe.disk.folder_lock import LOCK, locked
from probe.errors import ClusterNotFound, InvalidItems, OutputError, StoreMismatch
from probe.model import Probe
from probe.store.collecting.collector import (
    TRIED,
    Asked,
    Collector,
    Job,
    Message,
    Plan,
    PlanJob,
    Progress,
    ShardJob,
    Template,
    facts_of,
    hash_of_weights,
    takes_images,
)
from probe.store.collecting.extraction import check_dtype, check_pool
from probe.store.collecting.items import Item, check_items, plain_labels
from probe.store.collecting.shard_writer import work_folder
from probe.store.format.manifest import MANIFEST, Manifest, check_same, hash_of, read_manifest, versions
from probe.store.format.read_values import values_of_read
from probe.store.format.shards import items_path, read_items, tensors_path
from probe.store.reading.store import Store, open_store
from probe.tokens.integers import as_int
from probe.tracing.reads import Read, as_reads, check_read
from probe.workers.pool import Pool, processes, this_process

GIGABYTE = 10**9

Opener = Callable[..., Probe]
"""Opens a model, as `functools.partial(probe.load, NAME)` does; it is called with `device=` where each worker has a device of its own."""

_FEWEST_SHARDS, _FEWEST_ITEMS = 8, 16
"""Into so many shards a set is divided at least, so that several workers have something to do, unless they would have fewer items than that."""

_OURS = re.compile(r"\.probe-.+|shard-\d{5,}\.(safetensors|json)|manifest\.json")


@dataclass(frozen=True)
class _Opened:
    """Opens a worker's model, in whatever process."""

    model: Probe | Opener
    asked: Asked

    def __call__(self, device: str | None) -> Collector:
        if isinstance(self.model, Probe):
            return Collector(self.model, self.asked)
        return Collector(self.model() if device is None else self.model(device=device), self.asked)


@dataclass(frozen=True)
class _Workers:
    """Who does the work, as `collect` takes it."""

    count: int
    threads: int | None
    device: str | None
    cluster: str | None

    def pool(self, opened: _Opened, lock: int) -> AbstractContextManager[Pool[Job, Message]]:
        """The workers, each with its model."""
        if self.cluster is not None:
            from probe.workers.ray_pool import actors  # Ray is an extra

            return actors(opened, self.count, self.device, self.threads, self.cluster, versions)
        if self.count == 1:
            return this_process(opened, self.device, self.threads)
        return processes(opened, self.count, self.device, self.threads, lock)


def collect(
    model: Probe | Opener,
    items: Iterable[Item],
    reads: Iterable[Read] | Read,
    *,
    to: str | PathLike[str],
    pool: Literal["mean"] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    template: Template = None,
    batch: int = 1,
    shard_bytes: int = GIGABYTE,
    shard_items: int | None = None,
    workers: int = 1,
    threads: int | None = None,
    device: str | None = None,
    cluster: str | None = None,
    part: tuple[int, int] = (1, 1),
    retry_failed: bool = False,
) -> Store:
    """Collect activations of many items into a folder, or go on with it: what is finished is not done again, whatever ended the run.

    docs/store.md says what lies in the folder. Its files do not depend on how many workers wrote them, or on how often they were killed.

    Args:
        model: a loaded model; or, for several workers, a function that opens one: `functools.partial(probe.load, NAME, dtype="bfloat16")`.
        items: what to collect, in order.
        reads: what is kept of each.
        to: the folder: a new one, an empty one, or one of the same collection.
        pool: "mean": over the positions of each read, in float32. None: every position is kept.
        dtype: of what is kept; None: as the model computes.
        template: as `encode` takes it; False: prompts are raw text.
        batch: items that go through the model together, as `run_many` joins them: 1 gives what `run` gives, to the bit; more are faster on a
            GPU.
        shard_bytes, shard_items: how large a file may become.
        workers: processes; with the device "cuda", one on each GPU.
        threads: of each worker on the CPU; None: this process's, divided among them. Sums depend on it in their last bit.
        device: of the workers' models, where `model` is a function.
        cluster: the address of a Ray cluster whose actors are the workers, "local" for one of this machine. All its machines have to see
            `to` under its name.
        part: (i, n): of n parts the i-th, from 1. All parts may go to one folder, from several machines.
        retry_failed: do items that failed in an earlier run again, with the others of their shards.

    Returns:
        the store. An item that failed is in `store.failed`, with its error. A store that is finished is opened without a forward; a model that is
            given as a function is then not opened, nor compared.

    Raises:
        InvalidItems, InvalidRead, InvalidLayer: before anything is written.
        StoreMismatch: the folder holds something else.
        OutputError: the folder cannot be written, or the disk has too little room; what is finished stays.
        RunLocked: another run writes into the folder.
        ClusterNotFound, DeviceNotFound, WorkerDied: the workers cannot begin or go on.

    >>> items = [probe.Item(str(seed), fseg.glyphs.scene(seed).image, "Is there a cat?", labels={"seed": seed}) for seed in range(3)]
    >>> store = probe.collect(model, items, probe.Hidden(4, at="image"), to="collected", dtype="float16")
    >>> store
    Store(3 items in 1 shard, float16; Hidden(layers=(4,), at=('image',), normed=True))
    >>> store[probe.Hidden(4, at="image")]["1"].grid()
    Activation(layer=1, batch=1, row=14, col=14, feature=128; float16)
    """
    asked = Asked(tuple(map(check_read, as_reads(reads))), pool, dtype, batch, template)
    check_pool(pool)
    check_dtype(dtype)
    for name, value in {"batch": batch, "shard_bytes": shard_bytes, "shard_items": shard_items or 1, "workers": workers}.items():
        if as_int(value) is None or value < 1:
            raise InvalidItems(f"{name}={value!r}: a whole number of at least 1 was expected.")
    known = tuple(items)
    if isinstance(model, Probe):
        model.validate(asked.reads)
    checked = check_items(known, with_images=isinstance(model, Probe) and takes_images(model))
    _check_workers(model, workers, cluster)
    _check_part(part)
    folder = Path(to).resolve()
    collection = _Collection(folder, checked, asked, (shard_bytes, shard_items), part, retry_failed)
    collection.check_folder()
    collection.run(model, _Workers(workers, threads, device, cluster))
    return open_store(folder)


def _check_workers(model: Probe | Opener, workers: int, cluster: str | None) -> None:
    if isinstance(model, Probe) and (workers > 1 or cluster is not None):
        raise InvalidItems(
            "Workers in other processes open their own models. Pass a function that opens one, such as "
            "functools.partial(probe.load, NAME, dtype='bfloat16'), or use one worker of this process."
        )
    if cluster is not None and find_spec("ray") is None:
        raise ClusterNotFound("Ray is not installed, which spreads a collection over a cluster: pip install 'fseg-llava[ray]'.")


def _check_part(part: tuple[int, int]) -> None:
    if not (len(part) == 2 and all(as_int(number) is not None for number in part) and 1 <= part[0] <= part[1]):
        raise InvalidItems(f"part={part!r}: (i, n) is the i-th of n parts, with i from 1 to n.")


@dataclass(frozen=True)
class _Collection:
    """What is collected, and into which folder."""

    folder: Path
    items: tuple[Item, ...]
    asked: Asked
    sizes: tuple[int, int | None]
    part: tuple[int, int]
    retry_failed: bool

    def check_folder(self) -> None:
        """Refuse a folder of something else, before anything is written."""
        try:
            foreign = sorted(path.name for path in self.folder.iterdir() if _OURS.fullmatch(path.name) is None)
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"{str(self.folder)!r} cannot be written: {error.strerror}. Name another folder.") from error
        if foreign:
            raise StoreMismatch(f"{str(self.folder)!r} is no folder of a store: it holds {foreign[0]!r}. Name a new or empty folder.")
        manifest = read_manifest(self.folder)
        if manifest is not None:
            check_same(self.folder, manifest, self._known())
        elif any(self.folder.glob("shard-*")):
            raise StoreMismatch(
                f"{str(self.folder)!r} has shards and no {MANIFEST}, which says what they are of. Put it back, or name another folder."
            )

    def run(self, model: Probe | Opener, workers: _Workers) -> None:
        """Collect what is missing."""
        check_writable(self.folder)
        number, of = self.part
        with locked(self.folder, LOCK if of == 1 else f"{LOCK}-{number}-of-{of}") as lock:
            if of == 1:
                clear_temporary(self.folder)
            manifest = read_manifest(self.folder)
            if manifest is not None and not self._missing(manifest):
                if isinstance(model, Probe):
                    check_same(self.folder, manifest, {"model": _wherever(facts_of(model)), "hashes": {"model": hash_of_weights(model)}})
                return
            with workers.pool(_Opened(model, self.asked), lock) as pool:
                (plan,) = pool.do([PlanJob(self.items[:TRIED])])
                assert isinstance(plan, Plan)
                if plan.takes_images:
                    check_items(self.items, with_images=True)
                manifest = self._begin(plan)
                missing = self._missing(manifest)
                self._check_room(plan, manifest, missing, workers.count)
                jobs = [
                    ShardJob(manifest, self.folder, shard, tuple(self.items[i] for i in manifest.items_of(shard)), self.retry_failed)
                    for shard in missing
                ]
                self._show(pool.do(jobs), sum(len(job.items) for job in jobs), plan.item_bytes)

    def _known(self) -> dict[str, object]:
        """What the manifest says whatever the model is."""
        reads = [values_of_read(read) for read in self.asked.reads]
        known: dict[str, object] = {
            "reads": [{"read": read} for read in reads],
            "items": len(self.items),
            "batch": self.asked.batch,
            "template": self.asked.template,
            "hashes": {
                "prompts": hash_of([[item.id, item.prompt, item.answer] for item in self.items]),
                "labels": hash_of([plain_labels(item) for item in self.items]),
            },
            "versions": versions(),
        }
        return known if self.asked.dtype is None else {**known, "dtype": self.asked.dtype}

    def _begin(self, plan: Plan) -> Manifest:
        """The manifest, written, or checked to be what it was."""
        hashes = {"model": plan.model_hash, "reads": hash_of([asdict(read) for read in plan.reads]), **_mapping(self._known()["hashes"])}
        most_bytes, most_items = self.sizes
        fitting = min(
            max(1, most_bytes // max(1, plan.item_bytes)), most_items or max(_FEWEST_ITEMS, -(-len(self.items) // _FEWEST_SHARDS))
        )
        manifest = Manifest(
            reads=plan.reads,
            dtype=plan.dtype,
            items=len(self.items),
            items_per_shard=fitting,
            batch=self.asked.batch,
            template=self.asked.template,
            model=plan.model,
            hashes=hashes,
            versions=versions(),
        )
        existing = read_manifest(self.folder)
        if existing is None:
            manifest.write(self.folder)
        else:
            check_same(self.folder, existing, {**manifest.to_dict(), "model": _wherever(plan.model)})
        return manifest

    def _missing(self, manifest: Manifest) -> list[int]:
        """The shards of this part that are not finished; with `retry_failed` also those with failed items, which are removed."""
        mine = range(self.part[0] - 1, manifest.shards, self.part[1])
        for shard in mine:
            path = items_path(self.folder, shard)
            if self.retry_failed and path.is_file() and any("error" in item for item in read_items(self.folder, shard).items):
                path.unlink()
                tensors_path(self.folder, shard).unlink(missing_ok=True)
            elif path.is_file():
                shutil.rmtree(work_folder(self.folder, shard), ignore_errors=True)  # its writer was killed as it ended
        return [shard for shard in mine if not items_path(self.folder, shard).is_file()]

    def _check_room(self, plan: Plan, manifest: Manifest, missing: list[int], workers: int) -> None:
        """Check that the disk has room for what is missing, and for one shard of each worker that is there twice as it is finished."""
        begun = sum(file.stat().st_size for shard in missing for file in work_folder(self.folder, shard).glob("*.bin"))
        items = sum(len(manifest.items_of(shard)) for shard in missing)
        twice = min(workers, len(missing)) * manifest.items_per_shard
        needed, free = plan.item_bytes * (items + twice) - begun, shutil.disk_usage(self.folder).free
        if needed > free:
            raise OutputError(
                f"{items} items of {plan.item_bytes:,} bytes need {needed / 1e9:.3g} GB in {str(self.folder)!r}, where {free / 1e9:.3g} GB are "
                "free. Free some, name another disk, read less, or keep less of it with pool='mean' or dtype='float16'."
            )

    def _show(self, messages: Iterator[Message], items: int, item_bytes: int) -> None:
        """Follow the messages with a progress bar: items, time left, bytes left."""
        with tqdm(total=items, unit="item", disable=None) as bar:
            for message in messages:
                if isinstance(message, Progress):
                    for name, error in message.failed.items():
                        tqdm.write(f"failed  {name}: {error}", file=sys.stderr)
                    bar.set_postfix_str(f"{(items - bar.n - message.items) * item_bytes / 1e6:.0f} MB left", refresh=False)
                    bar.update(message.items)


def _wherever(model: Mapping[str, str | None]) -> dict[str, str | None]:
    """Which model it is, whatever it is called on this machine: its weights have a hash."""
    return {name: value for name, value in model.items() if name not in ("name", "revision")}


def _mapping(value: object) -> Mapping[str, str]:
    assert isinstance(value, Mapping)
    return value
