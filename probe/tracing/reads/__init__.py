"""Read requests: which activations to read, at which layers and positions."""

from probe.tracing.reads.base import LayerRead, Read
from probe.tracing.reads.heads import Heads, as_heads
from probe.tracing.reads.kinds import READS, Attention, Logits, Module, Projected, Vision, VisionAttention, as_reads, check_read, merge
from probe.tracing.reads.positions import Layers, Position, Positions, as_layers, as_positions, position_name, position_names
from probe.tracing.reads.states import AttentionOutput, HeadOutput, HeadRead, Hidden, Keys, MLPOutput, Queries, StateRead, Values

__all__ = [
    "READS",
    "Attention",
    "AttentionOutput",
    "HeadOutput",
    "HeadRead",
    "Heads",
    "Hidden",
    "Keys",
    "LayerRead",
    "Layers",
    "Logits",
    "MLPOutput",
    "Module",
    "Position",
    "Positions",
    "Projected",
    "Queries",
    "Read",
    "StateRead",
    "Values",
    "Vision",
    "VisionAttention",
    "as_heads",
    "as_layers",
    "as_positions",
    "as_reads",
    "check_read",
    "merge",
    "position_name",
    "position_names",
]
