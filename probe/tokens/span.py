"""Span: positions in a sequence, under a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from probe.errors import InvalidRead
from probe.tokens.integers import as_ints
from probe.tokens.video import VideoLayout


@dataclass(frozen=True)
class Span:
    """Positions in the sequence, in order.

    Attributes:
        positions: counted from 0 at the first real token (padding is not counted).
        name: for messages.

    Example:
        >>> probe.Span(range(3), "first")
        Span(positions=(0, 1, 2), name='first')
    """

    positions: tuple[int, ...]
    name: str = ""

    def __post_init__(self) -> None:
        positions = as_ints(self.positions)
        if positions is None:
            raise InvalidRead(
                f"Span({shortened(repr(self.positions), 120)}): positions are integers, in a tuple, a range, a list or an array."
            )
        object.__setattr__(self, "positions", positions)

    def __len__(self) -> int:
        return len(self.positions)


def image_spans(images: Sequence[Sequence[int]]) -> dict[str, Span]:
    """The spans of the images' tokens: `image` for all of them, `image 0`, `image 1`... for each; none without image tokens."""
    if not any(images):
        return {}
    together = Span(tuple(position for image in images for position in image), "image")
    return {"image": together, **{f"image {i}": Span(tuple(image), f"image {i}") for i, image in enumerate(images)}}


def video_spans(videos: Sequence[Sequence[int]], layouts: Sequence[VideoLayout | None]) -> dict[str, Span]:
    """The spans of the videos' tokens: `video` for all of them, `video 0`... for each, and `frame 0`... for what each frame became.

    With several videos a frame is `video 0 frame 0`. Frames that the family merges have the same tokens.
    """
    if not any(videos):
        return {}
    spans = {"video": Span(tuple(position for video in videos for position in video), "video")}
    for number, (video, layout) in enumerate(zip(videos, layouts, strict=True)):
        spans[f"video {number}"] = Span(tuple(video), f"video {number}")
        of = f"video {number} " if len(videos) > 1 else ""
        for frames, positions, _ in layout.steps(video) if layout else ():
            spans |= {f"{of}frame {frame}": Span(positions, f"{of}frame {frame}") for frame in frames}
    return spans


def shortened(text: str, limit: int) -> str:
    """The text, or if it is longer than `limit` its first characters and "…"."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
