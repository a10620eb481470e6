"""Measures every fusion, and its product with D, on held-out scenes of the glyph world, and writes the page.

python -m tests.benchmarks.fusions docs/fusions.md --n 200
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tqdm import tqdm

import fseg
from fseg.glyphs.scenes import CLASSES, scene
from fseg.labels.metric import Counts, bootstrap_difference, bootstrap_interval, stack
from fseg.recipe import Recipe
from fseg.result import Result, versions
from fseg.sweep import Sweep
from recipes.fusions import GLYPHS_FUSIONS
from recipes.glyphs import GLYPHS

PAGE = """# Fusions beyond the paper, on the glyph world

How well other responses do on the paper's chain: {images} held-out scenes of the embedded model, the classes of each scene given
(`ask.presence = "assume"`), so that only the maps count. mIoU in percent with its 95 % bootstrap interval over the scenes, and how far each
row lies above `D`, paired by scene. The model is tiny and was trained on this world: the figures say what the code does, not which method is
better on photographs. No row was run on a real checkpoint.

Made by `{command}`
with {versions}.

| recipe | `respond.fusion` | settings | mIoU | 95 % | above `D` | 95 % |
|---|---|---|---|---|---|---|
{rows}

- `D` and `D*M_A` are the paper's. `glyphs-heads` has the heads that `fseg heads` found on 100 training scenes; the layers and `refine.alpha` of the
  others were chosen on 24 further training scenes by the IoU of the refined masks with the cells that show the class.
- In the products `refine.alpha` is 0: `D` is suppressed below its threshold already (Eq. 5). A second threshold on the weighted response cuts off
  edges: on those training scenes the IoU of the masks of the four products was 30 to 50 points lower with 0.25, and 2 to 26 points with 0.02.
- The lens and the token activation map read words off the image tokens. Few are there in this model: of 6 and of 3 bands
  of layers, the best are shown.
{notes}
"""


def rows() -> dict[str, Recipe]:
    """The recipes to compare, `D` first."""
    named = {"D": GLYPHS.with_({"respond.fusion": "D"}), "D*M_A": GLYPHS, **{recipe.name: recipe for recipe in GLYPHS_FUSIONS}}
    return {name: recipe.with_({"ask.presence": "assume"}) for name, recipe in named.items()}


def counts(result: Result, labels: np.ndarray) -> Counts:
    """Pixel counts in the labels of the world: a result numbers its own classes from 1."""
    numbers = np.array([0, *(CLASSES.index(name) + 1 for name in result.classes)])
    return Counts.of(numbers[result.labels], labels, len(CLASSES) + 1)


def measure(compared: Mapping[str, Recipe], scenes: int) -> dict[str, Counts]:
    """The counts of each recipe, with a leading axis of scenes."""
    sweep = Sweep(fseg.Segmenter(GLYPHS), compared)
    found: dict[str, list[Counts]] = {name: [] for name in compared}
    for seed in tqdm(range(scenes), unit="scene", disable=None):
        shown = scene(seed, "held-out")
        for name, result in sweep(shown.image, shown.classes).items():
            found[name].append(counts(result, shown.labels))
    return {name: stack(each) for name, each in found.items()}


def table(compared: Mapping[str, Recipe], found: Mapping[str, Counts]) -> tuple[str, str]:
    """The rows of the table, and a note for each product that lies below D."""
    lines, below = [], []
    for name, recipe in compared.items():
        miou, lower, upper = (100 * value for value in bootstrap_interval(found[name]))
        above, least, most = (100 * value for value in bootstrap_difference(found[name], found["D"]))
        against = ("", "") if name == "D" else (f"{above:+.2f}", f"{least:+.2f} to {most:+.2f}")
        lines.append(
            f"| `{name}` | `{recipe.respond.fusion}` | {settings(recipe)} | {miou:.1f} | {lower:.1f} to {upper:.1f} | {' | '.join(against)} |"
        )
        if recipe.respond.fusion.startswith("D*") and above < -0.5:
            below.append(f"- The product `{recipe.respond.fusion}` is below `D`, by {-above:.2f} points.")
    return "\n".join(lines), "\n".join(below) or "- No product with `D` is below it by more than half a point."


def settings(recipe: Recipe) -> str:
    """The options that differ from row to row."""
    options = dict(recipe.respond.options)
    shown = {key: value for key, value in options.items() if key.endswith("layers") or key in ("heads", "query")}
    return ", ".join([*(f"{key} {value}" for key, value in shown.items()), f"refine.alpha {recipe.refine.alpha:g}"])


def main(
    document: Annotated[Path, typer.Argument(help="The Markdown file to write.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many held-out scenes.")] = 200,
) -> None:
    """Measure the fusions and write the page."""
    compared = rows()
    lines, notes = table(compared, measure(compared, n))
    made_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    command = f"python -m tests.benchmarks.fusions {document} --n {n}"
    document.write_text(PAGE.format(images=n, command=command, versions=made_with, rows=lines, notes=notes), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
