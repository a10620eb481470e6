"""Damaged weights of a SAM: each file loads exactly what it holds, or is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

# isort: split

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from fseg.errors import InvalidSam
from fseg.sam.loading import load_sam
from tests.faults.campaign import Campaign, Outcome
from tests.unit.fseg.sams import tiny_sam, to_transformers

State = Mapping[str, Tensor]

BYTES = ("flip", "flip", "truncate", "splice")
TENSORS = ("swap shapes", "not finite")


def _files(n: int, folder: Path, rng: np.random.Generator) -> Iterator[Outcome]:
    """`.pth` and `.safetensors` in turn, each damaged in all ways in turn."""
    whole = {name: value.contiguous() for name, value in tiny_sam().state_dict().items()}
    for number in range(n):
        path = folder / f"sam{('.pth', '.safetensors')[number % 2]}"
        kind = (*BYTES, *TENSORS)[number // 2 % (len(BYTES) + len(TENSORS))]
        if kind in TENSORS:
            _save(_other_tensors(whole, kind, rng), path)
        else:
            _save(whole, path)
            path.write_bytes(_other_bytes(path.read_bytes(), kind, rng))
        # A PyTorch file has a checksum of each part: whatever loads is what was saved.
        yield _loaded(path, f"{path.suffix}, {kind}, trial {number}", whole if path.suffix == ".pth" and kind in BYTES else None)


def _save(state: State, path: Path) -> None:
    torch.save(dict(state), path) if path.suffix == ".pth" else save_file(dict(state), path)


def _other_bytes(content: bytes, kind: str, rng: np.random.Generator) -> bytes:
    # Half of the places in the first 20 KB or the last 30 KB, where the names and shapes are: the rest is numbers.
    structural = (*range(20_000), *range(len(content) - 30_000, len(content)))
    place = int(rng.choice(structural)) if rng.random() < 0.5 else int(rng.integers(len(content)))
    if kind == "truncate":
        return content[:place]
    damaged = bytearray(content)
    if kind == "flip":
        for _ in range(int(rng.integers(1, 4))):
            damaged[(place + int(rng.integers(64))) % len(content)] ^= 1 << int(rng.integers(8))
    else:
        length, source = int(rng.integers(1, 400)), int(rng.integers(len(content) - 400))
        damaged[place : place + length] = content[source : source + length]
    return bytes(damaged)


def _other_tensors(state: State, kind: str, rng: np.random.Generator) -> dict[str, Tensor]:
    names = [str(name) for name in rng.permutation(sorted(state))]
    if kind == "not finite":
        broken = state[names[0]].clone()
        broken.view(-1)[int(rng.integers(broken.numel()))] = float(rng.choice([np.nan, np.inf, -np.inf]))
        return {**state, names[0]: broken}
    first = state[names[0]]
    other = next(state[name] for name in names if state[name].shape != first.shape)
    return {**state, names[0]: torch.ones(other.shape)}


def _loaded(path: Path, damage: str, saved: State | None) -> Outcome:
    try:
        network = load_sam(path).network  # type: ignore[attr-defined]
    except InvalidSam:
        return Outcome("refused")
    except Exception as error:  # what a campaign looks for
        return Outcome("raw exception", f"{damage}: {type(error).__name__}: {error}")
    parts = {"image_encoder": network.encoder, "prompt_encoder": network.prompt_encoder, "mask_decoder": network.decoder}
    found = {f"{part}.{name}": value.numpy() for part, module in parts.items() for name, value in module.state_dict().items()}
    held = {name: value.numpy() for name, value in saved.items()} if saved is not None else _held(path)
    if found.keys() != held.keys() or any(found[name].tobytes() != held[name].tobytes() for name in found):
        return Outcome("loaded otherwise", f"{damage}: the weights loaded are not those that the file holds")
    if not all(np.isfinite(values).all() for values in found.values()):
        return Outcome("not finite", f"{damage}: weights that are not finite were loaded")
    return Outcome("loaded bit by bit")


def _held(path: Path) -> dict[str, NDArray[np.float32]]:
    """What a file holds, read by other code than the package's."""
    if path.suffix == ".pth":
        return {name: value.numpy() for name, value in torch.load(path, weights_only=True).items()}
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
    held = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = (start + offset for offset in entry["data_offsets"])
            held[name] = np.frombuffer(content[first:last], kinds[entry["dtype"]]).astype(np.float32)
    return held


def _folders(n: int, folder: Path, rng: np.random.Generator) -> Iterator[Outcome]:
    """transformers' folders with a tensor removed, added, of another shape, or not finite."""
    to_transformers(tiny_sam().state_dict()).save_pretrained(folder)
    path = folder / "model.safetensors"
    whole = load_file(path)
    names = [str(name) for name in rng.permutation(sorted(whole))]
    for number in range(n):
        name, kind = names[number % len(names)], ("missing", "left over", "misshapen", "not finite")[number % 4]
        others = {key: value for key, value in whole.items() if key != name}
        changed = {
            "missing": others,
            "left over": whole | {f"{name}.extra": torch.zeros(1)},
            "misshapen": others | {name: torch.cat([whole[name], whole[name][:1]])},
            "not finite": others | {name: whole[name] * float("nan")},
        }
        save_file(changed[kind], path, {"format": "pt"})
        try:
            load_sam(folder)
        except InvalidSam:
            yield Outcome("refused")
        except Exception as error:  # what a campaign looks for
            yield Outcome("raw exception", f"{name} {kind}: {type(error).__name__}: {error}")
        else:
            yield Outcome("opened", f"{name} {kind}: the SAM opened")


CAMPAIGNS = [
    Campaign("sam-weights", ".pth and .safetensors of a SAM with bits flipped, cut, spliced, misshapen, NaN", 3000, 60, _files),
    Campaign("sam-folders", "tensors of a SAM folder removed, added, misshapen, NaN", 400, 8, _folders),
]
