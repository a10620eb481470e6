"""`fseg demo`: the whole method on held-out scenes of an embedded world."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fseg.cli.options import output_path
from probe.disk.files import check_writable, write_atomically

if TYPE_CHECKING:
    from fseg.result import Result
    from fseg.worlds.measuring import Example


class World(StrEnum):
    """The embedded worlds, by the names of their recipes."""

    glyphs = "glyphs"
    stickers = "stickers"


def demo_command(
    out: Annotated[Path, typer.Option(help="Where the images go.", parser=output_path, metavar="PATH")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of the first scene; the others follow.")] = 0,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 4,
    world: Annotated[World, typer.Option(help="Which embedded models, and whose scenes.")] = World.glyphs,
) -> None:
    """Run the whole method on scenes that the embedded models have never seen.

    Asks an embedded LLaVA about all of its classes, traces its answers, prompts an embedded SAM, and compares with the ground truth.
    Prints a table and writes an image for each scene. Needs no download.
    """
    check_writable(out)
    run_demo(out, range(seed, seed + scenes), world)


def run_demo(out: Path, seeds: Iterable[int], world: World) -> None:
    """Segment held-out scenes of a world, print the results, and write `out/scene-<seed>.png` for each."""
    from tqdm import tqdm

    from fseg.cli.models import hide_loading_bars
    from fseg.drawing.figures import panel
    from fseg.drawing.png import png_of
    from fseg.pipeline import Segmenter

    hide_loading_bars()
    started = time.perf_counter()
    segmenter = Segmenter(world.value)
    classes, scene = _classes_and_scenes(world)
    print(f"{segmenter.recipe.name}: asking about {len(classes)} classes, then segmenting those that get a yes\n")
    print(f"{'scene':>7}  {'class':<16} {'is there':<9} {'IoU':>5}  answer")
    for seed in tqdm(list(seeds), unit="scene", disable=None):
        shown = scene(seed)
        result = segmenter(shown.image, classes)
        for line in table_lines(seed, shown, classes, result):
            tqdm.write(line)
        drawn = png_of(panel(shown.image, result, truth=shown.labels))
        write_atomically(out / f"scene-{seed}.png", lambda file, drawn=drawn: file.write(drawn))  # type: ignore[misc]
    if world is World.glyphs:
        print("\nThe colour that an answer names is often wrong; the method does not use it.")
    print(f"Images: {out}/scene-*.png   ({time.perf_counter() - started:.0f} s)")


def _classes_and_scenes(world: World) -> tuple[Sequence[str], Callable[[int], Example]]:
    """The classes of a world, and its held-out scenes by their seeds."""
    from fseg import glyphs, stickers

    module = glyphs if world is World.glyphs else stickers
    return module.CLASSES, module.scene


def table_lines(seed: int, shown: Example, classes: Sequence[str], result: Result) -> Iterator[str]:
    """A line for each class that is in the scene or was predicted, then one for all others."""
    from fseg.labels.metric import Counts

    ious = Counts.of(result.labels, shown.labels, len(classes) + 1, ignored=None).iou()
    others = 0
    for i, name in enumerate(classes):
        in_scene, evidence = name in shown.classes, result.evidence[name]
        if not (in_scene or evidence.present):
            others += 1
            continue
        iou = f"{ious[i + 1]:.2f}" if in_scene else ""
        yield f"{seed:>7}  {name:<16} {'yes' if in_scene else 'no':<9} {iou:>5}  {evidence.answer}"
    yield f"{seed:>7}  {f'{others} others':<16} {'no':<9} {'':>5}  (a no each)"
