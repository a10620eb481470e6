"""Videos' layouts: steps in time, frames, and the tokens that are no cell."""

from __future__ import annotations

import pytest
import torch

import probe
from probe.errors import GridMismatch, InvalidRead
from probe.tokens.span import video_spans

# Two steps of 1 x 2 cells, a class token before each and a newline token at the end: class a b class c d newline.
LAYOUT = probe.VideoLayout.repeated(probe.Grid.whole(1, 2, (10, 20), first=1), frames=3, merged=2, stride=3, last=1)
POSITIONS = (10, 11, 12, 20, 21, 22, 23)  # other tokens lie between the steps


def test_cells_and_separators_are_all_tokens() -> None:
    assert LAYOUT.cells == (1, 2, 4, 5)
    assert LAYOUT.separators == (0, 3, 6)
    assert LAYOUT.tokens == 7
    assert LAYOUT.frames == ((0, 1), (2,))


def test_a_layout_of_another_number_of_tokens_is_refused() -> None:
    assert LAYOUT.check(7, "x") is LAYOUT
    with pytest.raises(GridMismatch, match="2 x 1 x 2 cells and 3 separators = 7 tokens for this video, but input_ids has 8"):
        LAYOUT.check(8, "x")


def test_frames_of_one_video_are_named_by_number() -> None:
    spans = video_spans([POSITIONS], [LAYOUT])
    assert {name: span.positions for name, span in spans.items()} == {
        "video": POSITIONS,
        "video 0": POSITIONS,
        "frame 0": (11, 12),
        "frame 1": (11, 12),
        "frame 2": (21, 22),
    }


def test_frames_of_several_videos_are_named_after_their_video() -> None:
    spans = video_spans([POSITIONS, (30, 31)], [LAYOUT, None])
    assert spans["video"].positions == (*POSITIONS, 30, 31)
    assert spans["video 0 frame 2"].positions == (21, 22)
    assert "frame 2" not in spans


def test_a_video_folds_to_frames_rows_and_columns() -> None:
    tokens = probe.TokenMap(tuple(range(30)), (), (), {}, videos=(POSITIONS,), video_layouts=(LAYOUT,))
    layout, reason = tokens.layout_or_reason(POSITIONS)
    assert (layout, reason) == (LAYOUT, "")
    folded = probe.Activation(torch.arange(7.0), ("token",), layout=layout).grid()
    assert folded.dims == ("frame", "row", "col")
    assert folded.coords == {"frame": (0, 2)}
    assert folded.data.tolist() == [[[1, 2]], [[4, 5]]]
    assert folded.sel(frame=2).to_pixels().shape == {"height": 10, "width": 20}


def test_a_frame_folds_to_rows_and_columns() -> None:
    tokens = probe.TokenMap(tuple(range(30)), (), (), {}, videos=(POSITIONS,), video_layouts=(LAYOUT,))
    layout, _ = tokens.layout_or_reason((21, 22))
    assert probe.Activation(torch.tensor([5.0, 6.0]), ("token",), layout=layout).grid().data.tolist() == [[5, 6]]


@pytest.mark.parametrize("name", ["video", "video 0", "frame 12", "video 1 frame 0"])
def test_names_of_videos_and_frames_are_encodes_own(name: str) -> None:
    tokens = probe.TokenMap((1, 2), (), (), {})
    with pytest.raises(InvalidRead, match="is named by encode"):
        tokens.with_spans({name: probe.Span((0,))})
