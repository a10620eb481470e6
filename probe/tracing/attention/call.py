"""Exact attention rows from the queries and keys that the running kernel used.

Hugging Face passes every kernel the queries and keys after rotary embedding, normalisation and cache. A few rows of their softmax cost
far less than the whole matrix, and need no eager attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import NotFinite, UnmodelledAttention, WrongRows
from probe.tracing.attention.values import first_tensor

_KNOWN = frozenset({"scaling", "softcap", "is_causal", "sliding_window", "position_bias", "sinks", "s_aux"})
# Arguments that do not change the attention weights at inference.
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
"""Largest difference between rows @ values and the kernel's own output, relative to the largest output of the same head.

A kernel may round its scores, weights and output to the model's dtype. Our rows stay in float32 (float64 for a float64 model, whose eager
softmax in Hugging Face is float32 nevertheless)."""


@dataclass(frozen=True)
class AttentionCall:
    """One call of a model's attention function.

    Attributes:
        query: (batch, head, query, feature), after rotary embedding and normalisation.
        key, value: (batch, key-value head, key, feature), cache included.
        mask: as the kernel gets it: None, boolean (True: attend), additive, or (batch, key) padding.
        scaling: factor of the scores.
        softcap: bound of the scores, which are squashed by tanh; None: no bound.
        bias: added to the scores, (batch, head, query, key).
        sink: one more score for each row, (head) or (batch, head, query, 1), which takes its share of the softmax.
        window: how many keys back a query attends to without a mask; None: all.
        is_causal: whether the kernel applies causal masking without a mask.
        module_path: for messages.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    softcap: float | None
    bias: Tensor | None
    sink: Tensor | None
    window: int | None
    is_causal: bool
    module_path: str

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and of keys."""
        return self.query.shape[2], self.key.shape[2]

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.query.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the queries."""
        return self.query.device

    @classmethod
    def from_inputs(cls, inputs: tuple[Sequence[object], Mapping[str, object]], module_path: str) -> AttentionCall:
        """The call, from the arguments of Hugging Face's attention interface.

        Args:
            inputs: ((module, query, key, value, mask), keyword arguments); the mask may be one of the latter.
            module_path: for messages.

        Raises:
            UnmodelledAttention: an argument that changes the weights in a way that our rows do not account for.
        """
        (module, query, key, value, *rest), keywords = inputs
        arguments = dict(keywords)
        mask = rest[0] if rest else arguments.pop("attention_mask", None)
        arguments = {name: argument for name, argument in arguments.items() if argument is not None and name not in _HARMLESS}
        if isinstance(mask, Tensor):
            # The keys that an indexer chose are masked already; a kernel without masks gets them in this argument, too.
            arguments.pop("block_indices", None)
        unknown = sorted(set(arguments) - _KNOWN)
        if unknown or not (mask is None or isinstance(mask, Tensor)):
            what = f"the argument {unknown[0]!r}" if unknown else f"a mask of type {type(mask).__name__}"
            raise UnmodelledAttention(
                f"{module_path} calls its attention with {what}, which our attention rows do not account for. Hidden states can be read; "
                "for the rows, load the model with attn_implementation='eager' and output_attentions in Hugging Face itself."
            )
        queries = cast(Tensor, query)
        return cls(
            query=queries,
            key=cast(Tensor, key),
            value=cast(Tensor, value),
            mask=mask,
            scaling=float(cast(float, arguments.get("scaling", queries.shape[-1] ** -0.5))),
            softcap=cast("float | None", arguments.get("softcap")),
            bias=cast("Tensor | None", arguments.get("position_bias")),
            sink=cast("Tensor | None", arguments.get("s_aux", arguments.get("sinks"))),
            window=cast("int | None", arguments.get("sliding_window")),
            is_causal=bool(arguments.get("is_causal", getattr(module, "is_causal", True))),
            module_path=module_path,
        )

    def to_inputs(self, inputs: tuple[Sequence[object], Mapping[str, object]]) -> tuple[tuple[object, ...], dict[str, object]]:
        """The arguments of Hugging Face's attention interface for this call.

        Args:
            inputs: those of the call that this one was made from.
        """
        (module, _, _, _, *rest), keywords = inputs
        arguments = dict(keywords)
        if rest:
            rest[0] = self.mask
        else:
            arguments["attention_mask"] = self.mask
        return (module, self.query, self.key, self.value, *rest), arguments

    def rows(self, batch: int, positions: Int[Tensor, "row"]) -> Float[Tensor, "head row key"]:
        """Rows of softmax(scale * q k^T + bias + mask): `attentions[layer][batch][:, positions]`.

        Args:
            positions: query-axis indices.

        Returns:
            float32 (float64 of a float64 model). Under an attention sink, which takes a share of the softmax, a row sums to less than 1.
        """
        query = self._wide(self.query[batch].index_select(1, positions))
        groups = query.shape[0] // self.key.shape[1]
        key = self._wide(self.key[batch]).repeat_interleave(groups, dim=0)
        scores = query @ key.transpose(1, 2) * self.scaling
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if self.bias is not None:
            scores = scores + self._wide(self.bias[batch % self.bias.shape[0]].index_select(1, positions)[..., : scores.shape[-1]])
        return self._softmax(self._masked(scores, batch, positions), batch, positions)

    def _softmax(self, scores: Tensor, batch: int, positions: Tensor) -> Tensor:
        """Softmax over the keys and, where there is one, the sink, whose column is then left out."""
        sink = self.sink
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
            # Without a mask the kernel applies causal masking, with the queries aligned to the last keys.
            allowed = torch.arange(keys, device=scores.device)[None] <= positions[:, None] + (keys - queries)
            scores = scores.masked_fill(~allowed, -torch.inf)
            if self.window is not None:
                near = torch.arange(keys, device=scores.device)[None] > positions[:, None] + (keys - queries) - self.window
                scores = scores.masked_fill(~near, -torch.inf)
        return scores

    def check(self, batch: int, positions: Tensor, rows: Float[Tensor, "head row key"], output: object) -> float:
        """Largest difference of rows @ values from the call's own output, relative to the head's largest.

        Raises:
            WrongRows: larger than `TOLERANCE`.
            NotFinite: the rows or the values are not finite.
        """
        theirs = self._wide(first_tensor(output)[batch].index_select(0, positions))
        value = self._wide(self.value[batch]).repeat_interleave(rows.shape[0] // self.value.shape[1], dim=0)
        ours = (rows @ value).transpose(0, 1)
        theirs = theirs.reshape(ours.shape)
        size = theirs.abs().amax((0, 2)).clamp(min=torch.finfo(theirs.dtype).tiny)
        difference = float(((ours - theirs).abs().amax((0, 2)) / size).max())
        if math.isnan(difference):
            raise NotFinite(f"Attention rows of {self.module_path}, or its values, hold NaN or infinity.")
        if not difference <= TOLERANCE.get(self.query.dtype, 1e-4):
            raise WrongRows(
                f"{self.module_path}: attention rows times values differ from the kernel's own output by {difference:.2g} (relative to its "
                f"head's largest value). The rows would be wrong, so none are returned. Try attn_implementation='eager', and report the model."
            )
        return difference

    def _wide(self, values: Tensor) -> Tensor:
        return values.double() if self.query.dtype == torch.float64 else values.float()
