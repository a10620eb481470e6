"""`python -m tests.benchmarks`: every benchmark, or those that are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tests.benchmarks import image, questions, reads, scenes
from tests.benchmarks.models import Size
from tests.benchmarks.page import write
from tests.benchmarks.timing import record

Rows = list[dict[str, object]]
BENCHMARKS: dict[str, Callable[[Size], Rows]] = {
    "rows": reads.rows,
    "overhead": reads.overhead,
    "questions": questions.measure,
    "image": image.measure,
}
SCENES: dict[str, Callable[[], Rows]] = {"memory": scenes.memory, "fast": scenes.fast}


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Which: {', '.join((*BENCHMARKS, *SCENES))}. Without any, all.")] = None,
    size: Annotated[str, typer.Option(help="The model: embedded, mid (512 wide, 16 blocks) or full (LLaVA-1.5-7B's dimensions).")] = "mid",
    out: Annotated[Path, typer.Option(help="Where the JSON files go.")] = Path("docs/benchmarks"),
    page: Annotated[Path | None, typer.Option(help="Write all tables in that folder on this page.")] = None,
) -> None:
    """Measure speed and memory. Each figure is a ratio to something that a user would otherwise do, both taken in one process."""
    known = (*BENCHMARKS, *SCENES)
    for name in names or known:
        if name not in known or size not in ("embedded", "mid", "full"):
            raise typer.BadParameter(f"{name} at size {size}. Benchmarks: {', '.join(known)}; sizes: embedded, mid, full.")
    for name in names or known:
        if name in SCENES:
            record(name, SCENES[name](), out)
        else:
            record(f"{name}-{size}", BENCHMARKS[name](size), out)  # type: ignore[arg-type]  # one of Size, by the check above
    if page is not None:
        write(out, page)


if __name__ == "__main__":
    typer.run(main)
