"""Checkpoints of a language model that are not complete: every tensor missing once, others left over or of another shape."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import probe
from fseg.glyphs import llava_folder
from tests.faults.campaign import Campaign, Outcome


def _trials(n: int, folder: Path, rng: np.random.Generator) -> Iterator[Outcome]:
    copy = folder / "llava"
    shutil.copytree(llava_folder(), copy)
    whole = load_file(copy / "model.safetensors")
    names = [str(name) for name in rng.permutation(sorted(whole))]
    for number in range(n):
        kind = ("missing", "missing", "misshapen", "left over")[number % 4]
        name = names[number % len(names)]
        save_file(_damaged(whole, name, kind), copy / "model.safetensors", {"format": "pt"})
        yield _opened(copy, f"{name} {kind}")


def _damaged(whole: dict[str, Tensor], name: str, kind: str) -> dict[str, Tensor]:
    others = {key: value for key, value in whole.items() if key != name}
    if kind == "missing":
        return others
    if kind == "left over":
        return whole | {f"{name}.extra": torch.zeros(1)}
    return others | {name: torch.cat([whole[name], whole[name][:1]])}


def _opened(folder: Path, damage: str) -> Outcome:
    try:
        probe.load(folder)
    except probe.errors.LoadError:
        return Outcome("refused")
    except Exception as error:  # what a campaign looks for
        return Outcome("raw exception", f"{damage}: {type(error).__name__}: {error}")
    return Outcome("opened", f"{damage}: the model opened")


CAMPAIGNS = [Campaign("backbone-tensors", "tensors of a LLaVA removed, added, misshapen", 200, 8, _trials)]
