"""What a backbone declares: only what cannot be discovered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal

from PIL import Image
from torch import Tensor

from probe.errors import LoadError, NoDirectResize
from probe.plugins import PlugIns
from probe.tokens.layout import Grid, ImageLayout

GROUP = "probe.backbones"
"""The entry-point group through which other packages declare backbones."""


class Backbone:
    """A family of models. The defaults are those of a family that nobody has declared: everything works but the way back to the image."""

    tiled: ClassVar[bool] = False
    """Whether the family's processor cuts a picture into tiles beside its base view."""

    answer_fill: ClassVar[Mapping[str, int | None]] = {"attention_mask": 1, "token_type_ids": 0, "mm_token_type_ids": 0}
    """What an answer's tokens have in the inputs that say something of every token, where the processor made them; None: what the prompt's
    last token has."""

    no_grid_reason: ClassVar[str] = ""
    """Why the image tokens lie nowhere on the picture, where they do not: the grid's error says it."""

    template: ClassVar[str | None] = None
    """How a question is asked where the checkpoint comes without a chat template: a name or text as `encode(template=...)` takes it."""

    marks_images: ClassVar[bool] = True
    """Whether a prompt has an image token for each picture; False: the processor itself puts them before the prompt."""

    class_tokens: ClassVar[Literal["first", "last", "kept"]] = "first"
    """Where the tower's class tokens stand among its patches; `Vision` leaves them out, "kept" are those that stand between patches."""

    projected_states: ClassVar[bool] = True
    """Whether the `image_hidden_states` of Hugging Face's output are the projected tokens; False: those before the projector."""

    prefix: ClassVar[tuple[str, ...]] = ()
    """How questions can share the image's part of the prompt with the answers that each alone would get, the best first: "packed" (one
    row, kept apart by a mask), "batched" (rows of a batch); nothing: each question is asked alone."""

    axes: ClassVar[tuple[str, ...]] = ("batch", "token", "feature")
    """The axes of what a decoder block returns. A `stream` among them is a residual stream: `Hidden` has the streams of a token side by
    side in its features."""

    last_is_normed: ClassVar[bool] = True
    """Whether the last of Hugging Face's `hidden_states` is after the final norm; False: it is what the last block returns."""

    unreadable: ClassVar[Mapping[str, str]] = {}
    """A read ("Hidden", "Attention", "Vision", "Projected", "Logits") -> why this family cannot give it, and what to read instead."""

    def leading(self, model: Any, inputs: Mapping[str, Any]) -> int:
        """How many positions the model puts before `input_ids` for the pictures of a row."""
        return 0

    def next_position(self, model: Any, length: int) -> int:
        """The rotary position of the token behind a prefix of this many tokens; asked right after the forward over the prefix."""
        return length

    def suffix_inputs(self, model: Any, inputs: Mapping[str, Any], positions: Tensor, length: int) -> dict[str, Any]:
        """What the forward takes beside ids, mask and cache for tokens behind a prefix.

        Args:
            inputs: those of the prefix.
            positions: (row, token), the tokens' rotary positions.
            length: of a row, with all that the cache has of it.
        """
        return {"position_ids": positions}

    def layout(self, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Any], index: int) -> ImageLayout | None:
        """Where the image tokens lie that the checkpoint's own processor made of a picture.

        Args:
            image_size: (height, width) of the original picture.
            inputs: what the processor returned for the whole prompt, all its pictures included.
            index: which of the pictures this is, from 0.

        Returns:
            the layout, its boxes in pixels of the original picture; None: not known.
        """
        return None

    def vision_grid(self, model: Any, view: Grid | None) -> Grid | None:
        """The grid of the vision tower's patches over one picture, its `tokens` in the tower's own order; None: not known.

        Args:
            view: the grid of the image tokens, where the tower looks at one picture that is laid out in one view; None: several, or not
                known. A tower with a fixed number of patches has a grid even then, whose place on the picture nobody asks for.
        """
        return None

    def prepare_directly(self, model: Any, processor: Any, images: Sequence[Image.Image]) -> tuple[dict[str, Any], list[ImageLayout]]:
        """Model inputs of whole images resized straight to the tower's input, and their layouts (`resize="stretch", tiles=False`)."""
        raise no_direct_resize(str(model.config.model_type))

    @property
    def resizes_directly(self) -> bool:
        """Whether the family says how an image is prepared directly."""
        return type(self).prepare_directly is not Backbone.prepare_directly

    def forward_inputs(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the model's forward and generate take for these encoded inputs; called where the tower may run."""
        return dict(inputs)


def no_direct_resize(family: str) -> NoDirectResize:
    """The error of a family whose images cannot be resized directly."""
    return NoDirectResize(
        f"{family} cannot be loaded with resize='stretch' or tiles=False: its backbone does not say how an image is laid out when it is "
        "resized directly. Load it with resize='processor' and tiles=True, the defaults."
    )


SHARING: tuple[str, ...] = ("packed", "batched")
"""What most families can: their decoder takes any mask, cache and positions, and their image tokens do not look ahead."""

_REGISTRY: dict[str, type[Backbone]] = {}


def register(*model_types: str) -> Callable[[type[Backbone]], type[Backbone]]:
    """Declare a backbone for these `config.model_type`s; "llava/pixtral" is a llava whose `vision_config.model_type` is pixtral.

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


@cache
def load_entry_points() -> Mapping[str, str]:
    """Register the backbones of other packages, once: each entry point of the group `probe.backbones` names a model type and a class.

    Returns:
        for each model type whose package cannot be imported, is no Backbone or clashes with another, the reason. A warning has given it too.
    """
    packages = PlugIns(GROUP, entry_points(group=GROUP))
    for entry in packages.entries:
        packages.use(entry, partial(_accept, entry.name))
    return {entry.name: reason for entry, reason in packages.failed.items()}


def _accept(name: str, backbone: object) -> type[Backbone]:
    if not (isinstance(backbone, type) and issubclass(backbone, Backbone)):
        raise LoadError(f"it yields {backbone!r}. It has to name a subclass of probe.Backbone.")
    return register(name)(backbone)


def backbone_for(config: Any) -> Backbone:
    """The declared backbone of a model's family, or the defaults.

    Raises:
        LoadError: another package brings a backbone for this family, and it cannot be used.
    """
    # Not at import: a package that declares a backbone imports probe first.
    failed = load_entry_points()
    family, tower = config.model_type, getattr(getattr(config, "vision_config", None), "model_type", "")
    for name in (f"{family}/{tower}", family):
        if name in failed:
            raise LoadError(failed[name])
    return (_REGISTRY.get(f"{family}/{tower}") or _REGISTRY.get(family, Backbone))()


def registered() -> tuple[str, ...]:
    """The families that have a backbone."""
    load_entry_points()
    return tuple(sorted(_REGISTRY))
