"""How the vision tower's states are laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from probe.errors import InvalidRead
from probe.tokens.layout import ImageLayout
from probe.tokens.spans import Span

TOWER_NAMES = ("class", "patches")
"""Names of positions in the tower's own sequence."""


@dataclass(frozen=True)
class VisionLayout:
    """How the tower's states are laid out.

    Attributes:
        depth: how many `hidden_states` the tower has.
        patches: how many tokens of one image are patches; class and register tokens are left out. None: all tokens are kept.
        layout: positions of the patches on the image, if the tower gets one image.
        reason: why there is no layout.
        class_tokens: "first" or "last": the position of the class tokens.
        base: of an image that is cut into tiles and shown whole once more: which crop shows it whole (0 or -1), and positions of that
            crop's patches on the image.
    """

    depth: int
    patches: int | None
    layout: ImageLayout | None
    reason: str
    class_tokens: str = "first"
    base: tuple[int, ImageLayout] | None = None

    def of_patches(self, states: Tensor) -> Tensor:
        """The states (..., token, feature) of the patches alone."""
        patches = self.patch_range(states.shape[-2])
        return states.narrow(-2, patches.start, len(patches))

    def patch_range(self, tokens: int) -> range:
        """The patches' indices on the token axis of the tower.

        Args:
            tokens: its length.
        """
        if self.patches is None:
            return range(tokens)
        first = 0 if self.class_tokens == "last" else tokens - self.patches
        return range(first, first + self.patches)

    def indices(self, positions: Sequence[str | int | Span] | None, tokens: int) -> tuple[int, ...]:
        """The indices of positions on the token axis of the tower; None: of every one.

        Args:
            tokens: its length.

        Raises:
            InvalidRead: a position that is not there, or a name where it is not known which tokens are patches.
        """
        if positions is None:
            return tuple(range(tokens))
        return tuple(index for position in positions for index in self._indices(position, tokens))

    def _indices(self, position: str | int | Span, tokens: int) -> Sequence[int]:
        if isinstance(position, int):
            if not -tokens <= position < tokens:
                raise InvalidRead(f"Position {position} of the vision tower was asked for, which has {tokens} tokens (0 to {tokens - 1}).")
            return (position % tokens,)
        if self.patches is None:
            raise InvalidRead(
                f"Which of the vision tower's {tokens} tokens are patches is not known for this family. Name positions by number."
            )
        patches = self.patch_range(tokens)
        if position == "patches":
            return patches
        classes = [index for index in range(tokens) if index not in patches]
        if not classes:
            raise InvalidRead("This vision tower has no class token. Name patches by number, or 'patches'.")
        return classes
