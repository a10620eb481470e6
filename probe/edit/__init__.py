"""Edits: change what can be read, by the same address. `model.run(y, reads, edits=[probe.edit.zero(probe.Hidden(3, at="image"))])`."""

from probe.tracing.edits import Edit, add, apply, block, replace, scale, zero

__all__ = ["Edit", "add", "apply", "block", "replace", "scale", "zero"]
