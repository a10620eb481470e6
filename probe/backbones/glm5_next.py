"""GLM-5 Next: hyper-connections, with an axis of residual streams between the tokens and the features."""

from collections.abc import Mapping
from typing import ClassVar

from probe.backbones.registry import register
from probe.backbones.shared.residual_streams import ResidualStreams


@register("glm5_next")
class Glm5Next(ResidualStreams):
    """The streams are the last axis but one."""

    axes = ("batch", "token", "stream", "feature")
    part_paths: ClassVar[Mapping[str, str]] = {"attention": "self_attn", "mlp": "mlp"}
