"""The sticker world's scenes: what they are drawn with, and that their truth is the alpha of what was drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from fseg.errors import InvalidOption
from fseg.stickers import ARTISTS, CLASSES, SYNONYMS, canonical, scene
from fseg.stickers.drawings import CELLS, TRAINING
from fseg.stickers.scenes import PHOTOGRAPHS, Style, draw
from fseg.stickers.sprites import level, posed, sheet_file, sprites

VOC_SPELLINGS = "aeroplane bicycle bird boat bottle bus car cat chair cow dog horse motorbike person pottedplant sheep sofa train tvmonitor"
SHIPPED = [name for name, artist in ARTISTS.items() if artist.shipped]


def test_voc_s_drawable_classes_are_known_by_its_own_spellings() -> None:
    assert [canonical(name) for name in VOC_SPELLINGS.split()] == list(CLASSES[:19])
    assert canonical("motorcycle") == "motorbike"
    assert canonical("zebra") is None
    assert not set(SYNONYMS) & set(CLASSES)


def test_every_class_is_drawn_by_a_shipped_artist_and_most_by_all() -> None:
    drawn = {artist: sprites(artist) for artist in SHIPPED}
    assert all(any(name in each for each in drawn.values()) for name in CLASSES)
    assert min(len(each) for each in drawn.values()) >= 20
    assert len(drawn["noto"]["cat"]) == 5


def test_what_is_shipped_may_be_shipped_and_is_small() -> None:
    assert {ARTISTS[name].licence for name in SHIPPED} == {"Apache-2.0", "MIT"}
    folder = sheet_file("noto").parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(["NOTICE", *(f"{name}.png" for name in SHIPPED)])
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2e6
    notice = (folder / "NOTICE").read_text()
    assert all(f"{name}.png" in notice for name in SHIPPED)


def test_the_held_out_artist_is_none_of_the_training_s() -> None:
    assert [name for name, artist in ARTISTS.items() if artist.held_out] == ["twemoji"]
    assert "twemoji" not in TRAINING
    assert not set(PHOTOGRAPHS["train"]) & set(PHOTOGRAPHS["held-out"])


@pytest.mark.parametrize("change", [{}, {"artist": "noto"}, {"split": "train"}, {"size": (120, 160)}], ids=str)
def test_the_same_arguments_give_the_same_scene(change: dict[str, object]) -> None:
    first, second = scene(5, **change), scene(5, **change)  # type: ignore[arg-type]
    assert first.image.tobytes() == second.image.tobytes()
    assert np.array_equal(first.labels, second.labels)
    assert first.things == second.things


def test_seeds_splits_and_artists_give_other_scenes() -> None:
    shown = [scene(5, size=(96, 96)), scene(6, size=(96, 96)), scene(5, split="train", size=(96, 96)), scene(5, "noto", size=(96, 96))]
    assert len({each.image.tobytes() for each in shown}) == 4


def test_an_artist_draws_all_stickers_of_a_scene_that_asks_for_it() -> None:
    assert {thing.artist for seed in range(8) for thing in scene(seed, "fxemoji", size=(96, 96)).things} == {"fxemoji"}
    assert len({thing.artist for seed in range(8) for thing in scene(seed, size=(96, 96)).things}) > 1


def test_the_truth_is_where_a_sticker_covers_the_ground() -> None:
    """The same random numbers paint the same scene in another colour: pixels that change by the sticker's alpha are its labels."""

    def filled(colour: tuple[int, int, int]) -> Callable[[np.random.Generator, Image.Image], Image.Image]:
        def fill(_: np.random.Generator, sprite: Image.Image) -> Image.Image:
            plain = Image.new("RGBA", sprite.size, (*colour, 255))
            plain.putalpha(sprite.getchannel("A"))
            return plain

        return fill

    for seed in range(6):
        white, black = (
            draw(np.random.default_rng(seed), Style(("noto",), PHOTOGRAPHS["train"], recolour=filled(colour)), 120, 160)
            for colour in ((255, 255, 255), (0, 0, 0))
        )
        alpha = np.asarray(ImageChops.difference(white.image, black.image).convert("L"), dtype=int)
        assert np.array_equal(white.labels, black.labels)
        assert (alpha[white.labels > 0] >= 120).all()  # a sticker's own alpha is at least 128 of 255 there, but for rounding
        assert (alpha[white.labels == 0] < 255).all()  # nothing is wholly covered without a label
        assert (alpha[white.labels == 0] >= 128).mean() < 0.01  # two half covering edges may add up


def test_things_are_what_the_labels_show() -> None:
    for seed in range(20):
        shown = scene(seed, size=(120, 160))
        assert 0 < len(shown.things) <= 5
        assert shown.classes == tuple(sorted(shown.classes, key=CLASSES.index))
        assert set(np.unique(shown.labels)) - {0} == {thing.index + 1 for thing in shown.things}
        for thing in shown.things:
            y, x = np.nonzero(shown.labels == thing.index + 1)
            assert thing.box == (x.min(), y.min(), x.max() + 1, y.max() + 1)
            assert thing.area == len(x)


def test_a_posed_sticker_has_the_length_asked_for() -> None:
    sprite = level("noto", "bus", 0, 100)
    shape = posed(sprite, 100, 0, mirror=False)
    assert abs(max(shape.size) - 100) <= 1
    assert abs(min(posed(sprite, 100, 0, mirror=False, stretch=0.5).size) - 50) <= 1  # narrowed, as high as before


def test_a_mirrored_sticker_is_its_mirror_image() -> None:
    sprite = level("noto", "guitar", 0, 100)
    shape, turned = posed(sprite, 100, 0, mirror=False), posed(sprite, 100, 0, mirror=True)

    def difference(other: Image.Image) -> float:
        return float(np.abs(np.asarray(other.resize(shape.size), dtype=int) - np.asarray(shape, dtype=int)).mean())

    assert difference(turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) < 0.2 * difference(turned)


def test_the_lengths_of_stickers_span_what_is_promised() -> None:
    shown = [scene(seed, size=(200, 200)) for seed in range(150)]
    whole = [
        max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]) / 200
        for each in shown
        for thing in each.things
        if len(each.things) == 1 and min(thing.box[:2]) > 0 and max(thing.box[2:]) < 200
    ]
    assert 0.1 < min(whole) < 0.25
    assert 0.5 < max(whole) < 0.75  # a turned square is longer along an axis


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "scenes are numbered from 0"),
        ({"seed": 0, "artist": "picasso"}, "no artist 'picasso'; there are noto, noto-v1, fluent-emoji"),
        ({"seed": 0, "split": "test"}, "'train', 'held-out'"),
    ],
    ids=["seed", "artist", "split"],
)
def test_what_is_not_there_is_named_with_what_is(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        scene(**arguments)  # type: ignore[arg-type]


def test_drawings_that_were_not_fetched_name_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FSEG_STICKERS", str(tmp_path))
    with pytest.raises(InvalidOption, match=r"python -m fseg\.stickers\.fetch.*use noto, noto-v1"):
        scene(0, "twemoji")


def test_a_class_that_is_not_in_a_scene_names_those_that_are() -> None:
    shown = scene(1)
    with pytest.raises(InvalidOption, match=f"no cat in this scene; there are {', '.join(shown.classes)}"):
        shown.thing("cat")
    with pytest.raises(InvalidOption, match=r"no class 'zebra'; there are airplane, .* scissors"):
        shown.thing("zebra")
    assert shown.thing("motorcycle") == shown.thing("motorbike")


def test_several_drawings_show_most_classes() -> None:
    drawings = [drawing for _, drawing in CELLS]
    assert len(set(drawings)) == len(drawings)
    assert sum(sum(name == shown for shown, _ in CELLS) > 1 for name in CLASSES) >= 19
