"""How questions share the part of the prompt that shows the image: one row that a mask keeps apart, or the rows of a batch."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import DynamicCache

from probe.backbones import Backbone
from probe.generation import unsupported_generation_settings
from probe.inputs.encoding import Encoding
from probe.sessions.kv_cache import GrowingLayer
from probe.tokens.spans import TokenMap
from probe.tracing.hooks import ModelState
from probe.tracing.resolving import Indices, SequenceSlot


@dataclass(frozen=True, eq=False)
class Prefix:
    """What all prompts of a session begin with, up to the last image token, read by the model once.

    Attributes:
        tokens: what each of its positions is.
        inputs: what the model's forward took for it.
        cache: the keys and values of every block. Never handed to the model again: a forward appends to the cache that it is given.
        position: the rotary position of the token that follows.
        model_state: of the model that read it, see `probe.tracing.hooks.ModelState`.
        hidden: (layer, positions) -> hidden states (token, feature) that were read of it.
        vision: layer -> the tower's states that were read.
    """

    tokens: TokenMap
    inputs: Mapping[str, Any]
    cache: DynamicCache
    position: int
    model_state: ModelState
    hidden: dict[tuple[int, Indices], Tensor] = field(default_factory=dict)
    vision: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def begins(self, encoding: Encoding) -> bool:
        """Whether a prompt goes on from here: the same tokens, and the very same pictures."""
        same = encoding.tokens.ids[: len(self)] == self.tokens.ids and len(encoding.tokens) > len(self)
        return same and all(encoding.inputs.get(name) is value for name, value in self.inputs.items() if name not in encoding.token_inputs)

    def fork(self, room: int) -> tuple[DynamicCache, list[GrowingLayer]]:
        """A cache that can be appended to, and its layers; the prefix's own tensors are neither copied nor changed.

        Args:
            room: tokens that each layer makes room for when it has to grow.
        """
        made = copy.copy(self.cache)
        layers = [GrowingLayer(layer, room) for layer in self.cache.layers]
        made.layers = list(layers)
        return made, layers


@dataclass(frozen=True)
class PackedInputs:
    """New tokens of several sequences, as the model takes them.

    Attributes:
        inputs: the forward's keyword arguments.
        slots: where each sequence's new tokens are.
        last: for each sequence (row, index) of its last token.
    """

    inputs: dict[str, Any]
    slots: tuple[SequenceSlot, ...]
    last: tuple[tuple[int, int], ...]


class Continuations(ABC):
    """Sequences that go on from one prefix, each as if it were alone.

    Args:
        count: how many.
        steps: how often each may get one more token, behind those that it is fed first.
    """

    policy: ClassVar[str]

    def __init__(self, model: Any, backbone: Backbone, prefix: Prefix, count: int, steps: int = 0) -> None:
        self._model, self._backbone, self._prefix = model, backbone, prefix
        self._cache, self._layers = prefix.fork(self._tokens_a_step(count) * min(steps, _STEPS))
        self._fed = [0] * count
        self._windows = _windows(model.config.get_text_config(decoder=True))

    @staticmethod
    @abstractmethod
    def _tokens_a_step(count: int) -> int:
        """How much longer the cache's rows get when each of `count` sequences gets a token."""

    @abstractmethod
    def next_inputs(self, tokens: Sequence[Sequence[int]]) -> PackedInputs:
        """The next tokens of each sequence, one or more; the model must be run on them before the next call."""

    @abstractmethod
    def select_sequences(self, kept: Sequence[int]) -> None:
        """Go on with some of the sequences, in this order; the others' keys are given up."""

    def _inputs(self, ids: Int[Tensor, "row token"], index: Int[Tensor, "row token"], visible: Mapping[str, Tensor]) -> dict[str, Any]:
        """The forward's arguments for tokens at these places in their sequences, counted behind the prefix."""
        positions = index + self._prefix.position
        masks: Any = {kind: self._as_kernel_takes(mask) for kind, mask in visible.items()}
        mask = masks if len(masks) > 1 else next(iter(masks.values()))
        length = next(iter(visible.values())).shape[-1]
        extra = self._backbone.suffix_inputs(self._model, self._prefix.inputs, positions, length)
        return {"input_ids": ids, "attention_mask": mask, "past_key_values": self._cache, "use_cache": True, **extra}

    def _as_kernel_takes(self, visible: Bool[Tensor, "row token key"]) -> Tensor:
        mask = visible[:, None]
        if self._model.config.get_text_config(decoder=True)._attn_implementation == "sdpa":
            return mask
        dtype = self._model.dtype  # eager adds its mask to the scores
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

    def _visible(
        self, own: Bool[Tensor, "row token key"], query: Int[Tensor, "row token"], key: Int[Tensor, "row key"]
    ) -> dict[str, Bool[Tensor, "row token key"]]:
        """For each kind of layer what every token sees: of its own sequence's keys those that are not behind it nor out of the window.

        Args:
            own: which keys are the token's own sequence's.
            query, key: their places in their sequences.
        """
        behind = query[:, :, None] - key[:, None, :]
        seen = own & (behind >= 0)
        return {kind: seen if window is None else seen & (behind < window) for kind, window in self._windows.items()}

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._model.device)


def _windows(text: Any) -> dict[str, int | None]:
    """Kind of layer -> how many keys back it sees; None: all. More than one entry only where the model takes a mask for each kind."""
    kinds = dict.fromkeys(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None)
    if "sliding_attention" in kinds:
        return {kind: window if kind == "sliding_attention" else None for kind in ("full_attention", "sliding_attention")}
    return {"full_attention": None if kinds else window}


_STEPS = 32  # that a cache makes room for at a time: few copies of it, and little memory that waits

_EVERYONE, _NOBODY = -1, -2  # in place of a sequence's number: the prefix's keys, and those of sequences that were given up


class Packed(Continuations):
    """All sequences in one row, behind one prefix; a mask lets each token see the prefix and its own sequence."""

    policy = "packed"

    @staticmethod
    def _tokens_a_step(count: int) -> int:
        return count

    def __init__(self, model: Any, backbone: Backbone, prefix: Prefix, count: int, steps: int = 0) -> None:
        super().__init__(model, backbone, prefix, count, steps)
        self._owner = self._tensor([_EVERYONE] * len(prefix))
        self._index = self._tensor(range(-len(prefix), 0))

    def next_inputs(self, tokens: Sequence[Sequence[int]]) -> PackedInputs:
        starts = [0]
        for new in tokens:
            starts.append(starts[-1] + len(new))
        owner = self._tensor([sequence for sequence, new in enumerate(tokens) for _ in new])
        index = self._tensor([fed + i for fed, new in zip(self._fed, tokens, strict=True) for i in range(len(new))])
        slots = tuple(SequenceSlot(0, start - fed, len(self._prefix)) for start, fed in zip(starts, self._fed, strict=False))
        self._owner, self._index = torch.cat([self._owner, owner]), torch.cat([self._index, index])
        self._fed = [fed + len(new) for fed, new in zip(self._fed, tokens, strict=True)]
        own = (self._owner[None] == owner[:, None]) | (self._owner == _EVERYONE)[None]
        visible = self._visible(own[None], index[None], self._index[None])
        ids = self._tensor([token for new in tokens for token in new])
        last = tuple((0, stop - 1) for stop in starts[1:])
        return PackedInputs(self._inputs(ids[None], index[None], visible), slots, last)

    def select_sequences(self, kept: Sequence[int]) -> None:
        fresh = torch.full((len(self._fed) + 2,), _NOBODY, device=self._owner.device)  # its last two entries: of _NOBODY and _EVERYONE
        fresh[self._tensor(kept)] = self._tensor(range(len(kept)))
        fresh[_EVERYONE] = _EVERYONE
        self._owner = fresh[self._owner]
        self._fed = [self._fed[sequence] for sequence in kept]
        alive = (self._owner != _NOBODY).nonzero().flatten()
        if 2 * (len(alive) - len(self._prefix)) > len(self._owner) - len(self._prefix):
            return  # moving the keys costs more than looking past the dead ones
        for layer in self._layers:
            there = alive.to(layer.keys.device)  # a model may lie on several devices
            layer.hold(layer.keys[:, :, there], layer.values[:, :, there])
        self._owner, self._index = self._owner[alive], self._index[alive]


class Batched(Continuations):
    """Each sequence in a row of its own, behind a copy of the prefix; shorter ones are filled up on the right."""

    policy = "batched"

    @staticmethod
    def _tokens_a_step(count: int) -> int:
        return 1

    def __init__(self, model: Any, backbone: Backbone, prefix: Prefix, count: int, steps: int = 0) -> None:
        super().__init__(model, backbone, prefix, count, steps)
        for layer in self._layers:
            layer.hold(layer.keys.expand(count, -1, -1, -1), layer.values.expand(count, -1, -1, -1))
        self._real = torch.ones(count, len(prefix), dtype=torch.bool, device=model.device)
        self._index = self._tensor(range(-len(prefix), 0)).expand(count, -1)

    def next_inputs(self, tokens: Sequence[Sequence[int]]) -> PackedInputs:
        width = max(map(len, tokens))
        ids = self._tensor([[*new, *[0] * (width - len(new))] for new in tokens])
        # What fills a row up sees what its last token sees: a token that sees nothing would have no attention, but not-a-numbers.
        index = self._tensor([[fed + min(i, len(new) - 1) for i in range(width)] for fed, new in zip(self._fed, tokens, strict=True)])
        real = self._tensor(range(width))[None] < self._tensor([len(new) for new in tokens])[:, None]
        slots = tuple(SequenceSlot(row, -fed, len(self._prefix)) for row, fed in enumerate(self._fed))
        self._real, self._index = torch.cat([self._real, real], 1), torch.cat([self._index, index], 1)
        self._fed = [fed + len(new) for fed, new in zip(self._fed, tokens, strict=True)]
        visible = self._visible(self._real[:, None].expand(-1, width, -1), index, self._index)
        last = tuple((row, len(new) - 1) for row, new in enumerate(tokens))
        return PackedInputs(self._inputs(ids, index, visible), slots, last)

    def select_sequences(self, kept: Sequence[int]) -> None:
        if list(kept) == list(range(len(self._fed))):
            return
        rows = self._tensor(kept)
        for layer in self._layers:
            there = rows.to(layer.keys.device)
            layer.hold(layer.keys[there], layer.values[there])
        self._real, self._index = self._real[rows], self._index[rows]
        self._fed = [self._fed[row] for row in kept]


POLICIES: dict[str, type[Continuations]] = {kind.policy: kind for kind in (Packed, Batched)}


def offered_policies(model: Any, backbone: Backbone) -> tuple[tuple[str, ...], str]:
    """The policies that a model can honour, the best first, and why there are not more."""
    if not backbone.prefix:
        return (), "no sharing is declared for its family"
    text = model.config.get_text_config(decoder=True)
    kernel = text._attn_implementation
    if kernel not in _MASKED_KERNELS:
        return (), f"the kernel {kernel} takes no mask; load with attn_implementation='sdpa'"
    strange = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if strange or getattr(text, "use_bidirectional_attention", False):
        return (), f"no mask of ours fits its decoder's layers of {', '.join(sorted(strange)) or 'attention in both directions'}"
    strange = set(unsupported_generation_settings(model.generation_config))
    if strange:
        return (), f"its generation settings have {', '.join(sorted(strange))}, which decoding together does not follow"
    return backbone.prefix, ""


_MASKED_KERNELS = ("sdpa", "eager")


def max_rope_length(config: Any) -> float:
    """How long a sequence may be so that its length does not change the rotary frequencies: those of a prefix were chosen by its own."""
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if rope.get("rope_type") not in ("dynamic", "longrope"):
        return float("inf")
    return float(rope.get("original_max_position_embeddings") or text.max_position_embeddings)
