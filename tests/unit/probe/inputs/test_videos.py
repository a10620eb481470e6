"""Videos: what is one video, what are several, and what is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from probe.errors import ImageError
from probe.inputs.videos import open_videos

FRAMES = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)


@pytest.mark.parametrize(
    "video",
    [FRAMES, list(FRAMES), [Image.fromarray(frame) for frame in FRAMES], torch.from_numpy(FRAMES).permute(0, 3, 1, 2)],
    ids=["array", "list of arrays", "list of images", "tensor"],
)
def test_frames_are_one_video_however_they_are_given(video: Any) -> None:
    (opened,) = open_videos(video, None)
    assert np.array_equal(opened.frames, FRAMES)
    assert opened.size == (3, 4)


def test_lists_of_frames_and_arrays_are_several_videos() -> None:
    assert [len(video.frames) for video in open_videos([list(FRAMES), FRAMES, FRAMES[:1]], None)] == [2, 2, 1]
    assert open_videos(None, None) == []


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ([], "no frames"),
        ([[]], "no frames"),
        ([FRAMES[0], FRAMES[0, :2]], "one size"),
        (FRAMES[0], "array of frames"),
        (7, "A video was expected"),
        ("nowhere.mp4", "No video file 'nowhere.mp4'"),
    ],
    ids=["none", "one without", "two sizes", "an image", "a number", "no file"],
)
def test_what_is_no_video_is_refused(video: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_videos(video, None)
