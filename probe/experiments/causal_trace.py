"""Causal tracing: which states carry what makes one input answered differently from another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from probe.attribution.metrics import LogitDifference, TokenDifference, differences_of_rows, value_of_trace
from probe.errors import InvalidRead
from probe.inputs.encoding import Encoding
from probe.model import Probe
from probe.runtime import Batch
from probe.sessions.variants import run_variants
from probe.tokens.spans import Span, TokenMap
from probe.tracing.activation import Activation
from probe.tracing.edits import Edit
from probe.tracing.edits import replace as replaced
from probe.tracing.reads import AttentionOutput, Hidden, Layers, Logits, MLPOutput, Position, Positions, as_positions, position_name
from probe.tracing.resolving import Indices, token_indices

Inputs = Encoding | Mapping[str, Tensor]
Places = Position | Sequence[Position | Sequence[Position]]
"""One place, or several; each one position, a span, or several of these."""
Patched = type[Hidden] | type[AttentionOutput] | type[MLPOutput]


@dataclass(frozen=True, eq=False, repr=False)
class CausalTrace(Activation):
    """The metric of runs of one input in which states of another one are put: dims (layer, place), or (layer, token).

    Of the axis `place`, `words` are the places' names, which `sel` takes: `traced.sel(place="image")`.

    Attributes:
        clean: the metric of the input whose states are put.
        corrupt: the metric of the input in which they are put.

    >>> clean, corrupt = (model.encode(one, "Is there a cat in the image?") for one in (image, image.rotate(180)))
    >>> traced = probe.causal_trace(model, clean, corrupt, layers=8, places=[-1], metric=probe.LogitDifference("yes", "No"))
    >>> round(float(traced.recovered().sel(layer=8, token=-1).data), 3)  # the last state of the last token has all of it
    1.0
    """

    clean: float = float("nan")
    corrupt: float = float("nan")

    def recovered(self) -> Activation:
        """The share of the difference that each state carries over: 0 where the metric stays `corrupt`, 1 where it becomes `clean`.

        Raises:
            InvalidRead: the metric of both inputs is the same.
        """
        if self.clean == self.corrupt:
            raise InvalidRead(f"The metric of the clean and of the corrupt input is {self.clean:g}: there is no difference to carry over.")
        share = (self.data - self.corrupt) / (self.clean - self.corrupt)
        return Activation(share, self.dims, self.coords, self.layout, self.view, self.no_grid_reason, words=self.words)


def causal_trace(
    model: Probe,
    clean: Inputs,
    corrupt: Inputs,
    *,
    metric: LogitDifference | TokenDifference,
    places: Places,
    layers: Layers = "all",
    read: Patched = Hidden,
) -> CausalTrace:
    """The metric of runs of `corrupt` in which the states of `clean` are put at one layer and one place.

    Each number equals that of a plain Hugging Face forward over `corrupt` with a hook that puts the states of `clean` there. The two inputs
    are run once each; a patched run costs what lies behind its layer and its place, see `Probe.run_variants`.

    Args:
        clean, corrupt: encodings or answers of equal length, such as one question about two images.
        metric: what is measured, a difference of two tokens' logits at one position.
        places: each a position, a span (its name or a `Span`), or a tuple of these; all positions of a place are patched at once.
        layers: of the read.
        read: what is patched: `probe.Hidden`, `probe.AttentionOutput` or `probe.MLPOutput`.

    Returns:
        float32, dims (layer, token) where each place is one position, else (layer, place), whose names `sel(place=...)` takes: those of
        spans, else "-1" for a position -1; with `.clean` and `.corrupt`, the metric of the two inputs, and `recovered()`, the share between.

    >>> other = image.rotate(180)
    >>> clean, corrupt = (model.encode(one, "Is there a cat in the image?") for one in (image, other))
    >>> metric = probe.LogitDifference("yes", "No")
    >>> traced = probe.causal_trace(model, clean, corrupt, layers=[2, 6], places=["image", "question", -1], metric=metric)
    >>> traced
    CausalTrace(layer=2, place=3; float32)
    >>> bool(abs(traced.sel(layer=2, place="image").data - traced.clean) < abs(traced.corrupt - traced.clean))
    True

    Raises:
        InvalidRead: inputs of different lengths, a place that lies elsewhere in them, no places, another kind of read, or a word of the
            metric that is several tokens; before any forward runs, as what `run` raises of layers and positions.
    """
    if read not in (Hidden, AttentionOutput, MLPOutput):
        raise InvalidRead(f"causal_trace(read={read!r}): patch probe.Hidden, probe.AttentionOutput or probe.MLPOutput, without a layer.")
    batches = [model.runtime.batch(one) for one in (clean, corrupt)]
    tokens = _of_equal_length(batches)
    named = _named(places)
    spans = [_same_in_both(place, name, tokens) for name, place in named]
    (difference,) = differences_of_rows(metric, corrupt, [tokens[1]], model.runtime)
    union = Span(tuple(sorted({index for indices in spans for index in indices})), "places")
    asked, logits = read(layers, at=union), Logits(at=difference.at)
    for one in tokens:
        model.runtime.resolve([asked, logits], (one,))
    states, ends = _clean_states(model, batches[0], asked, logits, difference)
    numbers = states.coords["layer"]
    variants = [(), *(_patch(states, layer, indices, union, read) for layer in numbers for indices in spans)]
    values = run_variants(model.runtime, batches[1], [logits], variants, partial(value_of_trace, difference))
    data = torch.stack(values[1:]).view(len(numbers), len(spans)).cpu()
    return _shaped(data, numbers, spans, tokens[1], (ends, float(values[0])), tuple(name for name, _ in named))


def _clean_states(
    model: Probe, batch: Batch, asked: Hidden | AttentionOutput | MLPOutput, logits: Logits, metric: TokenDifference
) -> tuple[Activation, float]:
    """The states that are put, and the metric of their own input."""
    (trace,) = run_variants(model.runtime, batch, [asked, logits], [()], lambda trace: trace)
    return trace[asked], float(value_of_trace(metric, trace))


def _patch(states: Activation, layer: int, indices: Indices, union: Span, read: Patched) -> tuple[Edit, ...]:
    """The edit that puts the clean states of one layer at some positions."""
    numbers = [union.positions.index(index) for index in indices]
    row = states.data[states.coords["layer"].index(layer), 0]
    values = row[numbers[0] : numbers[-1] + 1] if numbers == list(range(numbers[0], numbers[-1] + 1)) else row[numbers]
    return (replaced(read(layer, at=Span(indices)), Activation(values, ("token", "feature"))),)


def _of_equal_length(batches: Sequence[Batch]) -> tuple[TokenMap, TokenMap]:
    clean, corrupt = (batch.tokens for batch in batches)
    if len(clean) != 1 or len(corrupt) != 1 or len(clean[0]) != len(corrupt[0]):
        lengths = [" and ".join(str(len(row)) for row in rows) for rows in (clean, corrupt)]
        raise InvalidRead(
            f"causal_trace() takes two inputs of one row and of equal length; the clean one has {lengths[0]} tokens, the corrupt one "
            f"{lengths[1]}. Ask the same question about two images that are prepared alike, or two questions of equal length."
        )
    return clean[0], corrupt[0]


def _named(places: Places) -> list[tuple[str, tuple[Position, ...]]]:
    """The name of each place, and its positions.

    Raises:
        InvalidRead: no places, or something that is no position.
    """
    alone = isinstance(places, (str, int, Span)) or not isinstance(places, Iterable) or getattr(places, "ndim", 1) == 0
    given = [places] if alone else list(cast("Iterable[Position | Sequence[Position]]", places))
    if places is None or not given:
        raise InvalidRead(f'causal_trace(places={places!r}): name places, such as ["image", -1] or range(-20, 0).')
    positions = [as_positions(cast(Positions, place), "causal_trace(places=...)") or () for place in given]
    return [(", ".join(map(_name, place)), place) for place in positions]


def _name(position: Position) -> str:
    return position if isinstance(position, str) else position_name(position).strip("'")


def _same_in_both(place: tuple[Position, ...], name: str, tokens: tuple[TokenMap, TokenMap]) -> Indices:
    clean, corrupt = (token_indices(one, place) for one in tokens)
    if clean != corrupt or not clean:
        where = f"{len(clean)} tokens of the clean input and {len(corrupt)} of the corrupt one, at other positions"
        raise InvalidRead(f"The place {name!r} is {where if clean else 'empty'}. Name places that are the same in both inputs.")
    return clean


def _shaped(
    data: Tensor, layers: tuple[int, ...], spans: Sequence[Indices], tokens: TokenMap, ends: tuple[float, float], names: tuple[str, ...]
) -> CausalTrace:
    coords = {"layer": layers}
    if any(len(indices) > 1 for indices in spans):
        return CausalTrace(data, ("layer", "place"), coords, words=names, clean=ends[0], corrupt=ends[1])
    positions = tuple(index for indices in spans for index in indices)
    layout, reason = tokens.layout_or_reason(positions)
    trace = CausalTrace(data, ("layer", "token"), coords | {"token": positions}, clean=ends[0], corrupt=ends[1])
    return replace(trace, layout=layout, no_grid_reason=reason)
