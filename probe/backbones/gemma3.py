"""Gemma 3: the tower's patches pooled into a square of image tokens. Its processor leaves pan and scan off."""

from probe.backbones.base import SHARING
from probe.backbones.registry import register
from probe.backbones.shared.square_layout import SquareLayout


@register("gemma3")
class Gemma3(SquareLayout):
    """Questions can share an image's prefix."""

    prefix = SHARING


@register("shieldgemma2")
class ShieldGemma2(SquareLayout):
    """Its processor asks about its policies, whatever the question is; so nothing is shared."""
