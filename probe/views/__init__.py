"""Drawings of activations."""

from probe.views.overlay import overlay

__all__ = ["overlay"]
