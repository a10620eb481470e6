"""Activations: tensors with named axes that can be folded back onto the image."""

from probe.tracing.activation.array import DIMS, Activation
from probe.tracing.activation.ragged import RaggedActivation

__all__ = ["DIMS", "Activation", "RaggedActivation"]
