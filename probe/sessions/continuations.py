"""Continuations: several sequences that continue one prefix, each as if it were alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PretrainedConfig

from probe.runtime import Runtime
from probe.sessions.kv_cache import only_keys
from probe.sessions.prefix import Prefix
from probe.tracing.edits import EditPlan
from probe.tracing.slots import SequenceSlot

_TOKENS_A_GROWTH = 32  # that a cache allocates at a time: few copies of it, and little unused memory


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


class Continuations(ABC):
    """Sequences that continue one prefix. Each sees the prefix and its own tokens.

    Args:
        count: how many sequences.
        steps: how many tokens each may get one at a time, after those of the first `next_inputs`.
    """

    policy: ClassVar[str]

    def __init__(self, runtime: Runtime, prefix: Prefix, count: int, steps: int = 0) -> None:
        self._runtime, self._prefix = runtime, prefix
        self._cache, self._layers = prefix.fork(self._growth(count) * min(steps, _TOKENS_A_GROWTH))
        self._lengths = [0] * count
        self._reaches = mask_reaches(runtime.model.config)

    @property
    def padded(self) -> bool:
        """Whether sequences may get different numbers of tokens at once, and more after that."""
        return True

    @property
    def can_drop(self) -> bool:
        """Whether tokens can be taken back: a mask leaves out keys, but a recurrent state, or an indexer, keeps what it has read."""
        return only_keys(self._layers)

    @staticmethod
    @abstractmethod
    def _growth(count: int) -> int:
        """By how many tokens the cache's rows grow when each of `count` sequences gets one."""

    @abstractmethod
    def next_inputs(self, tokens: Sequence[Sequence[int]], *, with_keys: bool = False) -> PackedInputs:
        """The inputs for the next tokens of each sequence, one or more. Run the model on them before the next call.

        Args:
            with_keys: whether the slots have to say where the keys of earlier tokens are, as edits need it.
        """

    @abstractmethod
    def drop_last(self, counts: Sequence[int]) -> None:
        """Take back the last tokens of each sequence, so many of those of the last `next_inputs`. Only if it `can_drop`."""

    @abstractmethod
    def select_sequences(self, kept: Sequence[int]) -> None:
        """Keep these sequences, in this order; drop the others' keys and values."""

    def _inputs(
        self, ids: Int[Tensor, "row token"], index: Int[Tensor, "row token"], visible: Mapping[str, Tensor | None]
    ) -> dict[str, object]:
        """The forward's arguments for tokens at these indices of their sequences, counted from the end of the prefix."""
        positions = index + self._prefix.position
        masks: Any = {kind: None if mask is None else self._kernel_mask(mask) for kind, mask in visible.items()}
        mask = masks if len(masks) > 1 else masks[FULL]
        length = masks[FULL].shape[-1]
        extra = self._runtime.backbone.suffix_inputs(self._runtime.model, self._prefix.inputs, positions, length)
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
        first = len(self._prefix)
        return {kind: None if reach is None else causal & reach.seen(query + first, key + first) for kind, reach in self._reaches.items()}

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._runtime.model.device)


FULL = "full_attention"
_KINDS = {
    FULL: (FULL,),
    "indexed_attention": ("indexed_attention",),
    "sliding_attention": ("sliding_attention",),
    "chunked_attention": ("chunked_attention",),
    "linear_attention": ("linear_attention",),
    "conv": ("conv",),
    "minimax_m3_sparse": (FULL,),
    "moe": (),
    "mlp": (),
    "hybrid": (FULL, "linear_attention"),
    "hybrid_sliding": ("sliding_attention", "linear_attention"),
}
"""Kind of layer, as `layer_types` has it -> the masks that it takes."""
RECURRENT = frozenset({"linear_attention", "conv"})


@dataclass(frozen=True)
class Reach:
    """How far back a layer's queries see.

    Attributes:
        window: less than so many tokens; None: all.
        chunk: within their own chunk of so many tokens; None: across all.
    """

    window: int | None = None
    chunk: int | None = None

    def seen(self, query: Int[Tensor, "row token"], key: Int[Tensor, "row key"]) -> Bool[Tensor, "row token key"]:
        """Which earlier keys each query sees, both by their index in the whole sequence."""
        later, earlier = query[:, :, None], key[:, None, :]
        seen = torch.ones_like(later >= earlier)
        if self.window is not None:
            seen = later - earlier < self.window
        if self.chunk is not None:
            seen = seen & (later // self.chunk == earlier // self.chunk)
        return seen


def layer_kinds(config: PretrainedConfig) -> tuple[str, ...]:
    """The kinds of a decoder's layers, each once; those without a mask that probe knows included."""
    return tuple(dict.fromkeys(getattr(config.get_text_config(decoder=True), "layer_types", None) or ()))


def unknown_kinds(config: PretrainedConfig) -> list[str]:
    """The kinds of layers that probe cannot build a mask for."""
    return sorted(set(layer_kinds(config)) - set(_KINDS))


def is_recurrent(config: PretrainedConfig) -> bool:
    """Whether blocks of the decoder hold a state that each token changes."""
    return any(RECURRENT & set(_KINDS.get(kind, ())) for kind in layer_kinds(config))


def mask_reaches(config: PretrainedConfig) -> dict[str, Reach | None]:
    """Mask -> how far its layers see; None: these take no mask. Several entries only where the model takes a mask for each kind."""
    text = config.get_text_config(decoder=True)
    kinds = layer_kinds(config)
    masks = dict.fromkeys([FULL, *(mask for kind in kinds for mask in _KINDS[kind])])
    window, chunk = getattr(text, "sliding_window", None), getattr(text, "attention_chunk_size", None)
    if not {"sliding_attention", "chunked_attention"} & set(masks):
        return {FULL: Reach(None if kinds else window)}
    reaches = {"sliding_attention": Reach(window=window), "chunked_attention": Reach(chunk=chunk)}
    return {mask: None if mask in RECURRENT else reaches.get(mask, Reach()) for mask in masks}


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
