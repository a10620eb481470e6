"""Read requests: which activations to read, at which layers and positions."""

from probe.tracing.reads.base import LayerRead, Read
from probe.tracing.reads.kinds import READS, Attention, Hidden, Logits, Projected, Vision, check_read, merge
from probe.tracing.reads.positions import Layers, Position, Positions, as_layers, as_positions, position_name, position_names

__all__ = [
    "READS",
    "Attention",
    "Hidden",
    "LayerRead",
    "Layers",
    "Logits",
    "Position",
    "Positions",
    "Projected",
    "Read",
    "Vision",
    "as_layers",
    "as_positions",
    "check_read",
    "merge",
    "position_name",
    "position_names",
]
