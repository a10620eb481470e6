"""Drawings of activations."""

from probe.views.overlay import overlay
from probe.views.page import page
from probe.views.panels import heads, layers, words
from probe.views.text import tokens

__all__ = ["heads", "layers", "overlay", "page", "tokens", "words"]
