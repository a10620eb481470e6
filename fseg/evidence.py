"""Evidence: everything that is known about one class in one image, from the answer to the prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

import probe
from fseg.errors import InvalidFusion, NotScoped
from probe.tokens.equality import equal_fields
from probe.tracing.activation.pixels import area_shares, sample
from probe.tracing.reads.positions import as_layers

MapName = Literal["raw_distance", "distance", "attention", "attention_mask", "response", "guide", "prototype_mask", "refined"]

MAPS: tuple[MapName, ...] = get_args(MapName)
"""The maps of a class, in the order in which the stages compute them."""

RESPONSE_MAPS = MAPS[: MAPS.index("response") + 1]
"""The maps that a fusion may return; "response" is required."""

STUFF = "stuff"
"""The flag of a class that covers much of the image: the prompt stage sets it, the SAM stage reads it."""


@dataclass(frozen=True)
class Context:
    """What a fusion may use beside the activations of its class.

    Attributes:
        lens: `Probe.lens` of the model.
        questions: the traces of other questions about the same image, by the question.
    """

    lens: Callable[..., probe.Activation]
    questions: Mapping[str, probe.Trace]


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """What is known about one class in one image. It is immutable: each stage returns a new one that contains more.

    Every map has the rows and columns of `grid` and is on the CPU. A map that no stage has computed yet is None. Evidence of a result can be
    pickled, copied and compared: two are equal if all their fields are, tensors by shape, dtype and values.

    Attributes:
        name: the class.
        asked_as: the synonym in the question.
        present: the model answered yes.
        answer: the model's answer, without special tokens.
        margin: logit of yes minus logit of no at the first answer position; None without a gate.
        trace: the activations read during the answer; None for a class that is absent, and in results.
        grid: the cells of every map, and their pixels on the original image.
        raw_distance: D~ of Eq. 3, float32, mean cosine in -1..1.
        distance: D of Eq. 5, float32, D~ above the threshold, 0 elsewhere.
        attention: A_v of Eq. 6, float32, mean share of attention in 0..1.
        attention_mask: M_A of Eq. 7, bool.
        response: D_f of Eq. 8, float32: what the fusion returned.
        guide: m_c, bool: where M^_f of Eq. 9 is this class.
        features: what Eq. 10 takes its means of, float32. The classes of an image share one tensor.
        prototype_mask: M_v of Eq. 11, bool.
        refined: M_r of Eq. 12, bool.
        points: positive prompts (x, y) in pixels of the original image.
        box: (x0, y0, x1, y1) in pixels of the original image, both corners inside the box.
        negatives: negative prompts (x, y), of stuff alone.
        score: the IoU that SAM predicts for its mask.
        flags: deviations from the paper's procedure, one short word each, such as "no-description".
        scope: the reads that `hidden`, `attention_rows`, `attention_heads` and the features may use; None: all of the trace.
        views: the views of the image whose tokens are read, one after another; empty: `grid` alone. Of several, `fold` makes one map.
        context: the model's head, and other questions about the image; None in results.

    >>> e = Evidence("cat", "cat", True, "yes, it contains a cat.", None, None, grid=probe.Grid.whole(2, 3, (20, 30)))
    >>> e.fold(torch.arange(6))
    tensor([[0, 1, 2],
            [3, 4, 5]])
    >>> e.flagged("no-description")
    Evidence('cat', present, answer 'yes, it contains a cat.', flags: no-description)
    """

    name: str
    asked_as: str
    present: bool
    answer: str
    margin: float | None
    trace: probe.Trace | None
    grid: probe.Grid
    raw_distance: Float[Tensor, "row col"] | None = None
    distance: Float[Tensor, "row col"] | None = None
    attention: Float[Tensor, "row col"] | None = None
    attention_mask: Bool[Tensor, "row col"] | None = None
    response: Float[Tensor, "row col"] | None = None
    guide: Bool[Tensor, "row col"] | None = None
    features: Float[Tensor, "row col feature"] | None = None
    prototype_mask: Bool[Tensor, "row col"] | None = None
    refined: Bool[Tensor, "row col"] | None = None
    points: tuple[tuple[float, float], ...] = ()
    box: tuple[float, float, float, float] | None = None
    negatives: tuple[tuple[float, float], ...] = ()
    score: float | None = None
    flags: tuple[str, ...] = ()
    scope: tuple[probe.Read, ...] | None = None
    views: tuple[probe.Grid, ...] = ()
    context: Context | None = None

    def __eq__(self, other: object) -> bool:
        return equal_fields(self, other) if isinstance(other, Evidence) else NotImplemented

    def __repr__(self) -> str:
        facts = [repr(self.name), "present" if self.present else "absent", f"answer {shorten(self.answer, 60, placeholder=' ...')!r}"]
        facts += [f"asked as {self.asked_as!r}"] if self.asked_as != self.name else []
        facts += [f"margin {self.margin:.2f}"] if self.margin is not None else []
        facts += [f"{len(self.points)} point{'s' * (len(self.points) > 1)}"] if self.points else []
        facts += ["a box"] if self.box is not None else []
        facts += [f"score {self.score:.2f}"] if self.score is not None else []
        facts += [f"flags: {', '.join(self.flags)}"] if self.flags else []
        return f"Evidence({', '.join(facts)})"

    def scoped(self, reads: Sequence[probe.Read]) -> Evidence:
        """The same evidence, restricted to these reads.

        One pass serves every stage, so the trace may contain more layers than a stage has asked for.
        """
        return replace(self, scope=tuple(reads))

    def hidden(self, at: probe.Position) -> Float[Tensor, "layer token feature"]:
        """Hidden states at some positions, with the layers in the order of the reads.

        Equals `hidden_states[layer][0, at]` of a Hugging Face forward, as float32. For an image: the cells of its views, without newline and
        separator tokens.

        Args:
            at: positions that the reads name, such as "image", "class" or "description"; any position if a read is of every position.

        Raises:
            NotScoped: the reads in scope do not include these positions, or the class was not traced.
        """
        if self.scope is None:
            return self._cells(self._traced.hidden(at))[:, 0].float()
        hidden = [read for read in self.scope if isinstance(read, probe.Hidden)]
        if naming := [read for read in hidden if isinstance(read.at, tuple) and at in read.at]:
            return self._cells(self._traced.hidden(at, layers=_union(naming)))[:, 0].float()
        if everywhere := [read for read in hidden if read.at is None]:
            # All layers are numbered here: the trace may hold named reads of other stages, which would come first.
            layers = _union(everywhere) or range(self._traced.depth[0])
            return self._cells(self._traced.hidden(at, layers=layers))[:, 0].float()
        raise self._not_scoped(f"the hidden state at {at!r}")

    def attention_rows(self, query: probe.Position, key: probe.Position) -> Float[Tensor, "layer query key"]:
        """Attention from the query tokens to the key tokens, averaged over the heads.

        Equals `attentions[layer][0].mean(0)[query][:, key]` of a Hugging Face forward with eager attention, as float32. For an image: the
        cells of its views.

        Raises:
            NotScoped: the reads in scope do not name that pair, or the class was not traced.
        """
        read = self._attention(query, key, ("mean", "all"))
        rows = self._cells(read)[:, 0].float()
        return rows.mean(1) if "head" in read.dims else rows

    def attention_heads(self, query: probe.Position, key: probe.Position) -> Float[Tensor, "layer head query key"]:
        """Attention from the query tokens to the key tokens, head by head, float32.

        Raises:
            NotScoped: the reads in scope do not name that pair with heads="all", or the class was not traced.
        """
        return self._cells(self._attention(query, key, ("all",)))[:, 0].float()

    def lens(self, at: probe.Position, words: str, *, logits: bool = False) -> Float[Tensor, "layer token word"]:
        """Log-probabilities (or logits) that the model's head gives hidden states: of each token of a span, at some positions.

        Equals `log_softmax(lm_head(norm(hidden_states[layer][0, at])))[..., ids of the span]` of Hugging Face, as float32.

        Args:
            at: positions that the reads of hidden states name.
            words: a span, such as "class"; it may hold a token several times.

        Raises:
            NotScoped: the reads in scope do not name these positions, or the class was not traced.
        """
        layers = _union(
            [read for read in self.scope or () if isinstance(read, probe.Hidden) and isinstance(read.at, tuple) and at in read.at]
        )
        if self.context is None or not layers:
            raise self._not_scoped(f"the lens at {at!r}")
        tokens = self._traced.tokens[0]
        ids = [tokens.ids[position] for position in tokens.span(words).positions]
        known = list(dict.fromkeys(ids))
        found = self._cells(self.context.lens(self._traced.hidden(at, layers=layers), known, logits=logits))[:, 0]
        return found[..., [known.index(token) for token in ids]]

    def of_question(self, question: str) -> Evidence:
        """The same evidence with the activations of another question about the image, which the fusion declared.

        Raises:
            NotScoped: the question was not asked.
        """
        if self.context is None or question not in self.context.questions:
            raise self._not_scoped(f"the question {question!r}")
        return replace(self, trace=self.context.questions[question])

    def vision(self) -> Float[Tensor, "row col feature"]:
        """The vision tower's patch features at the layer of the reads: `hidden_states[layer]` of the tower, float32.

        Of an image in tiles: those of the crop that shows it whole.

        Raises:
            NotScoped: the reads in scope name no layer of the tower or several; without a scope, several layers were read; the class was not
                traced.
            GridUnknown: it is not known where the tower's patches lie.
        """
        return self._patches().data[0].float()

    def vision_on_grid(self) -> Float[Tensor, "row col feature"]:
        """The features of `vision` on the cells of `grid`: of each cell the mean of the patches below it, weighed by the area that they share.

        Raises:
            NotScoped, GridUnknown: as `vision`.
        """
        patches = self._patches()
        assert patches.view is not None, "patches are folded"
        down, across = (area_shares(self.grid.intervals(axis), patches.view.intervals(axis)).to(patches.data) for axis in (0, 1))
        return torch.einsum("rp,pqf,cq->rcf", down.float(), patches.data[0].float(), across.float())

    def projected_on_grid(self) -> Float[Tensor, "row col feature"]:
        """The projected image tokens on the cells of `grid`, float32: what the language model receives.

        Raises:
            NotScoped: the reads in scope do not include them, or the class was not traced.
        """
        if self.scope is not None and probe.Projected() not in self.scope:
            raise self._not_scoped("the projected tokens")
        return self.fold_each(self._cells(self._traced.projected())[0].float().T).permute(1, 2, 0)

    def fold(self, values: Real[Tensor, "*cell"]) -> Real[Tensor, "row col"]:
        """A map from one value for each image token, in the order of `hidden("image")`.

        Of several views: their maps averaged, at the centres of the cells of `grid`, where the others are interpolated bilinearly.

        Raises:
            InvalidFusion: there is not one value for each cell.
        """
        count = sum(view.rows * view.cols for view in self._views)
        if values.shape != (count,):
            cells = " + ".join(f"{view.rows} x {view.cols}" for view in self._views)
            raise InvalidFusion(
                f"{self.name}: a tensor of shape {tuple(values.shape)} does not fold onto {cells} cells. "
                f"Reduce layers and features until one value is left for each of the {count} image tokens."
            )
        return self.fold_each(values)

    def fold_each(self, values: Real[Tensor, "*batch cell"]) -> Real[Tensor, "*batch row col"]:
        """A map from each row of values, as `fold` makes one."""
        parts = values.split([view.rows * view.cols for view in self._views], dim=-1)
        maps = [part.unflatten(-1, (view.rows, view.cols)) for part, view in zip(parts, self._views, strict=True)]
        if len(maps) == 1:
            return maps[0]
        sampled = [sample(values, view.sample_positions(self.grid)) for values, view in zip(maps, self._views, strict=True)]
        return torch.stack(sampled).mean(0)

    def maps(self) -> dict[str, Tensor]:
        """The maps that have been computed, by name."""
        return {name: value for name in MAPS if (value := getattr(self, name)) is not None}

    @property
    def relevance(self) -> Float[Tensor, "row col"] | None:
        """The map that compares synonyms and weights masks: D~, or the response if the fusion returned no D~."""
        return self.response if self.raw_distance is None else self.raw_distance

    def flagged(self, *names: str) -> Evidence:
        """The same evidence with these flags added; each flag occurs once."""
        return replace(self, flags=tuple(dict.fromkeys((*self.flags, *names))))

    @property
    def _views(self) -> tuple[probe.Grid, ...]:
        return self.views or (self.grid,)

    def _cells(self, read: probe.Activation) -> Tensor:
        """Of what was read at the image, the tokens of the views; of any other read, all."""
        if read.layout is None:
            return read.data
        tokens = [token for view in self._views for token in view.tokens]
        axis = read.dims.index("key" if "key" in read.dims else "token")
        if "layer" in read.dims and tokens == list(range(read.data.shape[axis])):
            return read.data  # all of them, stacked for this call
        return read.data.index_select(axis, torch.tensor(tokens, device=read.data.device))

    def _patches(self) -> probe.Activation:
        """The tower's patches at the layer of the reads, dims (batch, row, col, feature)."""
        if self.scope is None:
            layer, features = None, self._traced.vision()
            if "layer" in features.dims:
                raise NotScoped(
                    f"{self.name}: layers {', '.join(map(str, features.coords['layer']))} of the vision tower were read. "
                    "Choose one: evidence.scoped([probe.Vision(layers=...)]).vision()."
                )
        else:
            layers = [as_layers(read.layers, "Vision") for read in self.scope if isinstance(read, probe.Vision)]
            if len(layers) != 1 or layers[0] == "all" or len(layers[0]) != 1:
                raise self._not_scoped("one single layer of the vision tower")
            layer = layers[0][0]
            features = self._traced.vision(layer=layer)
        if features.layout is None:
            features = self._traced.vision(layer=layer, view="base")
        return features.grid()

    @property
    def _traced(self) -> probe.Trace:
        if self.trace is None:
            raise NotScoped(f"{self.name}: no activations were read for this class" + ("." if self.present else ": the answer is no."))
        return self.trace

    def _attention(self, query: probe.Position, key: probe.Position, heads: Sequence[Literal["all", "mean"]]) -> probe.Activation:
        """What was read of this pair, with the first of these treatments of heads that the reads in scope name."""
        if self.scope is None:
            return self._traced.attention(query=query, key=key, heads="all" if heads == ("all",) else None)
        pair = [read for read in self.scope if isinstance(read, probe.Attention) and (read.query, read.key) == ((query,), (key,))]
        for treatment in heads:
            reads = [read for read in pair if read.heads == treatment]
            if reads:
                return self._traced.attention(layers=_union(reads), query=query, key=key, heads=treatment)
        raise self._not_scoped(f"attention from {query!r} to {key!r} with heads={' or '.join(map(repr, heads))}")

    def _not_scoped(self, wanted: str) -> NotScoped:
        reads = ", ".join(repr(read) for read in self.scope or ()) or "none"
        return NotScoped(f"{self.name}: {wanted} is not among this stage's own reads: {reads}. Add a read that names it.")


def _union(reads: Sequence[probe.Hidden | probe.Attention]) -> list[int] | None:
    """The layers of several reads, in the order of the reads; None for all."""
    layers: list[int] = []
    for read in reads:
        numbers = as_layers(read.layers, type(read).__name__)
        if numbers == "all":
            return None
        layers += numbers
    return list(dict.fromkeys(layers))
