"""Fingerprints of the models' weights, by content: exchanging the file at a path changes the fingerprint."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from fseg.checkpoints import backbone_path, sam_path
from fseg.errors import RunMismatch
from fseg.evaluation.run.job import Job
from fseg.evaluation.run.manifest import Models
from probe.disk import strict_json
from probe.disk.files import write_atomically
from probe.disk.hashing import hash_of_model, hash_of_values
from probe.errors import LoadError

CACHE = ".fseg-weights.json"
"""In a run's folder: the hashes of files so far, so that a continued run does not read them again."""

_THREADS = 2
_ENDINGS = (".safetensors", ".bin", ".pth", ".pt")
_SETTINGS = (".json", ".jinja", ".model", ".txt")
"""The other files of a model folder that affect the result: configuration, processor, tokenizer, chat template."""

Fingerprints = dict[str, str | None]


@contextmanager
def hashed_meanwhile(job: Job, folder: Path) -> Iterator[Callable[[], Fingerprints]]:
    """Hash the weights of a job's models in threads, while the block loads them.

    Args:
        folder: of the run. The hashes of files are saved there.

    Yields:
        a function that waits for the hashes and returns them, under "backbone" and "sam": of a local file or folder a hash of its bytes, whatever its
        path; of a hub id the commit that this machine has; of a loaded object a hash of its tensors. None: this machine cannot tell.
    """
    first = next(iter(job.rows.values()))
    backbone = first.backbone.checkpoint if job.backbone is None else job.backbone
    sam = first.sam.checkpoint if job.sam is None else job.sam
    pool = ThreadPoolExecutor(_THREADS)
    try:
        hashes = _FileHashes(folder / CACHE, pool)
        waiting = {
            "backbone": _begin(backbone_path(backbone) if isinstance(backbone, (str, Path)) else backbone.model, hashes, pool),
            "sam": _begin(sam_path(sam) if isinstance(sam, (str, Path)) else sam, hashes, pool),
        }

        def finished() -> Fingerprints:
            fingerprints = {kind: wait() for kind, wait in waiting.items()}
            hashes.save()
            return fingerprints

        yield finished
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def check_weights(folder: Path, models: Models, fingerprints: Mapping[str, str | None]) -> None:
    """Check that the weights are those with which a run began.

    Args:
        models: of the run's manifest.
        fingerprints: those now, under "backbone" and "sam".

    Raises:
        RunMismatch: some are others.
    """
    changed = [kind for kind, fingerprint in fingerprints.items() if models.weights.get(kind) != fingerprint]
    if changed:
        names = models.names()
        shown = "; ".join(f"{names[kind]}: {models.weights.get(kind)} then, {fingerprints[kind]} now" for kind in changed)
        raise RunMismatch(
            f"The weights of the {' and the '.join(changed)} are not those with which the run in {str(folder)!r} began ({shown}). "
            "Put them back, or start this run in a new folder (--out)."
        )


def _begin(model: object, hashes: _FileHashes, pool: ThreadPoolExecutor) -> Callable[[], str | None]:
    """Begin to hash a model, given by name or as an object; returns a function that waits for the hash."""
    if not isinstance(model, str):
        return pool.submit(hash_of_model, model).result
    path = Path(model).expanduser()
    if path.is_file():
        return hashes.begin(path).result
    if path.is_dir():
        files = {file.name: hashes.begin(file) for file in _files(path)}
        return lambda: hash_of_values({name: found.result() for name, found in files.items()})
    return lambda: _commit(model)  # asked for at the end: loading may bring it into the cache


def _files(folder: Path) -> list[Path]:
    """The files of a folder that a model is loaded from: weights of the first format found, and settings."""
    there = [path for path in sorted(folder.iterdir()) if path.is_file()]
    kinds = [[path for path in there if path.suffix == ending] for ending in _ENDINGS]
    return [*next(filter(None, kinds), []), *(path for path in there if path.suffix in _SETTINGS)]


def _commit(name: str) -> str | None:
    """The commit of a hub id that lies in this machine's cache."""
    try:
        config = try_to_load_from_cache(name, "config.json")
    except ValueError:  # neither a file nor a possible hub id: opening it raises the error
        return None
    return Path(config).parent.name if isinstance(config, str) else None


class _FileHashes:
    """Hashes of files, taken from the cache of an earlier run where the file is unchanged."""

    def __init__(self, notes: Path, pool: ThreadPoolExecutor) -> None:
        self._path, self._pool = notes, pool
        self._known = _read_notes(notes)
        self._asked: dict[str, Future[str]] = {}

    def begin(self, path: Path) -> Future[str]:
        """Begin to hash a file.

        Raises:
            LoadError: from the result, where the file cannot be read.
        """
        stat = path.stat()
        # A change in place shows in the time of the last change to the inode, even where the time of modification was set back.
        state = f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino} {stat.st_ctime_ns}"
        if state not in self._asked:
            self._asked[state] = self._pool.submit(lambda: self._known.get(state) or _of_file(path))
        return self._asked[state]

    def save(self) -> None:
        """Save the hashes, once all are computed."""
        found = {state: future.result() for state, future in self._asked.items()}
        if found != self._known:
            write_atomically(self._path, lambda file: file.write(strict_json.dump(found, indent=1)))


def _read_notes(path: Path) -> dict[str, str]:
    """The cached hashes; none if the cache is missing or damaged."""
    try:
        notes = strict_json.load(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(notes, dict):
        return {}
    return {state: known for state, known in notes.items() if isinstance(known, str) and re.fullmatch("[0-9a-f]{64}", known)}


def _of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise LoadError(
            f"The weights {str(path)!r} cannot be read: {error.strerror or error}. Check the file and its permissions."
        ) from error
