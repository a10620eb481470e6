"""The registry: which backbone a `config.model_type` has, built in or brought by another package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar

from probe.backbones.base import Backbone
from probe.errors import LoadError
from probe.plugins import PlugIns

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GROUP = "probe.backbones"
"""The entry-point group through which other packages declare backbones."""

BACKBONES: dict[str, type[Backbone]] = {}
"""The registered backbones: `config.model_type`, or "model_type/tower's model_type" -> class."""

B = TypeVar("B", bound=type[Backbone])


def register(*model_types: str) -> Callable[[B], B]:
    """Declare a backbone for these `config.model_type`s; "llava/pixtral" is a llava whose `vision_config.model_type` is pixtral.

    Raises:
        LoadError: another class has the name already; both origins are named.

    Example:
        A family that an existing layout fits is one line:

        >>> from probe.backbones.shared.square_layout import SquareLayout
        >>> probe.register("doctest_square")(SquareLayout)
        <class 'probe.backbones.shared.square_layout.SquareLayout'>
    """

    def declare(backbone: B) -> B:
        for name in model_types:
            known = BACKBONES.get(name)
            if known is not None and _origin(known) != _origin(backbone):
                raise LoadError(
                    f"The backbone {name!r} of {_origin(backbone)} clashes with that of {_origin(known)}. Give it another name."
                )
            BACKBONES[name] = backbone
        return backbone

    return declare


def _origin(backbone: type[Backbone]) -> str:
    return f"{backbone.__module__}.{backbone.__qualname__}"


@cache
def load_entry_points() -> Mapping[str, str]:
    """Register the backbones of other packages, once: each entry point of the group `probe.backbones` names a model type and a class.

    Returns:
        for each model type whose package cannot be imported, is no Backbone or clashes with another, the reason, which was also a warning.
    """
    packages = PlugIns(GROUP, entry_points(group=GROUP))
    for entry in packages.entries:
        packages.use(entry, partial(_accept, entry.name))
    return {entry.name: reason for entry, reason in packages.failed.items()}


def _accept(name: str, backbone: object) -> type[Backbone]:
    if not (isinstance(backbone, type) and issubclass(backbone, Backbone)):
        raise LoadError(f"it yields {backbone!r}. It has to name a subclass of probe.Backbone.")
    return register(name)(backbone)


def backbone_for(config: PretrainedConfig) -> Backbone:
    """The declared backbone of a model's family, or `Backbone` itself with its defaults.

    Raises:
        LoadError: another package brings a backbone for this family, and it cannot be used.

    Example:
        >>> from transformers import LlavaConfig
        >>> type(probe.backbones.backbone_for(LlavaConfig())).__name__
        'Llava'
    """
    # Not at import: a package that declares a backbone imports probe first.
    failed = load_entry_points()
    family, tower = config.model_type, getattr(getattr(config, "vision_config", None), "model_type", "")
    for name in (f"{family}/{tower}", family):
        if name in failed:
            raise LoadError(failed[name])
    return (BACKBONES.get(f"{family}/{tower}") or BACKBONES.get(family, Backbone))()


def registered() -> tuple[str, ...]:
    """The model types that have a backbone.

    Example:
        >>> [name for name in probe.backbones.registered() if name.startswith("qwen2_v")]
        ['qwen2_vl']
    """
    load_entry_points()
    return tuple(sorted(BACKBONES))


def families_of_videos() -> tuple[str, ...]:
    """The model types that transformers has a video processor for, and that say where a video's tokens lie.

    Example:
        >>> "qwen2_vl" in probe.backbones.registry.families_of_videos()
        True
    """
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

    load_entry_points()
    laid_out = {name for name, kind in BACKBONES.items() if kind.video_layout is not Backbone.video_layout}
    return tuple(sorted(laid_out & set(VIDEO_PROCESSOR_MAPPING_NAMES)))
