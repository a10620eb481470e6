"""Views: what was read, drawn."""

from probe.views.overlay import overlay

__all__ = ["overlay"]
