"""Decoders whose blocks pass several residual streams on: Gemma 3n, GLM-5 Next, Qwen4 Exp."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.base import Backbone, register

_EMBEDDED = (
    "its first block takes several residual streams. Read Hidden(0, at='image') instead: the streams side by side, of which the first "
    "begins as the projected token."
)


@register("qwen4_exp")
class Streams(Backbone):
    """Streams side by side in the features; the last state, behind their mixer, is as wide as one of them."""

    unreadable: ClassVar[Mapping[str, str]] = {"Projected": _EMBEDDED}


@register("glm5_next")
class Glm5Next(Streams):
    """Hyper-connections: streams between the tokens and the features."""

    axes = ("batch", "token", "stream", "feature")


@register("gemma3n")
class Gemma3n(Streams):
    """AltUp: streams before the batch."""

    axes = ("stream", "batch", "token", "feature")
    last_is_normed = False
