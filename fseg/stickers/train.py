"""Trains the models of the sticker world: `python -m fseg.stickers.train all`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fseg.errors import FsegError
from fseg.stickers import llava_folder
from fseg.stickers.drawings import TRAINING
from fseg.stickers.sprites import sprites


class Stage(StrEnum):
    """What can be trained; `llava` needs `tower`, `dynamic` and `qwen` the folder that `llava` writes, or the one of the package."""

    tower = "tower"
    llava = "llava"
    dynamic = "dynamic"
    qwen = "qwen"
    sam = "sam"
    all = "all"


STEPS = {Stage.tower: 6000, Stage.llava: 3000, Stage.dynamic: 1500, Stage.qwen: 1200, Stage.sam: 2000}
"""Steps of each stage, in the order in which they are trained."""
_SCENES = {Stage.tower: 32, Stage.llava: 16, Stage.dynamic: 16, Stage.qwen: 16, Stage.sam: 16}
_RATES = {Stage.dynamic: 1e-3, Stage.qwen: 1e-3, Stage.sam: 1e-3}  # these begin with what others have learnt


def train(stage: Stage, out: Path, steps: int, every: int, compiled: bool) -> None:
    """Train one stage in `out`, or go on from its state there, and write what it gives."""
    from fseg.stickers.training import llava, loop, qwen, sam, tower

    made = out / "llava"
    square = made if made.exists() or not llava_folder().exists() else llava_folder()
    plan = loop.Plan(out, stage.value, steps, _SCENES[stage], rate=_RATES.get(stage, 2e-3), every=every)
    states = {each: out / f"{each.value}.pt" for each in STEPS}
    if stage is Stage.tower:
        tower.train(plan, compiled)
    elif stage is Stage.llava:
        llava.save(llava.train(plan, states[Stage.tower], compiled), made)
    elif stage is Stage.dynamic:
        qwen.train_tower(plan, square, compiled)
    elif stage is Stage.qwen:
        qwen.save(qwen.train(plan, states[Stage.dynamic], square, compiled), out / "qwen")
    else:
        from fseg.glyphs import sam_file
        from fseg.worlds.training.sam import save

        save(sam.train(plan, sam_file()), out / "sam.safetensors")


def main(
    stage: Annotated[Stage, typer.Argument(help="Which stage.")] = Stage.all,
    out: Annotated[Path, typer.Option(help="Where states, logs and weights go.")] = Path("stickers-training"),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the stage, instead of its own number.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between two measurements; the state is saved with each.")] = 100,
    compile: Annotated[bool, typer.Option(help="Compile the forwards; faster after some minutes.")] = True,
) -> None:
    """Train the tiny models. A stage that was interrupted goes on from its last state, to the same weights bit by bit."""
    import torch

    try:
        for artist in TRAINING:
            sprites(artist)  # says which command fetches them
        torch.set_num_threads(1)  # sums in another order give other bits
        out.mkdir(parents=True, exist_ok=True)
        for each, count in STEPS.items():
            if stage in (each, Stage.all):
                train(each, out, steps or count, every, compile)
    except FsegError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(main)
