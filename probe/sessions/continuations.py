"""Continuations: several sequences that continue a prefix, each as if it were alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probe.runtime import Runtime
from probe.sessions.kv_cache import GrowingLayer, only_keys
from probe.sessions.masks import FULL, mask_reaches
from probe.sessions.prefix import Prefix, fork
from probe.tracing.edits import EditPlan
from probe.tracing.slots import SequenceSlot

PACKED, BATCHED = "packed", "batched"
"""Policies: the sequences of a prefix in one row, or each in a row of its own."""

_TOKENS_A_GROWTH = 32  # that a cache allocates at a time: few copies of it, and little unused memory
_PREFIX, _DROPPED = -1, -2  # in place of a sequence's number: keys that all of a row see, and that none sees


@dataclass(frozen=True)
class PackedInputs:
    """New tokens of several sequences, as the model takes them.

    Attributes:
        inputs: the forward's keyword arguments.
        slots: where each sequence's new tokens are.
        last: for each sequence (row, index) of its last token.
    """

    inputs: Mapping[str, object]
    slots: tuple[SequenceSlot, ...]
    last: tuple[tuple[int, int], ...]


class Continuations:
    """Sequences that continue prefixes, in the rows of one batch. Each sees its own prefix and its own tokens, by a mask.

    Rows with fewer new tokens than others are padded behind them, those with a shorter prefix before it.

    Args:
        policy: "packed" puts all sequences of a prefix into one row, "batched" each into a row of its own.
        prefixes: several of them only if their caches hold keys and values alone.
        of: for each sequence the number of its prefix. Each prefix has at least one.
        steps: how many tokens each sequence may get one at a time, after those of the first `next_inputs`.
    """

    def __init__(self, runtime: Runtime, policy: str, prefixes: Sequence[Prefix], of: Sequence[int], steps: int = 0) -> None:
        self._runtime, self._inputs_before = runtime, prefixes[0].inputs
        in_rows = list(prefixes) if policy == PACKED else [prefixes[number] for number in of]
        self._shared = list(map(len, in_rows))  # of each row, the length of its prefix
        self._padding = [max(self._shared) - length for length in self._shared]  # keys before a shorter one
        self._rows = list(of) if policy == PACKED else list(range(len(of)))  # of each sequence
        most = max(map(self._rows.count, range(len(in_rows))))
        self._cache, self._layers = fork(in_rows, most * min(steps, _TOKENS_A_GROWTH))
        self._lengths = [0] * len(of)
        self._reaches = mask_reaches(runtime.model.config)
        self._device = runtime.model.device  # Hugging Face looks for it among the parameters each time
        self._position, self._first = self._tensor([[[prefix.position], [len(prefix)]] for prefix in in_rows]).unbind(1)
        # For each row and key in the cache: the sequence that it belongs to, and its index there.
        self._owner = self._tensor([[_DROPPED] * more + [_PREFIX] * own for more, own in zip(self._padding, self._shared, strict=True)])
        self._index = self._tensor(range(-max(self._shared), 0)).repeat(len(in_rows), 1)
        self._ends: list[int] = []  # of each sequence's tokens in the last pass, on the token axis
        self._width = 0  # of the last pass

    @property
    def padded(self) -> bool:
        """Whether sequences may get different numbers of tokens at once, and more after that.

        Recurrent states take in padding, and some forwards place a token by how many the cache has.
        """
        return len(self._owner) == 1 or self.can_drop

    @property
    def can_drop(self) -> bool:
        """Whether tokens can be taken back: a mask leaves out keys, but a recurrent state, or an indexer, keeps what it has read."""
        return not self._runtime.backbone.counts_cached and only_keys(self._layers)

    def next_inputs(self, tokens: Sequence[Sequence[int]], *, with_keys: bool = False) -> PackedInputs:
        """The inputs for the next tokens of each sequence, one or more. Run the model on them before the next call.

        Args:
            with_keys: whether the slots have to say where the keys of earlier tokens are, as edits need it.
        """
        before, starts = list(self._lengths), [0] * len(tokens)
        self._lengths = [length + len(new) for length, new in zip(before, tokens, strict=True)]
        rows = [_Row() for _ in self._owner]
        for sequence, (new, row) in enumerate(zip(tokens, self._rows, strict=True)):
            starts[sequence] = len(rows[row].ids)
            rows[row].add(sequence, new, before[sequence])
        self._width = max(len(row.ids) for row in rows)
        ids, asking, index, owner = self._tensor(list(zip(*(row.padded(self._width) for row in rows), strict=True)))
        self._owner, self._index = torch.cat([self._owner, owner], 1), torch.cat([self._index, index], 1)
        own = (self._owner[:, None] == asking[:, :, None]) | (self._owner == _PREFIX)[:, None]
        visible = self._visible(own, index, self._index)
        self._ends = [start + len(new) for start, new in zip(starts, tokens, strict=True)]
        slots = tuple(
            SequenceSlot(
                row,
                start - length,
                self._shared[row],
                length,
                self._keys_of(sequence) if length and with_keys else None,
                self._padding[row],
            )
            for sequence, (row, start, length) in enumerate(zip(self._rows, starts, before, strict=True))
        )
        return PackedInputs(
            self._inputs(ids, index, visible), slots, tuple((slot.row, end - 1) for slot, end in zip(slots, self._ends, strict=True))
        )

    def drop_last(self, counts: Sequence[int]) -> None:
        """Take back the last tokens of each sequence, so many of those of the last `next_inputs`. Only if it `can_drop`."""
        first = self._owner.shape[1] - self._width
        dropped = [
            (row, first + end - 1 - number)
            for row, end, count in zip(self._rows, self._ends, counts, strict=True)
            for number in range(count)
        ]
        rows, keys = self._tensor(dropped).T
        self._owner[rows, keys] = _DROPPED
        self._lengths = [length - count for length, count in zip(self._lengths, counts, strict=True)]

    def select_sequences(self, kept: Sequence[int]) -> None:
        """Keep these sequences, in this order; drop the others' keys and values."""
        # The last two entries are those of _DROPPED and _PREFIX.
        renumbered = torch.full((len(self._lengths) + 2,), _DROPPED, device=self._owner.device)
        renumbered[self._tensor(kept)] = self._tensor(range(len(kept)))
        renumbered[_PREFIX] = _PREFIX
        self._owner = renumbered[self._owner]
        self._lengths, self._rows = [self._lengths[sequence] for sequence in kept], [self._rows[sequence] for sequence in kept]
        self._drop_rows()
        self._drop_keys()

    def _drop_rows(self) -> None:
        """Drop the rows without a sequence."""
        kept = sorted(set(self._rows))
        if len(kept) == len(self._owner):
            return
        self._rows, rows = [kept.index(row) for row in self._rows], self._tensor(kept)
        for layer in self._layers:
            layer.reorder_cache(rows)
        self._owner, self._index = self._owner[rows], self._index[rows]
        self._position, self._first = self._position[rows], self._first[rows]
        self._shared, self._padding = [self._shared[row] for row in kept], [self._padding[row] for row in kept]

    def _drop_keys(self) -> None:
        """Move the keys together that are still seen, if that costs less than masking the others."""
        length, own = self._owner.shape[1], [0] * len(self._shared)
        for row, tokens in zip(self._rows, self._lengths, strict=True):
            own[row] += tokens
        if 2 * max(own) > length - max(self._shared):
            return
        growing = [layer for layer in self._layers if isinstance(layer, GrowingLayer) and layer.is_initialized]
        if not only_keys(self._layers) or any(layer.keys.shape[-2] != length for layer in growing):
            return  # an indexer has keys of its own, and a block of cross-attention has those of the image
        most = max(map(add, self._shared, own))
        if most == length:
            return
        alive = (self._owner == _DROPPED).byte().argsort(dim=1, stable=True)[:, :most]
        for layer in growing:
            indices = alive.to(layer.keys.device)  # a model may lie on several devices
            layer.hold(_columns(layer.keys, indices), _columns(layer.values, indices))
        self._owner, self._index = self._owner.gather(1, alive), self._index.gather(1, alive)
        self._padding = [0] * len(self._padding)

    def _keys_of(self, sequence: int) -> tuple[int, ...]:
        """The key-axis indices of a sequence's own tokens, in order."""
        return tuple((self._owner[self._rows[sequence]] == sequence).nonzero().flatten().tolist())

    def _inputs(
        self, ids: Int[Tensor, "row token"], index: Int[Tensor, "row token"], visible: Mapping[str, Tensor | None]
    ) -> dict[str, object]:
        """The forward's arguments for tokens at these indices of their sequences, counted from the end of the prefix."""
        positions = index + self._position
        masks: Any = {kind: None if mask is None else self._kernel_mask(mask) for kind, mask in visible.items()}
        mask = masks if len(masks) > 1 else masks[FULL]
        length = masks[FULL].shape[-1]
        extra = self._runtime.backbone.suffix_inputs(self._runtime.model, self._inputs_before, positions, length)
        return {"input_ids": ids, "attention_mask": mask, self._runtime.cache_argument: self._cache, "use_cache": True, **extra}

    def _kernel_mask(self, visible: Bool[Tensor, "row token key"]) -> Tensor:
        """The mask in the form that the attention kernel takes."""
        mask = visible[:, None]
        model = self._runtime.model
        if model.config.get_text_config(decoder=True)._attn_implementation == "sdpa":
            return mask
        # Eager attention adds its mask to the scores.
        return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, torch.finfo(model.dtype).min)

    def _visible(
        self, own: Bool[Tensor, "row token key"], query: Int[Tensor, "row token"], key: Int[Tensor, "row key"]
    ) -> dict[str, Tensor | None]:
        """The causal mask (row, token, key) of each kind of layer, within its own sequence and as far as it reaches; None: it takes none.

        Args:
            own: which keys belong to the query's own sequence or the prefix.
            query, key: indices within the sequences.
        """
        causal = own & (query[:, :, None] >= key[:, None, :])
        query, key = query + self._first, key + self._first
        return {kind: None if reach is None else causal & reach.seen(query, key) for kind, reach in self._reaches.items()}

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


class _Row:
    """The new tokens of the sequences of one row."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._owner: list[int] = []
        self._index: list[int] = []

    def add(self, sequence: int, tokens: Sequence[int], first: int) -> None:
        """Put the tokens of a sequence behind the others', which have these indices in it from `first` on."""
        self.ids += tokens
        self._owner += [sequence] * len(tokens)
        self._index += range(first, first + len(tokens))

    def padded(self, width: int) -> tuple[list[int], list[int], list[int], list[int]]:
        """For each token its id, the sequence whose keys it sees, its index there, and the sequence that its own key belongs to."""
        # Padding sees what the last token sees: attention over no key at all would be NaN.
        missing = width - len(self.ids)
        asking, index = self._owner + self._owner[-1:] * missing, self._index + self._index[-1:] * missing
        return self.ids + [0] * missing, asking, index, self._owner + [_DROPPED] * missing


def _columns(states: Float[Tensor, "row head key feature"], indices: Int[Tensor, "row kept"]) -> Float[Tensor, "row head kept feature"]:
    """Some keys of each row."""
    return torch.stack([row[:, own] for row, own in zip(states, indices, strict=True)])


def last_logits(
    runtime: Runtime, packed: PackedInputs, edits: EditPlan | None = None, counts: Sequence[int] | None = None
) -> Float[Tensor, "token vocabulary"]:
    """Run the model on packed inputs: the logits of the last tokens of each sequence, sequence by sequence.

    Args:
        edits: that are in force.
        counts: how many tokens of each; None: one.
    """
    wanted = [
        (row, index)
        for (row, last), count in zip(packed.last, counts or [1] * len(packed.last), strict=True)
        for index in range(last + 1 - count, last + 1)
    ]
    indices = sorted({index for _, index in wanted})
    # The indices stay on the CPU, which can index a tensor on any device: the last block may lie on another than the first.
    inputs = {**packed.inputs, "logits_to_keep": torch.tensor(indices, dtype=torch.long)}
    with runtime.engine.lock, torch.no_grad():
        output = runtime.engine.run_edited(lambda given: runtime.model(**given), inputs, edits, packed.slots) if edits else None
        logits: Tensor = (output or runtime.model(**inputs)).logits
    every = logits.shape[1] > len(indices)  # some forwards compute all logits, whatever they are asked for
    places = {index: index if every else place for place, index in enumerate(indices)}
    rows, cols = torch.tensor([(row, places[index]) for row, index in wanted], device=logits.device).T
    return logits[rows, cols]
