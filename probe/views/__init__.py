"""Drawings of activations."""

from probe.views.overlay import overlay
from probe.views.page import page, widget
from probe.views.panels import heads, layers, words
from probe.views.text import tokens

__all__ = ["heads", "layers", "overlay", "page", "tokens", "widget", "words"]
