"""Which positions of a prompt are those of which image and which video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from probe.errors import GridMismatch
from probe.inputs.patches import NO_TOKEN
from probe.tokens.video import VideoLayout

Positions = tuple[int, ...]


def image_positions(ids: Sequence[int], *token_ids: int | None) -> Positions:
    """The positions of the tokens of these ids, and of NO_TOKEN."""
    return tuple(position for position, token in enumerate(ids) if token == NO_TOKEN or token in token_ids)


@dataclass(frozen=True)
class Media:
    """The images and videos of a prompt, as its processor put them in.

    Attributes:
        layouts: one for each video.
        replaced: for each image and video, in the prompt's order, its kind and how many image and video tokens the processor put in for it.
            Empty: not known.
        video_token_id: the id of video tokens; None: the model has none, or videos have image tokens.
    """

    layouts: Sequence[VideoLayout | None] = ()
    replaced: Sequence[tuple[str, int]] = ()
    video_token_id: int | None = None

    def known(self, image_token_id: int | None) -> set[int]:
        """The ids of image and video tokens."""
        return {token for token in (image_token_id, self.video_token_id) if token is not None}

    def divided(
        self, family: str, positions: Sequence[int], declared: Sequence[int | None]
    ) -> tuple[tuple[Positions, ...], tuple[Positions, ...]]:
        """For each image and for each video the positions of its tokens.

        By what the processor put in, if that adds up; else by the layouts' counts; else by runs.

        Args:
            positions: those of all images and videos.
            declared: how many the family's layout has for each image; None where it has no layout.

        Raises:
            GridMismatch: none of these tells them apart.
        """
        kinds = [kind for kind, _ in self.replaced]
        wanted = {"image": len(declared), "video": len(self.layouts)}
        if {kind: kinds.count(kind) for kind in wanted} == wanted and sum(count for _, count in self.replaced) == len(positions):
            parts = cut(positions, [count for _, count in self.replaced])
            images, videos = (tuple(part for kind, part in zip(kinds, parts, strict=True) if kind == one) for one in wanted)
            return images, videos
        if not self.layouts:
            return divided(family, positions, declared), ()
        if not declared:
            return (), divided(family, positions, [layout.tokens if layout else None for layout in self.layouts], "videos")
        raise GridMismatch(f"{family}'s input_ids do not show which tokens are of images and which of videos. Encode them apart.")


def cut(positions: Sequence[int], counts: Sequence[int]) -> tuple[Positions, ...]:
    """The first so many positions, the next so many, and so on."""
    return tuple(tuple(positions[a:b]) for a, b in pairwise(accumulate(counts, initial=0)))


def divided(family: str, positions: Sequence[int], declared: Sequence[int | None], what: str = "images") -> tuple[Positions, ...]:
    """The tokens of several images, or videos, of which the processor does not say how many it put in for each.

    Raises:
        GridMismatch: the layouts' counts do not add up, and the tokens do not lie in as many runs as there are images.

    Example:
        >>> from probe.inputs.media import divided
        >>> divided("llava", (1, 2, 3, 4, 5), (3, 2)), divided("llava", (1, 2, 3, 5, 6), (None, None))
        (((1, 2, 3), (4, 5)), ((1, 2, 3), (5, 6)))
    """
    if len(declared) <= 1 or not positions:
        return (tuple(positions),) * len(declared)
    known = [count for count in declared if count is not None]
    if len(known) == len(declared) and sum(known) == len(positions):
        return cut(positions, known)
    starts = [index for index, (a, b) in enumerate(pairwise((-2, *positions))) if b != a + 1]
    if len(starts) != len(declared):
        raise GridMismatch(
            f"{len(declared)} {what} were given, and {family}'s input_ids show {len(starts)} that can be told apart. Give fewer at once."
        )
    return cut(positions, [b - a for a, b in pairwise((*starts, len(positions)))])
