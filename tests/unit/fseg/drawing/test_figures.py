"""Figures: colours and labels as PASCAL VOC has them, maps and prompts where they belong, and nothing cut off."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from fseg.drawing.axes import on_pixels
from fseg.drawing.figures import class_palette, layers_figure, overlay, palette, panel, save_labels, steps_figure
from fseg.drawing.png import png_of
from fseg.errors import CannotDraw, OutputError
from fseg.evidence import Evidence
from probe.tokens.layout import Grid

GREY = (100, 100, 100)
CAT, DOG = (192, 64, 192), (0, 192, 64)
"""The colours that these names choose: labels 61 and 50 of the palette."""


@dataclass(frozen=True)
class Outcome:
    labels: np.ndarray
    classes: tuple[str, ...]
    evidence: Mapping[str, Evidence]
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)


def grey(width: int = 60, height: int = 30) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def found(name: str, size: tuple[int, int] = (30, 60), answer: str = "yes, it contains a cat. It is red.") -> Evidence:
    rise = torch.linspace(0, 1, 6).reshape(2, 3)
    return Evidence(
        name, name, True, answer, 2.5, None, Grid.whole(2, 3, size),
        raw_distance=rise, distance=rise, attention=rise, prototype_mask=rise > 0.3, refined=rise > 0.5,
        points=((49.5, 22.0),), box=(20.0, 15.0, 59.0, 29.0), score=0.9,
    )  # fmt: skip


def absent(name: str) -> Evidence:
    return Evidence(name, name, False, "No.", None, None, Grid.whole(2, 3, (30, 60)))


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.mark.parametrize(
    ("label", "colour"),
    [(0, (0, 0, 0)), (1, (128, 0, 0)), (8, (64, 0, 0)), (15, (192, 128, 128)), (20, (0, 64, 128)), (255, (224, 224, 192))],
)
def test_the_palette_is_that_of_pascal_voc(label: int, colour: tuple[int, int, int]) -> None:
    assert tuple(palette()[label].tolist()) == colour


def test_no_two_labels_share_a_colour() -> None:
    assert len({tuple(colour) for colour in palette().tolist()}) == 256


def test_the_palette_cannot_be_changed_by_who_uses_it() -> None:
    with pytest.raises(ValueError, match="read-only"):
        palette()[0] = 1


@given(st.permutations(["cat", "dog", "cow", "chair", "car", "apple", "star", "a\u0300 la mode"]))
def test_a_class_keeps_its_colour_wherever_it_stands(classes: list[str]) -> None:
    """`chair` and `car` choose the same colour: one of them takes the next."""
    by_name = {name: tuple(colour) for name, colour in zip(classes, class_palette(classes)[1:].tolist(), strict=False)}
    assert by_name["cat"] == CAT
    assert by_name["dog"] == DOG
    assert by_name["car"] == tuple(palette()[12].tolist())
    assert by_name["chair"] == tuple(palette()[13].tolist())
    assert len(set(by_name.values())) == len(classes)
    assert all(max(colour) - min(colour) >= 128 for colour in by_name.values())  # none is lost on a grey image


def test_as_many_classes_as_a_png_holds_have_colours_of_their_own() -> None:
    colours = class_palette([f"class {number}" for number in range(254)])
    assert len({tuple(colour) for colour in colours.tolist()}) == 256
    assert class_palette([f"class {number}" for number in range(300)])[255].tolist() == palette()[255].tolist()


def test_saved_labels_have_the_colours_of_their_classes(tmp_path: Path) -> None:
    save_labels(tmp_path / "a.png", [[0, 2]], ["cat", "dog"])
    assert Image.open(tmp_path / "a.png").convert("RGB").getpixel((1, 0)) == DOG


def test_saved_labels_are_the_pixel_values_of_a_palette_png(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 20], [255, 2, 0]])
    save_labels(tmp_path / "a.png", labels)
    drawn = Image.open(tmp_path / "a.png")
    assert drawn.mode == "P"
    np.testing.assert_array_equal(np.asarray(drawn), labels)
    assert drawn.convert("RGB").getpixel((2, 0)) == (0, 64, 128)


def test_labels_that_a_png_cannot_hold_leave_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("before")
    with pytest.raises(CannotDraw, match="labels 256"):
        save_labels(tmp_path / "a.png", torch.tensor([[0, 256]]))
    assert (tmp_path / "a.png").read_text() == "before"


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, file: IO[bytes], format: str) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="no space"):
        save_labels(tmp_path / "a.png", [[0, 1]])
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_mixes_the_colour_in_and_draws_the_outline_in_full() -> None:
    labels = np.zeros((9, 9), dtype=int)
    labels[2:7, 2:7] = 1
    drawn = overlay(grey(9, 9), labels, ["cat"], opacity=0.5, legend=False)
    assert drawn.size == (9, 9)
    assert drawn.getpixel((4, 4)) == (146, 82, 146)  # halfway from (100, 100, 100) to (192, 64, 192)
    assert drawn.getpixel((2, 4)) == CAT
    assert drawn.getpixel((0, 0)) == GREY
    assert drawn.getpixel((1, 4)) == GREY


def test_the_legend_lies_below_and_names_only_what_is_seen() -> None:
    labels = np.zeros((50, 400), dtype=int)
    bare = overlay(grey(400, 50), labels, ["cat", "dog"])
    labels[:, 200:] = 2
    named = overlay(grey(400, 50), labels, ["cat", "dog"])
    below = np.asarray(named)[50:].reshape(-1, 3)
    assert bare.size == (400, 50)
    assert named.width == 400
    assert (below == DOG).all(1).any()
    assert not (below == CAT).all(1).any()


def test_a_legend_of_many_names_takes_more_rows_and_never_leaves_the_page() -> None:
    classes = [f"a class of some name {index}" for index in range(60)]
    labels = np.arange(61).repeat(5)[None].repeat(20, 0)
    page = np.asarray(overlay(grey(305, 20), labels, classes))
    assert page.shape[0] > 20 + 30 * 12
    assert page.shape[1] == 305
    assert (page[20:, -1] == 255).all()


def test_a_legend_wider_than_a_tiny_image_widens_the_page() -> None:
    assert overlay(grey(1, 1), [[1]], ["a rather long name"]).width > 100


@pytest.mark.parametrize("labels", [np.zeros((60, 30)), np.zeros((30, 60, 1))], ids=["turned", "three axes"])
def test_labels_of_another_shape_than_the_image_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(CannotDraw, match=r"should have the shape \(30, 60\)"):
        overlay(grey(), labels, ["cat"])


def test_labels_beyond_the_classes_are_refused_by_number() -> None:
    with pytest.raises(CannotDraw, match="labels -1, 3: with 2 classes, 0 to 2 and 255"):
        overlay(grey(2, 2), [[-1, 0], [3, 255]], ["cat", "dog"])


def test_each_present_class_gets_a_row_and_an_absent_one_none() -> None:
    figure = steps_figure(grey(), [found("cat"), absent("dog"), found("cow")])
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ["cat", "cow"]
    assert len(figure.axes) == 2 * 5


def test_an_image_without_a_class_says_so() -> None:
    figure = steps_figure(grey(), [absent("cat")])
    assert figure.axes[0].get_xlabel() == "no class is present"


def test_masks_add_a_column() -> None:
    figure = steps_figure(grey(), [found("cat")], masks={"cat": np.ones((30, 60), dtype=bool)})
    assert titles(figure)[-1] == "SAM's mask"
    assert len(figure.axes) == 6


def test_a_map_covers_the_whole_of_an_image_that_is_not_square() -> None:
    figure = steps_figure(grey(), [found("cat")])
    drawn, heat = figure.axes[1].get_images()
    assert list(drawn.get_extent()) == list(heat.get_extent()) == [-0.5, 59.5, 29.5, -0.5]
    values = heat.get_array()
    assert values is not None
    assert np.array_equal(values, np.kron(np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3), np.ones((15, 20))))


def test_a_map_is_drawn_where_its_cells_lie() -> None:
    """Two columns of cells over the middle of the image: nothing is drawn left and right of them."""
    middle = Grid.whole(1, 2, (30, 60), box=(20.0, 0.0, 40.0, 30.0))
    drawn = on_pixels(torch.tensor([[0.25, 0.75]]), middle)
    assert np.isnan(drawn[:, :20]).all()
    assert np.isnan(drawn[:, 40:]).all()
    assert (drawn[:, 20:30] == 0.25).all()
    assert (drawn[:, 30:40] == 0.75).all()


def test_prompts_are_drawn_on_the_pixels_that_they_name() -> None:
    axes = steps_figure(grey(), [found("cat")]).axes[4]
    (box,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert list(box.get_bbox().extents) == [19.5, 14.5, 59.5, 29.5]  # pixels 20 to 59 and 15 to 29, edges included
    assert axes.lines[0].get_xydata().tolist() == [[49.5, 22.0]]  # type: ignore[union-attr]


def test_a_class_has_the_colour_of_its_label_in_every_figure() -> None:
    steps = steps_figure(grey(), [found("dog")], ["cat", "dog"])
    page = panel(grey(), Outcome(np.full((30, 60), 2), ("cat", "dog"), {"dog": found("dog")}))
    for figure in (steps, page):
        (name,) = [axes.yaxis.label for axes in figure.axes if axes.get_ylabel()]
        np.testing.assert_allclose(np.asarray(name.get_color(), dtype=float) * 255, DOG)


def test_layers_are_drawn_in_their_order_on_one_scale() -> None:
    maps = {7: torch.full((2, 3), 0.4), 3: torch.tensor([[-0.1, 0.0, 0.1]])}
    figure = layers_figure(grey(), maps, "cat")
    assert titles(figure) == ["cat", "layer 3", "layer 7"]
    assert [axes.get_images()[1].get_clim() for axes in figure.axes[1:3]] == [pytest.approx((-0.1, 0.4))] * 2


def test_layers_can_each_have_a_scale_of_their_own() -> None:
    figure = layers_figure(grey(), {3: torch.tensor([[0.0, 0.1]]), 7: torch.tensor([[0.2, 0.9]])}, "cat", shared=False)
    assert [axes.get_images()[1].get_clim() for axes in figure.axes[1:3]] == [pytest.approx((0.0, 0.1)), pytest.approx((0.2, 0.9))]


def test_no_layer_at_all_is_refused() -> None:
    with pytest.raises(CannotDraw, match="no layer of 'cat'"):
        layers_figure(grey(), {}, "cat")


def test_a_panel_shows_the_truth_only_where_there_is_one() -> None:
    outcome = Outcome(np.zeros((30, 60), dtype=int), ("cat",), {"cat": absent("cat")})
    assert titles(panel(grey(), outcome)) == ["image", "prediction"]
    assert titles(panel(grey(), outcome, np.ones((30, 60)))) == ["image", "truth", "prediction"]


def test_a_panel_shows_the_mask_that_sam_gave_whatever_the_labels_left_of_it() -> None:
    mask = np.zeros((30, 60), dtype=bool)
    mask[:, :30] = True
    outcome = Outcome(np.zeros((30, 60), dtype=int), ("cat",), {"cat": found("cat")}, {"cat": mask})
    (ax,) = [axes for axes in panel(grey(), outcome).axes if axes.get_title() == "SAM's mask"]
    shade = ax.images[1].get_array()
    np.testing.assert_allclose(shade[0, 0, :3] * 255, CAT)
    assert shade[0, 59, :3].tolist() == [1, 1, 1]


@pytest.mark.parametrize("size", [(40, 30), (30, 90)])
def test_a_drawn_panel_is_at_least_a_thousand_pixels_wide(size: tuple[int, int]) -> None:
    outcome = Outcome(np.zeros(size[::-1], dtype=int), ("cat",), {"cat": absent("cat")})
    assert Image.open(io.BytesIO(png_of(panel(grey(*size), outcome)))).width >= 1000


def test_a_panel_quotes_the_answer_its_doubts_and_its_flags() -> None:
    outcome = Outcome(np.ones((30, 60), dtype=int), ("cat",), {"cat": found("cat").flagged("no-description")})
    said = "\n".join(text.get_text() for axes in panel(grey(), outcome).axes for text in axes.texts)
    assert "“yes, it contains a cat. It is red.”" in said
    assert "margin 2.5; SAM's own estimate of its IoU 0.90; no-description" in said.replace("\n", " ")


def test_a_fusion_that_left_only_its_response_has_that_drawn() -> None:
    bare = replace(found("cat"), raw_distance=None, response=torch.ones(2, 3))
    shown = titles(panel(grey(), Outcome(np.ones((30, 60), dtype=int), ("cat",), {"cat": bare})))
    assert shown[2] == "$D_f$  response"


@pytest.mark.parametrize("size", [(60, 30), (30, 60), (300, 3), (3, 300), (1, 1)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_no_text_of_a_panel_is_cut_off(size: tuple[int, int]) -> None:
    classes = tuple(f"a long name of number {index}" for index in range(12))
    cost = found(classes[0], (size[1], size[0]), "yes, it costs $5 or $6_x. " * 30)
    labels = np.resize(np.arange(13), (size[1], size[0]))
    figure = panel(grey(*size), Outcome(labels, classes, {classes[0]: cost}), labels)
    figure.savefig(io.BytesIO(), format="png")
    cut = [text.get_text() for text in drawn(figure) if not inside(figure, text)]
    assert cut == []


def drawn(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text() and text.get_visible()]


def inside(figure: Figure, text: Text) -> bool:
    extent: Any = text.get_window_extent()
    page: Any = figure.bbox
    return bool(extent.x0 >= -1 and extent.y0 >= -1 and extent.x1 <= page.x1 + 1 and extent.y1 <= page.y1 + 1)
