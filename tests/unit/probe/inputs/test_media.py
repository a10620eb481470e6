"""Which tokens are of which image and video: by what the processor put in, then by layouts, then by runs."""

from __future__ import annotations

import pytest

from probe.errors import GridMismatch
from probe.inputs.media import Media
from probe.tokens.layout import Grid
from probe.tokens.video import VideoLayout

POSITIONS = (1, 2, 4, 5, 7, 8, 9)


def test_an_image_of_several_runs_is_one_image() -> None:
    media = Media(replaced=[("image", 4), ("image", 3)])
    assert media.divided("x", POSITIONS, [None, None]) == (((1, 2, 4, 5), (7, 8, 9)), ())


def test_images_and_videos_come_in_the_prompts_order() -> None:
    media = Media([None], [("video", 2), ("image", 5)])
    assert media.divided("x", POSITIONS, [None]) == (((4, 5, 7, 8, 9),), ((1, 2),))


def test_what_the_processor_put_in_counts_only_where_it_adds_up() -> None:
    assert Media(replaced=[("image", 9)]).divided("x", POSITIONS, [3, 4]) == (((1, 2, 4), (5, 7, 8, 9)), ())
    assert Media().divided("x", POSITIONS, [None, None, None]) == (((1, 2), (4, 5), (7, 8, 9)), ())


def test_images_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(GridMismatch, match="2 images were given, and x's input_ids show 3"):
        Media().divided("x", POSITIONS, [None, None])
    layout = VideoLayout.repeated(Grid.whole(1, 3, (4, 12)), frames=1)
    with pytest.raises(GridMismatch, match="which tokens are of images and which of videos"):
        Media([layout]).divided("x", POSITIONS, [4])
    assert Media([layout]).divided("x", (7, 8, 9), []) == ((), ((7, 8, 9),))
