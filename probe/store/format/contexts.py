"""How the tokens of a sequence are named and where they lie on the image, as plain values; equal ones are written once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar, cast

from probe.disk import strict_json
from probe.store.format.records import ContextRecord, GridRecord, LayoutRecord, ReadRecord, Runs
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.spans import Span, TokenMap
from probe.tokens.video import VideoLayout
from probe.tracing.activation import Activation

Layout = ImageLayout | VideoLayout
Key = TypeVar("Key", bound=Hashable)


@dataclass
class Interned:
    """Layouts and contexts, each different one once, in the order of their first use.

    Attributes:
        layouts, contexts: as they are written.
    """

    layouts: list[LayoutRecord] = field(default_factory=list)
    contexts: list[ContextRecord] = field(default_factory=list)
    _layout_numbers: dict[Layout, int] = field(default_factory=dict)
    _context_numbers: dict[bytes, int] = field(default_factory=dict)

    @classmethod
    def of(cls, layouts: Sequence[LayoutRecord], contexts: Sequence[ContextRecord]) -> Interned:
        """Those that were written, to be continued."""
        numbers = {layout_of(values): number for number, values in enumerate(layouts)}
        return cls(list(layouts), list(contexts), numbers, {strict_json.dump(values): number for number, values in enumerate(contexts)})

    def context(self, tokens: TokenMap, reads: Sequence[Activation]) -> int:
        """The number of an item's context.

        Args:
            reads: the activation of each read at one layer, without its `layer` axis.
        """
        values: ContextRecord = {
            "tokens": len(tokens),
            "family": tokens.family,
            "spans": {name: runs(span.positions) for name, span in tokens.spans.items()},
            "images": [runs(positions) for positions in tokens.images],
            "layouts": [self._layout(layout) for layout in tokens.layouts],
            "videos": [runs(positions) for positions in tokens.videos],
            "video_layouts": [self._layout(layout) for layout in tokens.video_layouts],
            "reads": [self._of_read(activation) for activation in reads],
        }
        return _number(self._context_numbers, strict_json.dump(values), lambda: self.contexts.append(values))

    def _of_read(self, activation: Activation) -> ReadRecord:
        values: ReadRecord = {
            "shape": list(activation.data.shape),
            "coords": {dim: runs(labels) for dim, labels in activation.coords.items() if dim not in ("layer", "head")},
        }
        if activation.layout is None:
            return {**values, "no_grid": activation.no_grid_reason}
        return {**values, "layout": self._layout(activation.layout)}

    def _layout(self, layout: Layout | None) -> int | None:
        if layout is None:
            return None
        return _number(self._layout_numbers, layout, lambda: self.layouts.append(values_of_layout(layout)))


def _number(known: dict[Key, int], key: Key, add: Callable[[], None]) -> int:
    """The number of a value among those that are known; a new one is added."""
    if key not in known:
        known[key] = len(known)
        add()
    return known[key]


def runs(numbers: Sequence[int]) -> Runs:
    """Integers as runs (start, stop), in their order.

    >>> from probe.store.format.contexts import runs
    >>> runs((5, 6, 7, 9, 8))
    [[5, 8], [9, 10], [8, 9]]
    """
    if not numbers:
        return []
    breaks = [index for index, (one, other) in enumerate(pairwise(numbers), 1) if other != one + 1]
    return [[numbers[start], numbers[stop - 1] + 1] for start, stop in pairwise([0, *breaks, len(numbers)])]


def unrolled(intervals: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The integers of runs."""
    return tuple(number for start, stop in intervals for number in range(start, stop))


def values_of_layout(layout: Layout) -> LayoutRecord:
    """A layout as plain values."""
    values: LayoutRecord = {"grids": [_values_of_grid(grid) for grid in layout.grids], "separators": runs(layout.separators)}
    if isinstance(layout, VideoLayout):
        return {**values, "frames": [list(step) for step in layout.frames]}
    shown = None if layout.shown is None else _values_of_grid(layout.shown)
    return {**values, "no_grid_reason": layout.no_grid_reason, "shown": shown}


def layout_of(values: LayoutRecord) -> Layout:
    """The layout that was written."""
    grids, separators = tuple(map(_grid_of, values["grids"])), unrolled(values["separators"])
    if "frames" in values:
        return VideoLayout(grids, tuple(tuple(step) for step in values["frames"]), separators)
    shown = values.get("shown")
    return ImageLayout(grids, separators, values.get("no_grid_reason", ""), None if shown is None else _grid_of(shown))


def tokens_of(context: ContextRecord, layouts: Sequence[Layout], ids: Sequence[int]) -> TokenMap:
    """The TokenMap of a context; its text needs the model's tokenizer, and is not there.

    Args:
        layouts: all of the shard.
        ids: of the item's tokens.
    """
    images, videos = (tuple(map(unrolled, positions)) for positions in (context["images"], context["videos"]))
    image_layouts, video_layouts = (
        tuple(None if number is None else layouts[number] for number in numbers)
        for numbers in (context["layouts"], context["video_layouts"])
    )
    spans = {name: Span(unrolled(positions), name) for name, positions in context["spans"].items()}
    return TokenMap(
        tuple(ids),
        images,
        cast("tuple[ImageLayout | None, ...]", image_layouts),
        spans,
        family=context["family"],
        videos=videos,
        video_layouts=cast("tuple[VideoLayout | None, ...]", video_layouts),
    )


def _values_of_grid(grid: Grid) -> GridRecord:
    return {
        "name": grid.name,
        "rows": grid.rows,
        "cols": grid.cols,
        "tokens": runs(grid.tokens),
        "box": list(grid.box),
        "image_size": list(grid.image_size),
        "row_shares": [list(share) for share in grid.row_shares],
        "col_shares": [list(share) for share in grid.col_shares],
    }


def _grid_of(values: GridRecord) -> Grid:
    shares = [tuple((start, stop) for start, stop in values[name]) for name in ("row_shares", "col_shares")]
    left, top, right, bottom = values["box"]
    height, width = values["image_size"]
    tokens = unrolled(values["tokens"])
    return Grid(values["name"], values["rows"], values["cols"], tokens, (left, top, right, bottom), (height, width), *shares)
