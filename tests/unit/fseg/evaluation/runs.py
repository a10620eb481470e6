"""A job that takes a tenth of a second: six pictures, a planted model and a tiny SAM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save_file

import fseg
import probe
from fseg.errors import RunMismatch
from fseg.evaluation.run.job import Job
from tests import zoo
from tests.planted import plant
from tests.unit.fseg.evaluation import trees
from tests.unit.fseg.sams import tiny_sam

RECIPE = fseg.get_recipe("fseg-llava-1.5-vicuna-7b").with_({"respond.layers": (1, 3), "ask.max_new_tokens": 4, "ask.presence": "assume"})
NAMES = [f"scene-{number}" for number in range(6)]


def planted() -> tuple[probe.Probe, Any]:
    """The backbone and the SAM, loaded."""
    hf, processor = plant(zoo.llava(), "plant")
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False), tiny_sam()


def saved(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """The same as a folder and a file; another seed gives other weights of the SAM, of the same size."""
    weights = {name: tensor.contiguous() for name, tensor in tiny_sam(seed).state_dict().items() if "pixel" not in name}
    save_file(weights, folder / "sam.safetensors")
    return zoo.save(plant(zoo.llava(), "plant"), folder / "llava"), folder / "sam.safetensors"


def scenes(folder: Path, names: list[str] = NAMES, seed: int = 0) -> Path:
    """PreparedImages with one white cell, which is the plant."""
    rng = np.random.default_rng(seed)
    for name in names:
        values = np.zeros((24, 32), dtype=np.int64)
        row, col = 6 * rng.integers(0, 4), 8 * rng.integers(0, 4)
        values[row : row + 6, col : col + 8] = 1
        values[0, 0] = 255
        trees.folder(folder, "background\npottedplant\ncat\n", {name: values.tolist()})
        Image.fromarray(np.where(values == 1, 255, 0).astype(np.uint8)).convert("RGB").save(folder / f"images/{name}.png")
    return folder


def job_of(root: Path, backbone: Any, sam: Any, **more: Any) -> Job:
    return Job("folder", root, {RECIPE.name: RECIPE}, backbone=backbone, sam=sam, **more)


def swap(first: Path, second: Path) -> None:
    """Exchange what two files hold."""
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def refusal(action: Callable[[], Any]) -> str:
    """What came of an action that has to be refused with RunMismatch; "" where it was."""
    try:
        action()
    except RunMismatch:
        return ""
    except Exception as error:  # a raw one is no refusal
        return f"{type(error).__name__}: {error}"
    return "it was not refused"


def exchange(root: Path, first: str, second: str) -> Path:
    """Two images of a set, and their labels, under each other's names."""
    for kind in ("images", "labels"):
        one, other = root / kind / f"{first}.png", root / kind / f"{second}.png"
        kept = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(kept)
    return root
