"""What a backbone declares: only what cannot be discovered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from PIL import Image

from probe.errors import LoadError
from probe.layout import Grid, ImageLayout


class Backbone:
    """A family of models. The defaults are those of a family that nobody has declared: everything works but the way back to the image."""

    tiled: ClassVar[bool] = False
    """Whether the family's processor cuts a picture into tiles beside its base view."""

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int]) -> ImageLayout | None:
        """Where the image tokens lie that the checkpoint's own processor makes of a picture of (height, width); None: not known."""
        return None

    def vision_grid(self, model: Any, image_size: tuple[int, int], box: tuple[float, float, float, float] | None) -> Grid | None:
        """The grid of the vision tower's patches over one image; None: not known."""
        return None

    def prepare_directly(self, model: Any, processor: Any, images: Sequence[Image.Image]) -> tuple[dict[str, Any], list[ImageLayout]]:
        """Model inputs of whole images resized straight to the tower's input, and their layouts (`resize="stretch", tiles=False`)."""
        raise LoadError(
            f"{model.config.model_type} cannot be loaded with resize='stretch' or tiles=False: its backbone does not say how an image is "
            "laid out when it is resized directly. Load it with resize='processor'."
        )

    def forward_inputs(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the model's forward and generate take for these encoded inputs; called where the tower may run."""
        return dict(inputs)


_REGISTRY: dict[str, type[Backbone]] = {}


def register(*model_types: str) -> Callable[[type[Backbone]], type[Backbone]]:
    """Declare a backbone for these `config.model_type`s.

    Raises:
        LoadError: another class has the name already; both origins are named.
    """

    def declare(backbone: type[Backbone]) -> type[Backbone]:
        for name in model_types:
            known = _REGISTRY.get(name)
            if known is not None and _origin(known) != _origin(backbone):
                raise LoadError(
                    f"The backbone {name!r} of {_origin(backbone)} clashes with that of {_origin(known)}. Give it another name."
                )
            _REGISTRY[name] = backbone
        return backbone

    return declare


def _origin(backbone: type[Backbone]) -> str:
    return f"{backbone.__module__}.{backbone.__qualname__}"


def backbone_for(model_type: str) -> Backbone:
    """The declared backbone of a family, or the defaults."""
    return _REGISTRY.get(model_type, Backbone)()


def registered() -> tuple[str, ...]:
    """The families that have a backbone."""
    return tuple(sorted(_REGISTRY))
