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
        self._windows = attention_windows(runtime.model.config)

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
    def select_sequences(self, kept: Sequence[int]) -> None:
        """Keep these sequences, in this order; drop the others' keys and values."""

    def _inputs(self, ids: Int[Tensor, "row token"], index: Int[Tensor, "row token"], visible: Mapping[str, Tensor]) -> dict[str, object]:
        """The forward's arguments for tokens at these indices of their sequences, counted from the end of the prefix."""
        positions = index + self._prefix.position
        masks: Any = {kind: self._kernel_mask(mask) for kind, mask in visible.items()}
        mask = masks if len(masks) > 1 else next(iter(masks.values()))
        length = next(iter(visible.values())).shape[-1]
        extra = self._runtime.backbone.suffix_inputs(self._runtime.model, self._prefix.inputs, positions, length)
        return {"input_ids": ids, "attention_mask": mask, "past_key_values": self._cache, "use_cache": True, **extra}

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
    ) -> dict[str, Bool[Tensor, "row token key"]]:
        """The causal mask of each kind of layer, within its own sequence and its sliding window.

        Args:
            own: which keys belong to the query's own sequence or the prefix.
            query, key: indices within the sequences.
        """
        distance = query[:, :, None] - key[:, None, :]
        causal = own & (distance >= 0)
        return {kind: causal if window is None else causal & (distance < window) for kind, window in self._windows.items()}

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._runtime.model.device)


def attention_windows(config: PretrainedConfig) -> dict[str, int | None]:
    """Kind of layer -> its sliding window in tokens; None: it sees all. Several entries only where the model takes a mask for each kind."""
    text = config.get_text_config(decoder=True)
    kinds = dict.fromkeys(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None)
    if "sliding_attention" in kinds:
        return {kind: window if kind == "sliding_attention" else None for kind in ("full_attention", "sliding_attention")}
    return {"full_attention": None if kinds else window}


def last_logits(runtime: Runtime, packed: PackedInputs, edits: EditPlan | None = None) -> Float[Tensor, "sequence vocabulary"]:
    """Run the model on packed inputs: the logits of each sequence's last token.

    Args:
        edits: that are in force.
    """
    indices = sorted({index for _, index in packed.last})
    # The indices stay on the CPU, which can index a tensor on any device: the last block may lie on another than the first.
    inputs = {**packed.inputs, "logits_to_keep": torch.tensor(indices, dtype=torch.long)}
    with runtime.engine.lock, torch.no_grad():
        output = runtime.engine.run_edited(lambda given: runtime.model(**given), inputs, edits, packed.slots) if edits else None
        logits: Tensor = (output or runtime.model(**inputs)).logits
    rows = torch.tensor([row for row, _ in packed.last], device=logits.device)
    cols = torch.tensor([indices.index(index) for _, index in packed.last], device=logits.device)
    return logits[rows, cols]
