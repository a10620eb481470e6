"""Passes over the sequences of one session or of several, each session's behind its own prefix."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
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
        prefixes: one or more.
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
    def shared(self) -> list[int]:
        """For each item the length of its prefix."""
        return [len(self.prefixes[number]) for number in self.of]

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

    Lots share passes if their prefixes can be the rows of a batch, see `_joining`; each has as many items in one as it would have by itself.
    If memory runs out, half as many lots are tried.

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

    def run(group: Sequence[Lot[Item]]) -> list[list[Result]]:
        if len(group) == 1:
            return [batcher.map(group[0].items, _sizes(group[0], size), lambda items: together(_pass(runtime, group, [items])))]
        return _run_joined(runtime, group, [batcher.split(_sizes(lot, size)) for lot in group], together)

    for joined in _joining(runtime, [lot for lot in lots if lot.prefix is not None]):
        batcher = runtime.batcher(joined[0].policy, work)
        # A lot counts as its largest pass does.
        largest = [min(batcher.limit, len(lot.items) * max(_sizes(lot, size))) for lot in joined]
        for lot, done in zip(joined, runtime.batcher(joined[0].policy, "together").map(joined, largest, run), strict=True):
            results |= dict(zip(lot.numbers, done, strict=True))
    return [results[number] for number in sorted(results)]


def _run_joined(
    runtime: Runtime, group: Sequence[Lot[Item]], batches: Sequence[list[list[int]]], together: Callable[[Pass[Item]], list[Result]]
) -> list[list[Result]]:
    """The results of several lots, whose first batches share a pass, then their second ones, and so on.

    Args:
        batches: of each lot the indices of the items of each batch, as it would run them by itself.
    """
    results: list[dict[int, Result]] = [{} for _ in group]
    for turn in range(max(map(len, batches))):
        places = [place for place, own in enumerate(batches) if turn < len(own)]
        chosen = [batches[place][turn] for place in places]
        lots = [group[place] for place in places]
        items = [[lot.items[index] for index in own] for lot, own in zip(lots, chosen, strict=True)]
        done = iter(together(_pass(runtime, lots, items)))
        for place, own in zip(places, chosen, strict=True):
            results[place] |= dict(zip(own, islice(done, len(own)), strict=True))
    return [[own[index] for index in range(len(lot.items))] for lot, own in zip(group, results, strict=True)]


def _pass(runtime: Runtime, lots: Sequence[Lot[Item]], items: Sequence[Sequence[Item]]) -> Pass[Item]:
    """A pass over some items of each lot."""
    of = [place for place, own in enumerate(items) for _ in own]
    prefixes = [lot.prefix for lot in lots if lot.prefix is not None]
    return Pass(runtime, lots[0].policy, prefixes, of, [item for own in items for item in own], lots[0].edits)


def _sizes(lot: Lot[Item], size: Callable[[int], int]) -> list[int]:
    """What each item of a lot counts as."""
    return [] if lot.prefix is None else [size(len(tokens) - len(lot.prefix)) for tokens in lot.tokens]


def _joining(runtime: Runtime, lots: Sequence[Lot[Item]]) -> Iterable[list[Lot[Item]]]:
    """Lots whose prefixes can be rows of one batch: of similar length and equal kind, in a model whose rows do not change each other."""
    if len(lots) < 2:
        return [[lot] for lot in lots]
    by_kind: dict[Hashable, list[Lot[Item]]] = {}
    for number, lot in enumerate(lots):
        assert lot.prefix is not None
        reason = _alone_reason(runtime, lot.prefix, lot.edits)
        _say(reason)
        by_kind.setdefault(number if reason else (lot.policy, lot.prefix.shapes), []).append(lot)
    return [part for kind in by_kind.values() for similar in _by_length(kind) for part in _exact_parts(runtime, similar)]


def _by_length(lots: Iterable[Lot[Item]]) -> list[list[Lot[Item]]]:
    """Lots in groups, the shortest prefix first, none of them shorter than half of the longest: padding would cost more than is saved."""
    groups: list[list[Lot[Item]]] = []
    for lot in sorted(lots, key=_length):
        if not groups or 2 * _length(groups[-1][0]) < _length(lot):
            groups.append([])
        groups[-1].append(lot)
    return groups


def _length(lot: Lot[Item]) -> int:
    return len(lot.prefix or ())


def _exact_parts(runtime: Runtime, lots: list[Lot[Item]]) -> list[list[Lot[Item]]]:
    """Lots, the shortest prefix first, in parts that change nothing of each other: all, or those of equal length, or each by itself."""
    if len(lots) < 2 or _rows_are_exact(runtime, lots):
        return [lots]
    equal = [list(same) for _, same in groupby(lots, key=_length)]
    return [part for same in equal for part in _exact_parts(runtime, same)] if len(equal) > 1 else [[lot] for lot in lots]


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
"""Why prefixes of a model run one by one, by policy, kernel and whether their lengths differ, as a first comparison found out; "": they need not."""


def _rows_are_exact(runtime: Runtime, lots: Sequence[Lot[Item]]) -> bool:
    """Whether several prefixes in one batch give the logits that each gives alone, but for the order of sums. Compared once."""
    known = _REASONS.setdefault(runtime, {})
    padded = _length(lots[0]) < _length(lots[-1])
    key = (lots[0].policy, runtime.model.config._attn_implementation, padded)
    if key not in known:
        agree = _agree(runtime, lots[0], lots[-1])
        if agree is None:
            return False
        known[key] = "" if agree else f"{'padding changes' if padded else 'other rows of a batch change'} what this model computes"
    _say(known[key], "apart where their prefixes have other lengths" if padded else "image by image")
    return not known[key]


def _agree(runtime: Runtime, one: Lot[Item], other: Lot[Item]) -> bool | None:
    """Whether two lots have their own logits in a batch of both; None: not known, for these are not finite."""
    # Two sequences of the first one, where it has them, so that the row of the other is padded.
    chosen = [(place, tokens) for place, lot in enumerate((one, other)) for tokens in lot.tokens[: 1 if place else 2]]
    prefixes = [lot.prefix for lot in (one, other) if lot.prefix is not None]

    def logits(places: Sequence[int]) -> torch.Tensor:
        entries = [(places.index(place), tokens.ids[len(prefixes[place]) :]) for place, tokens in chosen if place in places]
        rows = Continuations(runtime, one.policy, [prefixes[place] for place in places], [row for row, _ in entries])
        return last_logits(runtime, rows.next_inputs([ids for _, ids in entries]))

    ours, theirs = logits([0, 1]), torch.cat([logits([0]), logits([1])])
    if not theirs.amax(-1).isfinite().all():
        return None
    possible = theirs > torch.finfo(theirs.dtype).min / 2  # some models ban tokens by the smallest number, or by -inf
    return near(ours[possible], theirs[possible])


def _say(reason: str, how: str = "image by image") -> None:
    if reason:
        warnings.warn(f"Questions about several images run {how}: {reason}.", stacklevel=2)


@contextmanager
def completing_not_finite(runtime: Runtime, encodings: Iterable[Encoding], edits: tuple[Edit, ...]) -> Iterator[None]:
    """Complete a NotFinite of a pass over these encodings by the layer where it begins."""
    try:
        yield
    except NotFinite as error:
        raise runtime.not_finite_with_layer(error, list(map(Batch.of, encodings)), edits) from error
