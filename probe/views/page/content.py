"""What a page shows of a trace: its tokens, the views of its images, attention and cosine over each, thinned where there is too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from probe.errors import InvalidRead
from probe.tokens.layout import Grid
from probe.tokens.spans import TokenMap
from probe.tracing.capturing.lookup import attention_selections
from probe.tracing.trace import Trace

T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """One grid of one image.

    Attributes:
        name: for a choice of views.
        image: the number of the image.
        grid: where the cells lie; None: not known, and the view is one cell, the sum over the image's tokens.
        positions: of each cell's token, or of all tokens of the image.
    """

    name: str
    image: int
    grid: Grid | None
    positions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps over the image tokens, one for each layer and head, and each token of text.

    Attributes:
        labels: (layer, head) of each map: attention's decoder block and head, "mean" where heads were averaged; cosine's `hidden_states` index
            and "".
        tokens, keys: the positions of the text, and of the image tokens.
        values: float32.
    """

    labels: tuple[tuple[int, int | str], ...]
    tokens: tuple[int, ...]
    keys: tuple[int, ...]
    values: Float[Tensor, "map token key"]

    @property
    def layers(self) -> tuple[int, ...]:
        """Each once, in order."""
        return tuple(dict.fromkeys(layer for layer, _ in self.labels))

    def thinned(self, tokens: set[int], layers: set[int]) -> Maps:
        """Those of these tokens and layers."""
        columns = [place for place, position in enumerate(self.tokens) if position in tokens]
        rows = [place for place, (layer, _) in enumerate(self.labels) if layer in layers]
        left = tuple(self.labels[place] for place in rows), tuple(self.tokens[place] for place in columns)
        return Maps(*left, self.keys, self.values[rows][:, columns])

    def of_view(self, view: View) -> Float[Tensor, "map token cell"]:
        """The values at the tokens of a view."""
        place = {position: number for number, position in enumerate(self.keys)}
        return self.values[..., [place[position] for position in view.positions]]


@dataclass(frozen=True, eq=False)
class Content:
    """What there is to show.

    Attributes:
        tokens: names and text of the positions.
        strip: the positions of text that are shown, in order; those that were thinned out are among them.
        views: of every image.
        maps: "attention" and "cosine", where they were read.
        notes: sentences on what is missing or left out.
    """

    tokens: TokenMap
    strip: tuple[int, ...]
    views: tuple[View, ...]
    maps: Mapping[str, Maps]
    notes: tuple[str, ...]


def gather(trace: Trace, most_tokens: int, most_layers: int) -> Content:
    """What a trace of one sequence has for a page.

    Args:
        most_tokens, most_layers: of more, evenly spaced ones are kept; of tokens those of the answer.

    Raises:
        InvalidRead: the trace is of several sequences.
        GridMismatch: the image tokens are not as many as the family's layout says.
    """
    if len(trace.tokens) != 1:
        raise InvalidRead(f"A page shows one sequence, and this trace has {len(trace.tokens)}. Run each encoding by itself.")
    (tokens,) = trace.tokens
    tokens.check_layouts()
    image = tuple(position for positions in tokens.images for position in positions)
    found = {"attention": _attention(trace, image), "cosine": _cosine(trace, image)} if image else {}
    maps = {name: of_name for name, of_name in found.items() if of_name is not None}
    notes = [f"No {_MISSING[name]} was read." for name in found if name not in maps]
    if not image:
        notes.append("No position of this sequence is an image token.")
    asked = sorted({position for of_name in maps.values() for position in of_name.tokens})
    answer = answer_positions(tokens)
    kept = evenly([position for position in asked if position in answer] or asked, most_tokens) if len(asked) > most_tokens else asked
    if len(kept) < len(asked):
        notes.append(f"{len(kept)} of {len(asked)} tokens have maps; the others are greyed.")
    for name, of_name in maps.items():
        layers = evenly(of_name.layers, most_layers)
        if len(layers) < len(of_name.layers):
            notes.append(f"{name.capitalize()} of {len(layers)} of {len(of_name.layers)} layers, evenly spaced.")
        maps[name] = of_name.thinned(set(kept), set(layers))
    views = _views(tokens)
    notes += [f"Where the tokens of {view.name!r} lie is not known: a map is the sum over them." for view in views if view.grid is None]
    return Content(tokens, tuple(sorted({*asked, *answer})), views, maps, tuple(notes))


_MISSING = {"attention": "attention from text to the image", "cosine": "layer of hidden states of both the image and text"}


def answer_positions(tokens: TokenMap) -> frozenset[int]:
    """The positions of the answer; none without one."""
    return frozenset(tokens.spans["answer"].positions if "answer" in tokens.spans else ())


def evenly(items: Sequence[T], most: int) -> tuple[T, ...]:
    """At most so many of some items: all, or evenly spaced ones with the first and the last.

    >>> evenly(range(60), 4), evenly("abc", 4), evenly("abc", 1)
    ((0, 20, 39, 59), ('a', 'b', 'c'), ('a',))
    """
    if len(items) <= most:
        return tuple(items)
    return tuple(items[round(step * (len(items) - 1) / max(1, most - 1))] for step in range(most))


def _views(tokens: TokenMap) -> tuple[View, ...]:
    views = []
    for number, (positions, layout) in enumerate(zip(tokens.images, tokens.layouts, strict=True)):
        image = f"image {number}" if len(tokens.images) > 1 else "image"
        grids = [grid for grid in layout.grids if grid.tokens] if layout else []
        named = len(grids) > 1
        views += [
            View(f"{image}, {grid.name}" if named else image, number, grid, tuple(positions[token] for token in grid.tokens))
            for grid in grids
        ]
        if positions and not grids:
            views.append(View(image, number, None, positions))
    return tuple(views)


def _attention(trace: Trace, image: tuple[int, ...]) -> Maps | None:
    """The attention read with the most queries among those that include the image as keys."""
    plan, captured = trace.plan, trace.captured
    fitting = [one for one in attention_selections(captured) if set(image) <= set(plan.keys[one][0])]
    if not fitting:
        return None
    selection = max(fitting, key=lambda one: (len(plan.queries[one][0]), one.heads != "mean"))
    keys, shown = plan.keys[selection][0], set(image)
    text = [place for place, position in enumerate(plan.queries[selection][0]) if position not in shown]
    # A block that attends to keys of its own, such as a cross-attention's, has other columns than the sequence's.
    rows = {
        block: weights[0].reshape(-1, *weights[0].shape[-2:])
        for (block, other), weights in sorted(captured.attention.items(), key=lambda item: item[0][0])
        if other == selection and weights[0].shape[-1] == len(keys)
    }
    if not rows or not text:
        return None
    column = {position: place for place, position in enumerate(keys)}
    columns = torch.tensor([column[position] for position in image])
    heads = selection.heads
    maps = [
        (block, head)
        for block, weights in rows.items()
        for head in (("mean",) if heads == "mean" else range(len(weights)) if heads == "all" else heads)
    ]
    picked = torch.cat([weights.cpu()[:, text][..., columns].float() for weights in rows.values()])
    return Maps(tuple(maps), tuple(plan.queries[selection][0][place] for place in text), image, picked)


def _cosine(trace: Trace, image: tuple[int, ...]) -> Maps | None:
    """Cosines at every layer where the whole image and some text were read, to the text that was read at all of these."""
    states: dict[int, dict[int, Tensor]] = {}
    for (address, at), rows in trace.captured.states.items():
        if address.read == "Hidden":
            states.setdefault(address.layer, {}).update(zip(trace.plan.positions[at][0], rows[0], strict=True))
    shown = set(image)
    layers = sorted(layer for layer, known in states.items() if shown < known.keys())
    words = sorted(set.intersection(*(set(states[layer]) - shown for layer in layers))) if layers else []
    if not words:
        return None
    values = [_directions(states[layer], words) @ _directions(states[layer], image).T for layer in layers]
    return Maps(tuple((layer, "") for layer in layers), tuple(words), image, torch.stack(values))


def _directions(states: dict[int, Tensor], positions: Sequence[int]) -> Float[Tensor, "token feature"]:
    return normalize(torch.stack([states[position] for position in positions]).float().cpu(), dim=-1)
