"""Videos: their frames, each opened as an image is, as the checkpoint's processor of videos takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from probe.errors import ImageError, PackageNeeded
from probe.inputs.images import Array, ImageLike, open_image

if TYPE_CHECKING:
    from transformers import BaseVideoProcessor

VideoLike: TypeAlias = "Sequence[ImageLike] | Array | Tensor | str | Path"
"""Frames in a list, an array (frame, height, width, 1|3|4) as numpy or (frame, 1|3|4, height, width) as torch, or a file's path."""

_FILES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".m4v", ".gif")


@dataclass(frozen=True, eq=False)
class Video:
    """A video's frames.

    Attributes:
        frames: upright RGB.
        metadata: what the decoder of a file said of it: frames a second, and which of its frames these are. None: not of a file.
    """

    frames: UInt8[NDArray[np.uint8], "frame height width 3"]
    metadata: object = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        height, width = self.frames.shape[1:3]
        return int(height), int(width)


def open_videos(videos: VideoLike | Sequence[VideoLike] | None, processor: BaseVideoProcessor | None) -> list[Video]:
    """One video or a list of them.

    Args:
        videos: frames by themselves are one video; a list of lists, of arrays with a frame axis, or of paths of video files are several.
        processor: samples the frames of a file.

    Raises:
        ImageError: no frames, frames of different sizes, a frame that cannot be opened, or no such file.
        PackageNeeded: a file, and no decoder is installed.
    """
    if videos is None:
        return []
    if isinstance(videos, (list, tuple)) and videos and all(map(_is_video, videos)):
        return [_open_video(video, processor) for video in videos]
    return [_open_video(videos, processor)]  # type: ignore[arg-type]


def _is_video(item: object) -> bool:
    """Whether an item of a list is a video of its own, not a frame."""
    if isinstance(item, (str, Path)):
        return str(item).lower().endswith(_FILES)
    return isinstance(item, (list, tuple)) or (isinstance(item, (np.ndarray, Tensor)) and item.ndim == 4)


def _open_video(video: VideoLike, processor: BaseVideoProcessor | None) -> Video:
    if isinstance(video, (str, Path)):
        return _read_video(Path(video), processor)
    if isinstance(video, (np.ndarray, Tensor)) and video.ndim != 4:
        raise ImageError(
            f"A video is an array of frames, (frame, height, width, 3), this one has shape {tuple(video.shape)}. Pass frames in a list."
        )
    if not isinstance(video, (list, tuple, np.ndarray, Tensor)):
        raise ImageError(
            f"A video was expected (a list of frames, an array of them, or a path), got {type(video).__name__}. Pass one of these."
        )
    frames = [np.asarray(open_image(frame)) for frame in video]
    if not frames:
        raise ImageError("The video has no frames. Pass one at least.")
    sizes = sorted({frame.shape[:2] for frame in frames})
    if len(sizes) > 1:
        raise ImageError(f"The frames of a video have one size, (height, width); these have {sizes[:4]}. Resize them, or pass images.")
    return Video(np.stack(frames))


def _read_video(path: Path, processor: BaseVideoProcessor | None) -> Video:
    """A file's frames, sampled as its processor samples them.

    Raises:
        ImageError: no such file, or it cannot be decoded.
        PackageNeeded: no decoder is installed.
    """
    if not path.is_file():
        raise ImageError(f"No video file {str(path)!r}. Check the path; relative paths start at the current folder.")
    if processor is None:
        raise ImageError(f"There is no video processor that would sample the frames of {str(path)!r}. Pass its frames.")
    sample = processor.sample_frames if processor.do_sample_frames else None
    try:
        frames, metadata = processor.fetch_videos(str(path), sample_indices_fn=sample)
    except ImportError as error:
        raise PackageNeeded(
            f"{str(path)!r} is a video file, and transformers has nothing to decode it with: pip install torchcodec, or pass its frames."
        ) from error
    except Exception as error:  # decoders raise errors of any kind for damaged files
        raise ImageError(f"{str(path)!r} cannot be decoded as a video ({error}). Convert it, or pass its frames.") from error
    return Video(_open_video(frames, None).frames, metadata)
