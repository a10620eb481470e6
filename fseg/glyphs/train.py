"""Reproduces the weights of the package: `python -m fseg.glyphs.train all`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from fseg.glyphs.training import corpus


class Model(StrEnum):
    """What can be trained."""

    llava = "llava"
    sam = "sam"
    all = "all"


def _render(out: Path, shards: int, side: int, fit: str) -> tuple[Path, Path]:
    """The folders of training scenes and of held-out scenes; existing shards are kept."""
    scenes, held_out = out / f"scenes-{fit}", out / f"held-out-{fit}"
    for number in tqdm(range(shards), desc=f"scenes, {fit}", unit="shard"):
        corpus.write(scenes, range(number, number + 1), side=side, fit=fit)
    corpus.write(held_out, range(1), split="held-out", side=side, fit=fit, count=600)
    return scenes, held_out


def train_llava(out: Path, minutes: float, shards: int, workers: int, resume: bool) -> None:
    """Train the tower, then the whole model, and write `out`/llava."""
    import torch

    from fseg.glyphs.training import llava, tower

    scenes, held_out = _render(out, shards, tower.SIDE, "square")
    if not (resume and (out / "llava.pt").exists()):
        tower.train(tower.Run(scenes, held_out, out, 0.45 * minutes, workers=workers), resume)
    llava.train(tower.Run(scenes, held_out, out, 0.55 * minutes, workers=workers, size=16), resume=resume)
    model = llava.Speaker()
    model.load_state_dict(torch.load(out / "llava.pt", weights_only=True)["model"])
    llava.save(model, out / "llava")


def train_sam(out: Path, minutes: float, shards: int, resume: bool) -> None:
    """Train the SAM and write `out`/sam.safetensors."""
    from fseg.glyphs.training import sam as train_sam
    from fseg.worlds.training import sam

    scenes, held_out = _render(out, shards, sam.SIDE, "padded")
    sam.save(train_sam.train(scenes, held_out, out, minutes, resume), out / "sam.safetensors")


def main(
    model: Annotated[Model, typer.Argument(help="Which model.")] = Model.all,
    minutes: Annotated[float, typer.Option(min=0.1, help="Wall-clock minutes for each model, without the drawing of scenes.")] = 90,
    out: Annotated[Path, typer.Option(help="Where scenes, logs, states and weights go.")] = Path("glyphs-training"),
    shards: Annotated[int, typer.Option(min=1, help=f"Blocks of {corpus.SHARD} scenes to train on.")] = 24,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train the LLaVA together, one thread each.")] = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the states in the folder.")] = False,
) -> None:
    """Train the tiny LLaVA, the tiny SAM or both. Random seeds are fixed; processes that share weights without locks still differ from run to run."""

    out.mkdir(parents=True, exist_ok=True)
    if model in (Model.llava, Model.all):
        train_llava(out, minutes, shards, workers, resume)
    if model in (Model.sam, Model.all):
        train_sam(out, minutes, shards, resume)


if __name__ == "__main__":
    typer.run(main)
