"""Measures what becomes of large regions behind the response map: prompts, SAM and labels, from response maps that are made, not computed.

python -m tests.benchmarks.stuff docs/stuff.md --n 200

The embedded LLaVA does not know the textures' names. The maps are therefore the true shares of each cell, blurred and with smooth noise, the
same for every row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

import probe
from fseg.evidence import Evidence
from fseg.glyphs.regions import REGION_CLASSES, regions
from fseg.glyphs.scenes import Scene
from fseg.labels.metric import Counts, bootstrap_difference, bootstrap_interval, stack
from fseg.pipeline import segment_prompted
from fseg.recipe import Recipe
from fseg.result import versions
from fseg.sam.loading import load_sam
from fseg.worlds.textures import TEXTURES
from recipes.glyphs import GLYPHS
from recipes.stuff import stuff

CELLS = 14
BLUR, NOISE = 0.7, 0.2  # of the made maps: in cells, and as a standard deviation of values from 0 to 1

PAGE = """# Large regions: the `stuff` recipes

Points and a box say little about a region that covers half of the image: the paper names it as a weakness. A `stuff` recipe
(`recipes.stuff.stuff`) changes what SAM is asked for classes whose refined mask covers more than `prompt.stuff_share` of the grid, and what
becomes of its answer:

| key | what it does |
|---|---|
| `prompt.stuff_share`, `prompt.stuff_points` | points spread over M_r, farthest first, instead of one for each component |
| `sam.negatives` | the other classes' points are negative points |
| `sam.unite` | the mask is SAM's united with M_r at the size of the image |
| `compose.fill` | pixels without a mask take the class of the largest D~; for sets that label every pixel |

## Measured

{images} scenes of five drawn textures with up to two glyphs (`fseg.glyphs.regions`), in which every pixel has a class. The embedded LLaVA does
not know the textures' names, so the response maps are made: the true shares of {cells} x {cells} cells, blurred by {blur} cells, with smooth
noise of standard deviation {noise}. What is measured is what follows them: prompts, the embedded SAM, labels. That SAM was trained on glyphs
alone; how much of this holds for the real one was not measured. mIoU in percent with its 95 % bootstrap interval, of the five
textures and of the glyphs; and the gain over the paper's prompts on textures, paired by scene.

Made by `{command}`
with {versions}.

| row | textures | 95 % | glyphs | gain | 95 % |
|---|---|---|---|---|---|
{rows}

The embedded SAM leaves most of a texture out, whatever it is asked: it has seen textures only behind glyphs. So what `sam.unite` and
`compose.fill` bring is M_r and D~ themselves, and the spread points and negatives can show little. `compose.fill` also gives pixels of a
glyph that SAM left out to the texture around it, and pixels of a texture to the glyph.
"""


def rows() -> dict[str, Recipe]:
    """The recipes to compare, the paper's prompts first."""
    spread = GLYPHS.with_({"prompt.stuff_share": stuff(GLYPHS).prompt.stuff_share})
    return {
        "the paper's prompts": GLYPHS,
        "`compose.fill`": GLYPHS.with_({"compose.fill": "argmax_response"}),
        "spread points": spread,
        "spread points, `sam.negatives`": spread.with_({"sam.negatives": True}),
        "spread points, `sam.unite`": spread.with_({"sam.unite": True}),
        "spread points, `sam.negatives`, `sam.unite`": spread.with_({"sam.negatives": True, "sam.unite": True}),
        "`stuff`": stuff(GLYPHS),
    }


def made_evidence(shown: Scene, seed: int) -> list[Evidence]:
    """Evidence of the classes of a scene, with maps made from the truth."""
    rng = np.random.default_rng([0x737475, seed])
    grid = probe.Grid.whole(CELLS, CELLS, shown.labels.shape)
    found = []
    for name in shown.classes:
        covered = torch.from_numpy(shown.labels == REGION_CLASSES.index(name) + 1).float()
        share = torch.nn.functional.adaptive_avg_pool2d(covered[None, None], CELLS)[0, 0].numpy()
        smooth = gaussian_filter(rng.standard_normal((CELLS, CELLS)), 1.0)
        values = gaussian_filter(share, BLUR) + NOISE * smooth / smooth.std()
        response = torch.from_numpy(values).float()
        refined = response > min(0.5, 0.75 * float(response.max()))
        found.append(Evidence(name, name, True, "", None, None, grid, raw_distance=response, refined=refined))
    return found


def measure(compared: Mapping[str, Recipe], scenes: int) -> dict[str, Counts]:
    """The counts of each recipe, with a leading axis of scenes."""
    sam = load_sam(GLYPHS.sam.checkpoint)
    found: dict[str, list[Counts]] = {name: [] for name in compared}
    for seed in tqdm(range(scenes), unit="scene", disable=None):
        shown = regions(seed)
        evidence = made_evidence(shown, seed)
        numbers = np.array([0, *(REGION_CLASSES.index(name) + 1 for name in shown.classes)])
        for name, recipe in compared.items():
            prompted = [recipe.prompt(e) for e in evidence]
            result = segment_prompted(recipe, sam, shown.image, shown.classes, prompted, {})
            labels = np.where(result.labels == 255, 0, result.labels)
            found[name].append(Counts.of(numbers[labels], shown.labels, len(REGION_CLASSES) + 1))
    return {name: stack(each) for name, each in found.items()}


def _of(counts: Counts, labels: Sequence[int]) -> Counts:
    """The counts of some labels."""
    return Counts(*(part[..., labels] for part in (counts.intersection, counts.prediction, counts.truth)))


def table(found: Mapping[str, Counts]) -> str:
    """The rows of the table."""
    textures = [label + 1 for label in range(len(TEXTURES))]
    glyphs = [label + 1 for label in range(len(TEXTURES), len(REGION_CLASSES))]
    base = _of(next(iter(found.values())), textures)
    lines = []
    for number, (name, counts) in enumerate(found.items()):
        miou, lower, upper = (100 * value for value in bootstrap_interval(_of(counts, textures)))
        things = 100 * bootstrap_interval(_of(counts, glyphs))[0]
        gain, least, most = (100 * value for value in bootstrap_difference(_of(counts, textures), base))
        against = f"{gain:+.1f} | {least:+.1f} to {most:+.1f}" if number else " | "
        lines.append(f"| {name} | {miou:.1f} | {lower:.1f} to {upper:.1f} | {things:.1f} | {against} |")
    return "\n".join(lines)


def main(
    document: Annotated[Path, typer.Argument(help="The Markdown file to write.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many scenes.")] = 200,
) -> None:
    """Measure the recipes and write the page."""
    lines = table(measure(rows(), n))
    made_with = ", ".join(f"{name} {version}" for name, version in versions().items())
    command = f"python -m tests.benchmarks.stuff {document} --n {n}"
    page = PAGE.format(images=n, cells=CELLS, blur=BLUR, noise=NOISE, command=command, versions=made_with, rows=lines)
    document.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
