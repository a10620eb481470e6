"""`python -m tests.benchmarks`: every benchmark, or those that are named."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import torch
import typer

from tests.benchmarks import edits, image, many, questions, reads, scenes, startup, store, suite, variants
from tests.benchmarks.models import Size
from tests.benchmarks.page import write
from tests.benchmarks.timing import record

Rows = list[dict[str, object]]
BENCHMARKS: dict[str, Callable[[Size], Rows]] = {
    "rows": reads.rows,
    "overhead": reads.overhead,
    "edits": edits.measure,
    "questions": questions.measure,
    "image": image.measure,
    "outside": image.outside,
    "variants": variants.measure,
    "many": many.measure,
    "collect": store.collecting,
}
SHORT: dict[str, Callable[[Size], Rows]] = {
    "rows": partial(reads.rows, lengths=(700,), repeats=3),
    "overhead": partial(reads.overhead, repeats=3),
    "edits": partial(edits.measure, repeats=3),
    "questions": partial(questions.measure, counts=(1, 20), alone=2, repeats=1),
    "image": partial(image.measure, repeats=1),
    "outside": partial(image.outside, counts=(20,), repeats=1),
    "variants": partial(variants.measure, timed=4, repeats=1),
    "many": partial(many.measure, items=4, repeats=1),
    "collect": partial(store.collecting, repeats=1),
}
"""The full size without a GPU: less of everything, and no eager attention to 2,900 tokens, which would take 17 GB more."""
SCENES: dict[str, Callable[[], Rows]] = {
    "startup": startup.measure,
    "tests": suite.measure,
    "memory": scenes.memory,
    "fast": scenes.fast,
    "drafts": scenes.drafts,
    "store": store.reading,
}


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Which: {', '.join((*BENCHMARKS, *SCENES))}. Without any, all.")] = None,
    size: Annotated[
        list[str], typer.Option(help="The model: embedded, mid (512 wide, 16 blocks) or full (LLaVA-1.5-7B's dimensions); repeatable.")
    ] = ["mid"],  # noqa: B006  typer copies it
    out: Annotated[Path, typer.Option(help="Where the JSON files go.")] = Path("docs/benchmarks"),
    page: Annotated[Path | None, typer.Option(help="Write all tables in that folder on this page.")] = None,
) -> None:
    """Measure speed and memory. Each figure is a ratio to something that a user would otherwise do, both taken in one process."""
    known = (*BENCHMARKS, *SCENES)
    wrong = [*(set(names or ()) - set(known)), *(set(size) - set(get_args(Size)))]
    if wrong:
        raise typer.BadParameter(f"{', '.join(wrong)}. Benchmarks: {', '.join(known)}; sizes: {', '.join(get_args(Size))}.")
    for name in names or known:
        if name in SCENES:
            record(name, SCENES[name](), out)
            continue
        for one in get_args(Size):
            if one in size:
                benchmarks = SHORT if one == "full" and not torch.cuda.is_available() else BENCHMARKS
                record(f"{name}-{one}", benchmarks[name](one), out)
    if page is not None:
        write(out, page)


if __name__ == "__main__":
    typer.run(main)
