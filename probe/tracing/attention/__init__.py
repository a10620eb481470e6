"""Exact attention rows, from the queries and keys that the running kernel used."""

from probe.tracing.attention.call import TOLERANCE, AttentionCall
from probe.tracing.attention.running import Operation, ReturnedWeights, RunningAttention
from probe.tracing.attention.values import first_tensor, with_first_tensor
from probe.tracing.attention.weights import AttentionWeights

__all__ = [
    "TOLERANCE",
    "AttentionCall",
    "AttentionWeights",
    "Operation",
    "ReturnedWeights",
    "RunningAttention",
    "first_tensor",
    "with_first_tensor",
]
