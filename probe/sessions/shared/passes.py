"""Passes over the sequences of one session or of several, each session's behind its own prefix."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from probe.backbones import Backbone
from probe.errors import NotFinite
from probe.inputs.encoding import Encoding
from probe.runtime import Batch, Runtime
from probe.sessions.continuations import Continuations, last_logits
from probe.sessions.kv_cache import only_keys
from probe.sessions.policies import PLACES_BY_CACHE
from probe.sessions.prefix import Prefix
from probe.tokens.equality import near
from probe.tokens.spans import TokenMap
from probe.tracing.edits import Edit

Item = TypeVar("Item")
Owner = TypeVar("Owner", bound=Hashable)
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Lot(Generic[Item]):
    """What is asked of one session.

    Attributes:
        policy: the session's.
        prefix: of all items; None: each runs alone.
        edits: in force for all of them.
        numbers: of the items among all that are asked.
        items: one or more.
        tokens: of each item, the prefix included.
    """

    policy: str
    prefix: Prefix | None
    edits: tuple[Edit, ...]
    numbers: Sequence[int]
    items: Sequence[Item]
    tokens: Sequence[TokenMap]


@dataclass(frozen=True, eq=False)
class Pass(Generic[Item]):
    """Items that go through the model together.

    Attributes:
        policy: how the sequences of a prefix share it.
        prefixes: of equal length.
        of: for each item the number of its prefix, in ascending order.
        edits: in force for all of them.
    """

    runtime: Runtime
    policy: str
    prefixes: Sequence[Prefix]
    of: Sequence[int]
    items: Sequence[Item]
    edits: tuple[Edit, ...]

    @property
    def shared(self) -> int:
        """The length of each prefix."""
        return len(self.prefixes[0])

    def continuations(self, steps: int = 0) -> Continuations:
        """The items as sequences after their prefixes; see `Continuations`."""
        return Continuations(self.runtime, self.policy, self.prefixes, self.of, steps)


def lots_of(asked: Sequence[tuple[Owner, Item]], lot_of: Callable[[Owner, Sequence[int], Sequence[Item]], Lot[Item]]) -> list[Lot[Item]]:
    """What is asked of several sessions, as a lot for each.

    Args:
        asked: sessions, each with an item.
        lot_of: the lot of a session, from the numbers of its items and these.
    """
    numbers: dict[Owner, list[int]] = {}
    for number, (owner, _) in enumerate(asked):
        numbers.setdefault(owner, []).append(number)
    return [lot_of(owner, own, [asked[number][1] for number in own]) for owner, own in numbers.items()]


def run_lots(
    runtime: Runtime,
    work: str,
    lots: Sequence[Lot[Item]],
    alone: Callable[[Item, tuple[Edit, ...]], Result],
    together: Callable[[Pass[Item]], list[Result]],
    size: Callable[[int], int] = lambda length: length,
) -> list[Result]:
    """The results of all items of all lots, in the order of their numbers.

    Lots whose items fit into one pass share it, if their prefixes can be the rows of a batch; see `_joining`.

    Args:
        work: the kind of work, as `Runtime.batcher` knows it.
        alone: the result of an item without a prefix, under edits.
        together: the results of the items of a pass.
        size: what an item counts as that has so many tokens after its prefix.
    """
    results: dict[int, Result] = {}
    for lot in lots:
        if lot.prefix is None:
            results |= {number: alone(item, lot.edits) for number, item in zip(lot.numbers, lot.items, strict=True)}
    for group in _groups(runtime, work, [lot for lot in lots if lot.prefix is not None], size):
        results |= _run_group(runtime, work, group, together, size)
    return [results[number] for number in sorted(results)]


def _run_group(
    runtime: Runtime, work: str, group: Sequence[Lot[Item]], together: Callable[[Pass[Item]], list[Result]], size: Callable[[int], int]
) -> dict[int, Result]:
    """The results of lots that share a pass, or of one that may need several, by the numbers of their items."""
    prefixes = [lot.prefix for lot in group if lot.prefix is not None]
    items, of = [item for lot in group for item in lot.items], [place for place, lot in enumerate(group) for _ in lot.items]
    sizes, batcher = _sizes(group, size), runtime.batcher(group[0].policy, work)

    def run(batch: Sequence[Item]) -> list[Result]:
        return together(Pass(runtime, group[0].policy, prefixes, of[: len(batch)], batch, group[0].edits))

    done = batcher.map(items, sizes, run) if len(group) == 1 else batcher.attempt(items, max(sizes), run)
    if done is None:  # memory ran out
        halves = group[: len(group) // 2], group[len(group) // 2 :]
        return {number: result for half in halves for number, result in _run_group(runtime, work, half, together, size).items()}
    return dict(zip([number for lot in group for number in lot.numbers], done, strict=True))


def _sizes(group: Sequence[Lot[Item]], size: Callable[[int], int]) -> list[int]:
    """What each item of some lots counts as."""
    return [size(len(tokens) - len(lot.prefix)) for lot in group if lot.prefix is not None for tokens in lot.tokens]


def _groups(runtime: Runtime, work: str, lots: Sequence[Lot[Item]], size: Callable[[int], int]) -> Iterator[list[Lot[Item]]]:
    """Lots that share passes: as many as fit into one, or a single one of any size."""
    for joined in _joining(runtime, lots):
        limit = runtime.batcher(joined[0].policy, work).limit
        group: list[Lot[Item]] = []
        for lot in joined:
            sizes = _sizes([*group, lot], size)
            if group and len(sizes) * max(sizes) > limit:
                yield group
                group = []
            group = [*group, lot]
        yield group


def _joining(runtime: Runtime, lots: Sequence[Lot[Item]]) -> Iterable[list[Lot[Item]]]:
    """Lots whose prefixes can be rows of one batch: of equal length and shape, in a model whose rows do not change each other."""
    if len(lots) < 2:
        return [[lot] for lot in lots]
    by_kind: dict[Hashable, list[Lot[Item]]] = {}
    for number, lot in enumerate(lots):
        assert lot.prefix is not None
        reason = _alone_reason(runtime, lot.prefix, lot.edits)
        _say(reason)
        by_kind.setdefault(number if reason else (lot.policy, lot.prefix.shapes), []).append(lot)
    return [
        part
        for kind in by_kind.values()
        for part in ([kind] if len(kind) < 2 or _rows_are_exact(runtime, kind) else [[lot] for lot in kind])
    ]


def _alone_reason(runtime: Runtime, prefix: Prefix, edits: Sequence[Edit]) -> str:
    """Why a prefix shares no pass with others; "" if it may."""
    backbone = runtime.backbone
    if backbone.alone_reason:
        return backbone.alone_reason
    if type(backbone).suffix_inputs is not Backbone.suffix_inputs:
        return "its tokens after an image need inputs of that image"
    if backbone.counts_cached:
        return PLACES_BY_CACHE
    if edits:
        return "edits name positions of one image's prompts"
    return "" if only_keys(prefix.cache.layers) else "the cache has layers of other kinds than keys and values"


_REASONS: weakref.WeakKeyDictionary[Runtime, dict[Hashable, str]] = weakref.WeakKeyDictionary()
"""Why prefixes of a model run one by one, by policy and kernel, as a first comparison found out; "" if they need not."""


def _rows_are_exact(runtime: Runtime, lots: Sequence[Lot[Item]]) -> bool:
    """Whether several prefixes in one batch give the logits that each gives alone, but for the order of sums. Compared once."""
    known = _REASONS.setdefault(runtime, {})
    key = (lots[0].policy, runtime.model.config._attn_implementation)
    if key not in known:
        agree = _agree(runtime, lots)
        if agree is None:
            return False
        known[key] = "" if agree else "other rows of a batch change what this model computes"
    _say(known[key])
    return not known[key]


def _agree(runtime: Runtime, lots: Sequence[Lot[Item]]) -> bool | None:
    """Whether the first and the last of several lots have their own logits in a batch; None: not known, for these are not finite."""
    # Two sequences of the first one, where it has them, so that the row of the last is padded.
    chosen = [(place, tokens) for place, lot in enumerate(lots) for tokens in lot.tokens[: 1 if place else 2]]
    prefixes = [lot.prefix for lot in lots if lot.prefix is not None]

    def logits(places: Sequence[int]) -> torch.Tensor:
        entries = [(places.index(place), tokens.ids[len(prefixes[place]) :]) for place, tokens in chosen if place in places]
        rows = Continuations(runtime, lots[0].policy, [prefixes[place] for place in places], [row for row, _ in entries])
        return last_logits(runtime, rows.next_inputs([ids for _, ids in entries]))

    first, last, every = logits([0]), logits([len(lots) - 1]), logits(range(len(lots)))
    ours, theirs = torch.cat([every[: len(first)], every[-len(last) :]]), torch.cat([first, last])
    if not theirs.amax(-1).isfinite().all():
        return None
    possible = theirs > torch.finfo(theirs.dtype).min / 2  # some models ban tokens by the smallest number, or by -inf
    return near(ours[possible], theirs[possible])


def _say(reason: str) -> None:
    if reason:
        warnings.warn(f"Questions about several images run image by image: {reason}.", stacklevel=2)


@contextmanager
def completing_not_finite(runtime: Runtime, encodings: Iterable[Encoding], edits: tuple[Edit, ...]) -> Iterator[None]:
    """Complete a NotFinite of a pass over these encodings by the layer where it begins."""
    try:
        yield
    except NotFinite as error:
        raise runtime.not_finite_with_layer(error, list(map(Batch.of, encodings)), edits) from error
