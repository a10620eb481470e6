"""Decoders whose blocks pass on several residual streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from probe.backbones.base import Backbone

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class ResidualStreams(Backbone):
    """Streams concatenated along the features. The last hidden state, after they are mixed, is as wide as one of them."""

    unreadable: ClassVar[Mapping[str, str]] = {
        "Projected": "its first block takes several residual streams. Read Hidden(0, at='image') instead: the streams side by side, of "
        "which the first begins as the projected token."
    }
    part_paths: ClassVar[Mapping[str, str]] = {"attention": "self_attn", "mixer": "linear_attn", "mlp": "mlp"}
    sum_reason = "each block mixes several residual streams, and weighs what it adds to each of them by the states themselves"

    @staticmethod
    def streams(config: PretrainedConfig) -> int | None:
        """How many residual streams there are, by the names that transformers gives this setting; None: not known."""
        text = config.get_text_config(decoder=True)
        return next((int(count) for name in ("hc_mult", "hc_count", "altup_num_inputs") if (count := getattr(text, name, None))), None)
