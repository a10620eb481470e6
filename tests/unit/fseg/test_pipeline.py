"""The Segmenter: what runs, what is refused before it runs, what one bad image does to the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import fseg
import probe
from fseg.errors import InvalidClasses, InvalidOption, InvalidRecipe, UnknownRecipe
from fseg.fusion_methods import registry
from fseg.sweep import Sweep
from probe.workers.prefetching import prefetch
from tests import families, zoo
from tests.planted import plant
from tests.processors import real
from tests.unit.fseg.sams import tiny_sam

RECIPE = fseg.get_recipe("fseg-llava-1.5-vicuna-7b").with_({"respond.layers": (1, 3), "ask.max_new_tokens": 4})


@pytest.fixture(scope="module")
def model() -> probe.Probe:
    """4 x 4 cells; a white cell of a black image is the token "plant"."""
    hf, processor = plant(zoo.llava(), "plant")
    return probe.load(model=hf, processor=processor, resize="stretch", tiles=False)


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    """40 x 80 (height, width), cell (1, 2) white."""
    image = Image.new("RGB", (80, 40), "black")
    image.paste("white", (40, 10, 60, 20))
    return image


def segmenter(model: probe.Probe, recipe: fseg.Recipe = RECIPE) -> fseg.Segmenter:
    return fseg.Segmenter(recipe, backbone=model, sam=tiny_sam())


def test_an_image_with_no_class_present_is_all_background(model: probe.Probe, scene: Image.Image) -> None:
    result = segmenter(model)(scene, ["pottedplant", "cat"])  # the planted model ends each answer at once: an empty answer is not a yes
    assert result.present == ()
    assert result.labels.dtype == np.int64
    assert result.labels.shape == (40, 80)
    assert not result.labels.any()
    assert not result.masks["cat"].any()
    assert (result.evidence["cat"].present, result.evidence["cat"].answer) == (False, "")


def test_a_class_that_is_assumed_leaves_all_its_evidence(model: probe.Probe, scene: Image.Image) -> None:
    result = segmenter(model, RECIPE.with_({"ask.presence": "assume"}))(scene, ["pottedplant"])
    evidence = result.evidence["pottedplant"]
    assert evidence.grid.shape == (4, 4)
    assert evidence.refined is not None
    assert evidence.refined.nonzero().tolist() == [[1, 2]]
    assert evidence.points == ((49.5, 14.5),)
    assert evidence.box == (40, 10, 59, 19)
    assert evidence.score is not None
    assert set(np.unique(result.labels)) <= {0, 1}
    assert ((result.labels == 1) <= result.masks["pottedplant"]).all()


def test_of_several_names_the_one_that_fits_best_gives_the_map(model: probe.Probe, scene: Image.Image) -> None:
    assumed = segmenter(model, RECIPE.with_({"ask.presence": "assume"}))
    result = assumed(scene, {"greenery": ["cat", "pottedplant"]})
    assert result.evidence["greenery"].asked_as == "pottedplant"


def test_one_bad_image_does_not_stop_the_others(model: probe.Probe, scene: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("not an image")
    results = list(segmenter(model).map([scene, tmp_path / "bad.png", tmp_path / "missing.png", scene], ["cat"], workers=2))
    assert [type(result).__name__ for result in results] == ["Result", "Failure", "Failure", "Result"]
    assert "is not an image" in str(results[1])
    assert str(tmp_path / "missing.png") in str(results[2])


@pytest.mark.parametrize("batch", [2, 3, 9])
def test_images_together_give_what_each_gives(model: probe.Probe, scene: Image.Image, tmp_path: Path, batch: int) -> None:
    made, images = segmenter(model), [scene, scene.rotate(180), tmp_path / "missing.png", scene.rotate(90), scene.rotate(270)]
    results = list(made.map(images, ["pottedplant", "cat"], batch=batch))
    assert [type(result).__name__ for result in results] == ["Result", "Result", "Failure", "Result", "Result"]
    alone = [made(image, ["pottedplant", "cat"]) for image in images if isinstance(image, Image.Image)]
    for result, one in zip([result for result in results if isinstance(result, fseg.Result)], alone, strict=True):
        assert (result.labels == one.labels).all()
        assert {name: e.answer for name, e in result.evidence.items()} == {name: e.answer for name, e in one.evidence.items()}


def test_layers_beyond_the_model_are_refused_before_any_image(model: probe.Probe) -> None:
    with pytest.raises(InvalidRecipe, match=r'The recipe "fseg-llava-1\.5-vicuna-7b" does not fit .* [Ll]ayer 5 .* to 4'):
        segmenter(model, RECIPE.with_({"respond.layers": (3, 5)}))


def test_classes_are_checked_before_the_image(model: probe.Probe) -> None:
    for classes in ([], ["cat", "cat"], [""]):
        with pytest.raises(InvalidClasses):
            segmenter(model)("no-such-file.png", classes)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (20000, 2)])
def test_images_of_any_shape_go_through(model: probe.Probe, size: tuple[int, int]) -> None:
    result = segmenter(model, RECIPE.with_({"ask.presence": "assume"}))(Image.new("RGB", size, "white"), ["cat"])
    assert result.labels.shape == (size[1], size[0])


def test_a_result_is_saved_with_all_that_made_it(model: probe.Probe, scene: Image.Image, tmp_path: Path) -> None:
    result = segmenter(model, RECIPE.with_({"ask.presence": "assume"}))(scene, ["cat/dog", "pottedplant"])
    folder = result.save(tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == [
        "classes.json",
        "evidence.safetensors",
        "labels.png",
        "masks.npz",
        "overlay.png",
        "recipe.toml",
        "result.json",
    ]
    labels = Image.open(folder / "labels.png")
    assert labels.mode == "P"
    assert (np.asarray(labels) == result.labels).all()
    assert json.loads((folder / "classes.json").read_text()) == {"0": "background", "1": "cat/dog", "2": "pottedplant"}
    written = json.loads((folder / "result.json").read_text())
    assert [entry["name"] for entry in written["classes"]] == ["cat/dog", "pottedplant"]
    assert written["classes"][1]["area"] == int((result.labels == 2).sum())
    assert written["recipe"]["respond"]["layers"] == [1, 3]
    assert {"fseg-llava", "torch", "transformers"} <= set(written["versions"])
    assert fseg.Recipe.from_toml((folder / "recipe.toml").read_text()) == result.recipe
    with safe_open(folder / "evidence.safetensors", "pt") as maps:
        assert json.loads(maps.metadata()["classes"]) == ["cat/dog", "pottedplant"]
        assert torch.equal(maps.get_tensor("1/refined"), result.evidence["pottedplant"].refined)


def test_the_tower_looks_once_for_all_questions_and_all_stages(model: probe.Probe, scene: Image.Image) -> None:
    made = segmenter(model, RECIPE.with_({"ask.presence": "assume"}))
    forwards: list[int] = []
    hook = model.model.model.vision_tower.register_forward_pre_hook(lambda *_: forwards.append(1))
    made(scene, ["cat", "dog", "boat"])
    hook.remove()
    assert len(forwards) == 1


def test_layer_distances_cover_every_layer(model: probe.Probe, scene: Image.Image) -> None:
    maps = segmenter(model).layer_distances(scene, "pottedplant")
    assert list(maps) == [0, 1, 2, 3, 4]
    assert all(int(one.argmax()) == 1 * 4 + 2 for one in maps.values())


def test_an_own_fusion_runs_by_its_name(model: probe.Probe, scene: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))

    @fseg.fusion("sharp", reads=lambda layers, **_: [probe.Hidden(layers=fseg.band(layers), at=("image", "class"))])
    def sharp(e, *, layers=(7, 13), power=2.0):  # type: ignore[no-untyped-def]  # as an author writes it
        """Mean cosine over a band of layers, sharpened."""
        image, word = e.hidden("image"), e.hidden("class")
        cosine = torch.cosine_similarity(image, word[:, -1:], dim=-1).mean(0)
        return e.fold(cosine.clamp(min=0) ** power)

    recipe = RECIPE.with_({"ask.presence": "assume", "respond.fusion": "sharp", "respond.layers": (1, 2), "respond.power": 4.0})
    evidence = segmenter(model, recipe)(scene, ["pottedplant"]).evidence["pottedplant"]
    assert evidence.response is not None
    assert int(evidence.response.argmax()) == 6
    assert evidence.raw_distance is None


@pytest.mark.parametrize(
    "changes",
    [{"respond.fusion": "D"}, {"respond.fusion": "M_A"}, {"refine.mask": "M_v"}, {"refine.mask": "M^_f"}, {"prompt.kind": "point"}],
)
def test_every_row_of_the_ablations_can_be_saved(
    model: probe.Probe, scene: Image.Image, tmp_path: Path, changes: dict[str, object]
) -> None:
    result = segmenter(model, RECIPE.with_({"ask.presence": "assume", **changes}))(scene, ["pottedplant"])
    assert (result.save(tmp_path) / "evidence.safetensors").stat().st_size > 0


def test_a_model_that_would_crop_the_image_is_refused(model: probe.Probe) -> None:
    hf, processor = zoo.llava()
    with pytest.raises(InvalidRecipe, match=r'Open it with probe\.load\(\.\.\., resize="stretch", tiles=False\)'):
        fseg.Segmenter(RECIPE, backbone=probe.load(model=hf, processor=processor), sam=tiny_sam())
    with pytest.raises(InvalidRecipe, match="backbone= is a LlavaForConditionalGeneration"):
        fseg.Segmenter(RECIPE, backbone=hf, sam=tiny_sam())  # type: ignore[arg-type]


def test_one_image_is_segmented_at_a_time(model: probe.Probe, scene: Image.Image) -> None:
    with pytest.raises(probe.errors.ImageError, match="2 images were given at once"):
        segmenter(model)([scene, scene], ["cat"])  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [["cat", "</s>"], {"cat": ["cat", "a <s> b"]}, ["<image>"]])
def test_a_special_token_in_a_class_name_is_refused_before_the_model_runs(
    model: probe.Probe, scene: Image.Image, classes: fseg.pipeline.Classes
) -> None:
    forwards: list[int] = []
    hook = model.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    made = segmenter(model)
    for refused in (
        lambda: made(scene, classes),
        lambda: next(made.map([scene], classes)),
        lambda: Sweep(made, {"a": RECIPE})(scene, classes),
    ):
        with pytest.raises(InvalidClasses, match="cannot be asked about"):
            refused()
    hook.remove()
    assert forwards == []


@pytest.mark.parametrize("recipe", [5, "", "no such"])
def test_a_recipe_that_is_none_is_refused(recipe: object) -> None:
    with pytest.raises(UnknownRecipe):
        fseg.Segmenter(recipe)  # type: ignore[arg-type]


def test_a_model_without_a_processor_is_refused() -> None:
    with pytest.raises(probe.errors.ProcessorNeeded, match="has no processor to ask with"):
        fseg.Segmenter(RECIPE, backbone=probe.load(model=zoo.llava()[0]), sam=tiny_sam())


def test_a_segmenter_and_what_it_gives_are_shown_in_a_line(model: probe.Probe, scene: Image.Image) -> None:
    made = segmenter(model, RECIPE.with_({"ask.presence": "assume"}))
    assert repr(made) == ("Segmenter(recipe 'fseg-llava-1.5-vicuna-7b', backbone LlavaForConditionalGeneration, SAM Sam, cpu, float32)")
    result = made(scene, ["pottedplant", *(f"class {i}" for i in range(30))])
    assert repr(result).startswith("Result(80 x 40 pixels, 31 of 31 classes present: pottedplant, class 0, ")
    assert len(repr(result)) < 160
    assert repr(result.evidence["pottedplant"]) == (
        "Evidence('pottedplant', present, answer 'yes, it contains a pottedplant.', 1 point, a box, score "
        f"{result.evidence['pottedplant'].score:.2f}, flags: presence-assumed, no-description, few-patches)"
    )
    assert (
        repr(fseg.Segmenter(RECIPE, backbone=model, sam=tiny_sam())(scene, ["cat"]).evidence["cat"])
        == "Evidence('cat', absent, answer '', margin 0.00)"
    )


def test_a_family_without_a_grid_is_refused_with_the_reason_and_families_that_can():
    hf, _ = families.build("pix2struct")
    model = probe.load(model=hf, processor=zoo.llava()[1])
    with pytest.raises(InvalidRecipe, match=r"pix2struct cannot be segmented with: .* Families that can, for example: LLaVA-1\.5"):
        fseg.Segmenter(backbone=model)


def test_a_loaded_model_prepares_images_as_the_recipe_says() -> None:
    hf, processor = zoo.llava()
    loaded = probe.load(model=hf, processor=processor)
    with pytest.raises(InvalidRecipe, match=r'prepares images by its processor, and the recipe has backbone\.prepare="stretch"'):
        fseg.Segmenter(RECIPE, backbone=loaded, sam=tiny_sam())
    direct = loaded.with_preparation(resize="stretch", tiles=False)
    with pytest.raises(InvalidRecipe, match=r'resizes images directly .*, and the recipe has backbone\.prepare="processor"'):
        fseg.Segmenter(RECIPE.with_({"backbone.prepare": "processor"}), backbone=direct, sam=tiny_sam())
    assert direct.model is loaded.model


def test_a_padded_image_has_the_cells_that_show_it() -> None:
    """40 x 20 pixels in a square of 40: of 4 x 4 cells the middle two columns show them."""
    hf, processor = zoo.llava()
    recipe = RECIPE.with_({"backbone.prepare": "pad", "ask.presence": "assume"})
    padded = probe.load(model=hf, processor=processor, resize="pad")
    result = fseg.Segmenter(recipe, backbone=padded, sam=tiny_sam())(Image.new("RGB", (20, 40), "red"), ["cat"])
    grid = result.evidence["cat"].grid
    assert (grid.rows, grid.cols, grid.box) == (4, 2, (0.0, 0.0, 20.0, 40.0))
    for other in ("stretch", "processor"):
        with pytest.raises(
            InvalidRecipe, match=rf'resizes images directly \(resize="pad"\), and the recipe has backbone\.prepare="{other}"'
        ):
            fseg.Segmenter(RECIPE.with_({"backbone.prepare": other}), backbone=padded, sam=tiny_sam())


def test_what_the_processor_crops_away_has_no_cells() -> None:
    """LLaVA-1.5's own processor shows the central square: the point lies there, and the grid ends there."""
    hf, processor = zoo.llava()
    recipe = RECIPE.with_({"backbone.prepare": "processor", "ask.presence": "assume"})
    segmenter = fseg.Segmenter(recipe, backbone=probe.load(model=hf, processor=processor), sam=tiny_sam())
    cat = segmenter(Image.effect_mandelbrot((80, 40), (-2, -1.5, 1, 1.5), 20).convert("RGB"), ["cat"]).evidence["cat"]
    assert cat.grid.box == pytest.approx((20.0, 0.0, 60.0, 40.0))
    assert all(20 <= x <= 60 for x, _ in cat.points)


def test_prompts_lie_on_what_a_tower_with_a_left_over_edge_sees():
    """SigLIP at 384 / 14 sees 378 of 384 pixels."""
    hf, processor = real.llava("full")
    model = probe.load(model=hf, processor=processor, resize="stretch")
    recipe = RECIPE.with_({"ask.presence": "assume", "ask.template": None, "respond.fusion": "D", "refine.vision_layer": -1})
    segmenter = fseg.Segmenter(recipe, backbone=model, sam=tiny_sam())
    cat = segmenter(Image.new("RGB", (768, 384), "grey"), ["cat"]).evidence["cat"]
    assert cat.grid.shape == (27, 27)
    assert cat.grid.box == (0.0, 0.0, 756.0, 378.0)
    assert cat.box is None or (cat.box[2] <= 755.0 and cat.box[3] <= 377.0)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"dtype": "bfloat16"}, r"dtype='bfloat16' was asked for, and the loaded backbone has 'float32'\. Leave dtype out"),
        ({"device": "meta"}, r"device='meta' was asked for, and the loaded backbone is on 'cpu'\. Leave device out"),
    ],
)
def test_a_loaded_backbone_is_neither_moved_nor_converted(model: probe.Probe, option: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRecipe, match=message):
        fseg.Segmenter(RECIPE, backbone=model, sam=tiny_sam(), **option)  # type: ignore[arg-type]
    fseg.Segmenter(RECIPE, backbone=model, sam=tiny_sam(), device="cpu", dtype="float32")


def test_a_sam_goes_to_the_device_of_a_loaded_backbone(model: probe.Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[torch.device] = []
    monkeypatch.setattr(fseg.pipeline, "load_sam", lambda sam, device: devices.append(device))
    monkeypatch.setattr(type(model.model), "device", torch.device("cuda:1"))
    fseg.Segmenter(RECIPE, backbone=model, sam="glyphs")
    assert devices == [torch.device("cuda:1")]


def test_images_before_an_error_of_the_iterable_are_still_segmented(model: probe.Probe, scene: Image.Image) -> None:
    def images() -> Iterator[Image.Image]:
        yield scene
        yield scene
        raise OSError("the disk is gone")

    results = segmenter(model).map(images(), ["cat"], batch=4)
    assert [type(next(results)).__name__ for _ in range(2)] == ["Result", "Result"]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


def test_an_iterable_that_raised_is_not_read_again() -> None:
    class Source:
        """Raises at its second item, and has a third."""

        def __init__(self) -> None:
            self.count = 0

        def __iter__(self) -> Source:
            return self

        def __next__(self) -> int:
            self.count += 1
            if self.count == 2:
                raise OSError("torn")
            return self.count

    ahead = prefetch(str, Source(), workers=1)
    assert next(ahead)[1].result() == "1"
    with pytest.raises(OSError, match="torn"):
        next(ahead)


def test_map_checks_its_arguments_when_it_is_called(model: probe.Probe, scene: Image.Image) -> None:
    made = segmenter(model)
    with pytest.raises(InvalidClasses):
        made.map([scene], [])
    with pytest.raises(InvalidOption, match="batch=0: takes a whole number of at least 1"):
        made.map([scene], ["cat"], batch=0)
    for one in ("ab", Path("a.png"), scene):
        with pytest.raises(probe.errors.ImageError, match=r"map\(\) takes a list or another iterable of images"):
            made.map(one, ["cat"])  # type: ignore[arg-type]
