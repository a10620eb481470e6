"""The public API: `load` opens a model; `Probe` encodes, generates, reads and edits, and opens sessions."""

from probe.model.facade import Probe
from probe.model.loading import load

__all__ = ["Probe", "load"]
