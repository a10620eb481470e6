"""The demonstration: the whole method on held-out scenes of the embedded world."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from fseg.drawing.figures import panel
from fseg.evaluation.metric import Counts
from fseg.files import write_atomically
from fseg.glyphs import CLASSES, Scene, scene
from fseg.pipeline import Segmenter
from fseg.result import Result


def run_demo(out: Path, seeds: Iterable[int]) -> None:
    """Segment held-out scenes, print what was found, and write `out/scene-<seed>.png` for each."""
    started = time.perf_counter()
    segmenter = Segmenter()
    print(f"{segmenter.recipe.name}: asking about {len(CLASSES)} classes, then segmenting those that get a yes\n")
    print(f"{'scene':>7}  {'class':<16} {'is there':<9} {'IoU':>5}  answer")
    for seed in tqdm(list(seeds), unit="scene", disable=None):
        shown = scene(seed, split="held-out")
        result = segmenter(shown.image, CLASSES)
        for line in table(seed, shown, result):
            tqdm.write(line)
        figure = panel(shown.image, result, truth=shown.labels)
        write_atomically(out / f"scene-{seed}.png", lambda file, figure=figure: figure.savefig(file, format="png", dpi=110))  # type: ignore[misc]
    print(f"\nPictures: {out}/scene-*.png   ({time.perf_counter() - started:.0f} s)")


def table(seed: int, shown: Scene, result: Result) -> Iterator[str]:
    """A line for each class that is there or was said to be, then one for all others."""
    ious = Counts.of(result.labels, shown.labels, len(CLASSES) + 1, ignored=None).iou()
    others = 0
    for i, name in enumerate(CLASSES):
        there, evidence = name in shown.classes, result.evidence[name]
        if not (there or evidence.present):
            others += 1
            continue
        iou = f"{ious[i + 1]:.2f}" if there else ""
        yield f"{seed:>7}  {name:<16} {'yes' if there else 'no':<9} {iou:>5}  {evidence.answer}"
    yield f"{seed:>7}  {f'{others} others':<16} {'no':<9} {'':>5}  (a no each)"
