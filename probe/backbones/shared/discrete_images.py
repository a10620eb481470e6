"""Images quantised into tokens of the vocabulary by convolutions, without a tower of attention blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.base import Backbone


class DiscreteImages(Backbone):
    """There are no vision states; the quantised image tokens can be read."""

    unreadable: ClassVar[Mapping[str, str]] = {
        "Vision": "convolutions turn the image into tokens of the vocabulary; there is no tower of blocks. Read Projected() instead."
    }
