"""Exact attention rows from the queries and keys that the running kernel used.

Whatever the kernel, Hugging Face hands it queries and keys after rotary embedding, normalisation and cache. A few rows of their softmax
cost far less than the whole matrix, and need no eager attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import NotFinite, UnmodelledAttention, WrongRows

_KNOWN = frozenset({"scaling", "softcap", "is_causal", "sliding_window", "position_bias", "sinks", "s_aux"})
# What the kernels read for themselves, or ignore; none of it changes the weights at inference.
_HARMLESS = frozenset(
    {
        "dropout",
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "image_position_ids",
        "mm_token_type_ids",
        "pixel_values",
        "position_embeddings",
    }
    | {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "num_items_in_batch", "past_key_values", "logits_to_keep"}
)

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""Largest difference between rows @ values and the kernel's own output, relative to the largest output of the same head: a kernel may round
its scores, weights and output to the model's dtype, where our rows stay in float32 (in float64 for a float64 model, where Hugging Face's
eager softmax is float32 still)."""


@dataclass(frozen=True)
class AttentionCall:
    """One call of a model's attention function.

    Attributes:
        query: (batch, head, query, feature), after rotary embedding and normalisation.
        key, value: (batch, key-value head, key, feature), cache included.
        mask: what the kernel was given: None, boolean (True: attend), additive, or (batch, key) padding.
        arguments: the call's keyword arguments.
        is_causal: the module's own flag, which a kernel falls back on without a mask.
        where: the module, for messages.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    arguments: Mapping[str, Any]
    is_causal: bool
    where: str

    @property
    def shape(self) -> tuple[int, int]:
        """How many queries, and how many keys."""
        return self.query.shape[2], self.key.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the queries are."""
        return self.query.device

    @classmethod
    def from_inputs(cls, inputs: tuple[tuple[Any, ...], Mapping[str, Any]], where: str) -> AttentionCall:
        """The call as Hugging Face's attention interface makes it: (module, query, key, value, mask, **arguments).

        Raises:
            UnmodelledAttention: an argument that changes the weights in a way that our rows do not follow.
        """
        (module, query, key, value, *rest), keywords = inputs
        arguments = dict(keywords)
        mask = rest[0] if rest else arguments.pop("attention_mask", None)
        arguments = {name: argument for name, argument in arguments.items() if argument is not None and name not in _HARMLESS}
        if isinstance(mask, Tensor):
            # The keys that an indexer chose: in the mask already, and named besides for a kernel that takes no mask.
            arguments.pop("block_indices", None)
        unknown = sorted(set(arguments) - _KNOWN)
        if unknown or not (mask is None or isinstance(mask, Tensor)):
            what = f"the argument {unknown[0]!r}" if unknown else f"a mask of type {type(mask).__name__}"
            raise UnmodelledAttention(
                f"{where} calls its attention with {what}, which our attention rows do not account for. Hidden states can be read; "
                "for the rows, load the model with attn_implementation='eager' and output_attentions in Hugging Face itself."
            )
        return cls(query, key, value, mask, arguments, bool(arguments.get("is_causal", getattr(module, "is_causal", True))), where)

    def rows(self, batch: int, positions: Int[Tensor, "row"]) -> Float[Tensor, "head row key"]:
        """softmax(scale * q k^T + bias + mask) of selected query positions: `attentions[layer][batch][:, positions]`, float32 (float64 of
        float64). Under an attention sink, which takes a share of the softmax, a row sums to less than 1.

        Args:
            positions: columns of the query axis.
        """
        query = self._wide(self.query[batch].index_select(1, positions))
        groups = query.shape[0] // self.key.shape[1]
        key = self._wide(self.key[batch]).repeat_interleave(groups, dim=0)
        scores = query @ key.transpose(1, 2) * float(self.arguments.get("scaling", query.shape[-1] ** -0.5))
        softcap = self.arguments.get("softcap")
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        bias = self.arguments.get("position_bias")
        if bias is not None:
            scores = scores + self._wide(bias[batch % bias.shape[0]].index_select(1, positions)[..., : scores.shape[-1]])
        return self._softmax(self._masked(scores, batch, positions), batch, positions)

    def _softmax(self, scores: Tensor, batch: int, positions: Tensor) -> Tensor:
        """Over the keys, and over a sink: one more score of each row, (head) or (batch, head, query, 1), whose value is zero."""
        sink = self.arguments.get("s_aux", self.arguments.get("sinks"))
        if sink is None:
            return torch.softmax(scores, dim=-1)
        column = sink[:, None, None].expand(-1, len(positions), 1) if sink.ndim == 1 else sink[batch].index_select(1, positions)
        return torch.softmax(torch.cat([scores, self._wide(column)], dim=-1), dim=-1)[..., :-1]

    def _masked(self, scores: Tensor, batch: int, positions: Tensor) -> Tensor:
        if self.mask is not None and self.mask.ndim == 4:
            mask = self.mask[batch % self.mask.shape[0]].index_select(1, positions)[..., : scores.shape[-1]]
            return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.to(scores.dtype)
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask[batch].bool(), -torch.inf)
        queries, keys = self.query.shape[2], self.key.shape[2]
        if self.is_causal and queries > 1:
            # Without a mask the kernel is causal by itself, the queries being the last of the keys.
            allowed = torch.arange(keys, device=scores.device)[None] <= positions[:, None] + (keys - queries)
            scores = scores.masked_fill(~allowed, -torch.inf)
            window = self.arguments.get("sliding_window")
            if window is not None:
                near = torch.arange(keys, device=scores.device)[None] > positions[:, None] + (keys - queries) - window
                scores = scores.masked_fill(~near, -torch.inf)
        return scores

    def check(self, batch: int, positions: Tensor, rows: Float[Tensor, "head row key"], output: Any) -> float:
        """Law 5: rows @ values must be the call's own output. Returns the largest difference, relative to its head's largest output.

        Raises:
            WrongRows: they are not.
            NotFinite: the rows or the values are not finite.
        """
        theirs = self._wide((output[0] if isinstance(output, tuple) else output)[batch].index_select(0, positions))
        value = self._wide(self.value[batch]).repeat_interleave(rows.shape[0] // self.value.shape[1], dim=0)
        ours = (rows @ value).transpose(0, 1)
        theirs = theirs.reshape(ours.shape)
        size = theirs.abs().amax((0, 2)).clamp(min=torch.finfo(theirs.dtype).tiny)
        difference = float(((ours - theirs).abs().amax((0, 2)) / size).max())
        if math.isnan(difference):
            raise NotFinite(f"Attention rows of {self.where}, or its values, hold NaN or infinity.")
        if not difference <= TOLERANCE.get(self.query.dtype, 1e-4):
            raise WrongRows(
                f"{self.where}: attention rows times values differ from the kernel's own output by {difference:.2g} (relative to its "
                f"head's largest value). The rows would be wrong, so none are returned. Try attn_implementation='eager', and report the model."
            )
        return difference

    def _wide(self, values: Tensor) -> Tensor:
        return values.double() if self.query.dtype == torch.float64 else values.float()


@dataclass(frozen=True)
class AttentionWeights:
    """Attention weights that a module computes by itself and returns, whatever the kernel.

    Attributes:
        weights: (batch, head, query, key).
        where: the module, for messages.
    """

    weights: Tensor
    where: str

    @property
    def shape(self) -> tuple[int, int]:
        """How many queries, and how many keys."""
        return self.weights.shape[2], self.weights.shape[3]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights.device

    @classmethod
    def from_output(cls, output: Any, where: str) -> AttentionWeights:
        """What a module returns beside its output.

        Raises:
            UnmodelledAttention: it returns no weights, and calls no attention function whose queries and keys we could take.
        """
        returned = output if isinstance(output, tuple) else (output,)
        weights = next((value for value in returned if isinstance(value, Tensor) and value.ndim == 4), None)
        if weights is None:
            raise UnmodelledAttention(
                f"{where} computes its attention without transformers' attention interface and returns no weights; its rows cannot be "
                "read. Hidden states can be."
            )
        return cls(weights, where)

    def rows(self, batch: int, positions: Int[Tensor, "row"]) -> Float[Tensor, "head row key"]:
        """`attentions[layer][batch][:, positions]`, float32 (float64 of float64)."""
        rows = self.weights[batch].index_select(1, positions)
        return rows if rows.dtype == torch.float64 else rows.float()

    def check(self, batch: int, positions: Tensor, rows: Float[Tensor, "head row key"], output: Any) -> float:
        """That these are weights: how far the sum of a row is from 1.

        Raises:
            WrongRows: they are not.
        """
        difference = float((rows.sum(-1) - 1).abs().max())
        if not difference <= TOLERANCE.get(self.weights.dtype, 1e-4):
            raise WrongRows(
                f"{self.where} returns what we took for attention weights, but its rows sum to something {difference:.2g} from 1."
            )
        return difference
