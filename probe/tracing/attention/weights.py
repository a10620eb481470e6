"""Attention weights of modules that compute and return them without transformers' attention interface."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import UnmodelledAttention, WrongRows
from probe.tracing.attention.call import TOLERANCE


@dataclass(frozen=True)
class AttentionWeights:
    """Attention weights of a module that computes and returns them itself, without the attention interface.

    Attributes:
        weights: (batch, head, query, key).
        module_path: for messages.
    """

    weights: Tensor
    module_path: str

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of queries and of keys."""
        return self.weights.shape[2], self.weights.shape[3]

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.weights.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.weights.device

    @classmethod
    def from_output(cls, output: object, module_path: str) -> AttentionWeights:
        """The attention weights among a module's outputs.

        Raises:
            UnmodelledAttention: there are none, and the module does not call the attention interface, either.
        """
        returned = output if isinstance(output, tuple) else (output,)
        weights = next((value for value in returned if isinstance(value, Tensor) and value.ndim == 4), None)
        if weights is None:
            raise UnmodelledAttention(
                f"{module_path} computes its attention without transformers' attention interface and returns no weights; its rows cannot be "
                "read. Hidden states can be."
            )
        return cls(weights, module_path)

    def rows(self, batch: int, positions: Int[Tensor, "row"]) -> Float[Tensor, "head row key"]:
        """`attentions[layer][batch][:, positions]`, float32 (float64 of float64)."""
        rows = self.weights[batch].index_select(1, positions)
        return rows if rows.dtype == torch.float64 else rows.float()

    def check(self, batch: int, positions: Tensor, rows: Float[Tensor, "head row key"], output: object) -> float:
        """Largest difference of a row's sum from 1.

        Raises:
            WrongRows: larger than `TOLERANCE`: these are no attention weights.
        """
        difference = float((rows.sum(-1) - 1).abs().max())
        if not difference <= TOLERANCE.get(self.weights.dtype, 1e-4):
            raise WrongRows(
                f"{self.module_path} returns a tensor that was taken for attention weights, but its rows sum to something {difference:.2g} from 1. "
                "Its attention rows cannot be read; hidden states can be."
            )
        return difference
