"""Edits: changes of what can be read, by the same address."""

from probe.tracing.edits.kinds import Edit, add, apply, block, replace, scale, zero
from probe.tracing.edits.plan import EditPlan, resolve_edits

__all__ = ["Edit", "EditPlan", "add", "apply", "block", "replace", "resolve_edits", "scale", "zero"]
