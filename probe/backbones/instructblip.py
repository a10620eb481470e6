"""InstructBLIP: BLIP-2 with a Q-Former that also reads the question, so the image tokens depend on it."""

from probe.backbones.blip_2 import Blip2
from probe.backbones.registry import register


@register("instructblip")
class InstructBlip(Blip2):
    """The prompt is the question alone."""

    template = "{question}"
