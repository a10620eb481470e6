"""SAM behind one door: the masks of segment-anything's own predictor, whatever shares a call, and prompts that cannot be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fseg.errors import InvalidOption, InvalidPrompt, InvalidSam
from fseg.evidence import Evidence
from fseg.sam.base import SamMask, SamPrompt
from fseg.sam.loading import load_sam
from fseg.sam.network import PromptableSam
from fseg.sam.segment_anything import SegmentAnythingNetwork
from fseg.sam.transformers import TransformersNetwork
from fseg.stages.segment import Sam
from probe.errors import NotFinite
from probe.tokens.layout import Grid
from tests.unit.fseg.sams import noise, tiny_sam, to_transformers

from segment_anything import SamPredictor, modeling  # isort: skip  after sams, which makes torchvision importable

WIDTH, HEIGHT = 70, 45
PROMPTS = {
    "a point": SamPrompt(points=((12.0, 30.5),)),
    "three points": SamPrompt(points=((12.0, 30.5), (60.25, 3.0), (69.0, 44.0))),
    "a box": SamPrompt(box=(5.0, 10.0, 40.0, 31.0)),
    "a point and a box": SamPrompt(points=((12.0, 30.5),), box=(5.0, 10.0, 40.0, 31.0)),
    "two points and a box": SamPrompt(points=((12.0, 30.5), (8.0, 9.0)), box=(5.0, 2.0, 40.0, 31.0)),
    "a point and a negative one": SamPrompt(points=((12.0, 30.5),), negatives=((60.0, 8.0),)),
    "a box and two negative points": SamPrompt(box=(5.0, 2.0, 40.0, 31.0), negatives=((60.0, 8.0), (30.0, 3.0))),
}


@pytest.fixture(scope="module")
def model() -> modeling.Sam:
    return tiny_sam()


def backends(model: modeling.Sam) -> tuple[PromptableSam, PromptableSam]:
    ours = load_sam(model), load_sam(to_transformers(model.state_dict()))
    assert isinstance(ours[0], PromptableSam)
    assert isinstance(ours[1], PromptableSam)
    return ours[0], ours[1]


def one(name: str, points: tuple[tuple[float, float], ...] = (), box: tuple[float, float, float, float] | None = None) -> Evidence:
    return Evidence(name, name, True, "yes", None, None, Grid.whole(3, 3, (HEIGHT, WIDTH)), points=points, box=box)


def stretched(prompt: SamPrompt, along_x: float, along_y: float) -> SamPrompt:
    points, negatives = (tuple((x * along_x, y * along_y) for x, y in part) for part in (prompt.points, prompt.negatives))
    if prompt.box is None:
        return SamPrompt(points, negatives=negatives)
    x0, y0, x1, y1 = prompt.box
    return SamPrompt(points, (x0 * along_x, y0 * along_y, x1 * along_x, y1 * along_y), negatives=negatives)


def given_to_the_predictor(prompt: SamPrompt) -> dict[str, Any]:
    points = (*prompt.points, *prompt.negatives)
    return {
        "point_coords": np.array(points) if points else None,
        "point_labels": np.array([1] * len(prompt.points) + [0] * len(prompt.negatives)) if points else None,
        "box": None if prompt.box is None else np.array(prompt.box),
    }


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("size", [(70, 45), (45, 70), (64, 64), (11, 300)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_mask_is_that_of_the_predictor_of_segment_anything(model: modeling.Sam, prompt: SamPrompt, size: tuple[int, int]) -> None:
    image = noise(*size)
    prompt = stretched(prompt, (size[0] - 1) / (WIDTH - 1), (size[1] - 1) / (HEIGHT - 1))
    predictor = SamPredictor(model)
    predictor.set_image(np.array(image))
    single = prompt.box is None and len(prompt.points) + len(prompt.negatives) == 1
    masks, scores, _ = predictor.predict(**given_to_the_predictor(prompt), multimask_output=single, return_logits=True)
    backend = load_sam(model)
    (mask,) = backend.masks(backend.embed(image), [prompt])
    assert mask.logits.shape == (image.height, image.width)
    assert mask.logits.dtype == torch.float32
    np.testing.assert_allclose(mask.logits.numpy(), masks[scores.argmax()], atol=1e-5)
    assert mask.score == pytest.approx(float(scores.max()), abs=1e-6)


@pytest.mark.parametrize("which", [0, 1], ids=["segment-anything", "transformers"])
def test_a_refined_mask_is_that_of_a_second_call_of_the_predictor_with_the_first_logits(model: modeling.Sam, which: int) -> None:
    backend, image, asked = backends(model)[which], noise(), [PROMPTS["a point"], PROMPTS["two points and a box"]]
    predictor = SamPredictor(model)
    predictor.set_image(np.array(image))
    refined = backend.masks(backend.embed(image), [replace(prompt, refine=True) for prompt in asked])
    plain = backend.masks(backend.embed(image), asked)
    for prompt, mask, first in zip(asked, refined, plain, strict=True):
        given = given_to_the_predictor(prompt)
        _, scores, low = predictor.predict(**given, multimask_output=prompt.wants_alternatives)
        best = low[scores.argmax()][None]
        masks, scores, _ = predictor.predict(**given, mask_input=best, multimask_output=False, return_logits=True)
        np.testing.assert_allclose(mask.logits.numpy(), masks[0], atol=1e-5)
        assert mask.score == pytest.approx(float(scores[0]), abs=1e-5)
        assert float((mask.logits - first.logits).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("points", "box", "multimask", "alternatives"),
    [
        (1, False, "auto", True),
        (2, False, "auto", False),
        (0, True, "auto", False),
        (1, True, "auto", False),
        (2, True, "on", True),
        (1, False, "off", False),
    ],
)
def test_alternatives_are_asked_for_only_where_one_point_leaves_the_object_open(
    points: int, box: bool, multimask: Any, alternatives: bool
) -> None:
    assert SamPrompt(((1.0, 1.0),) * points, (0.0, 0.0, 2.0, 2.0) if box else None, multimask).wants_alternatives is alternatives


def test_of_alternatives_the_one_with_the_best_predicted_overlap_is_taken(model: modeling.Sam) -> None:
    backend = load_sam(model)
    embedding = backend.embed(noise())
    with torch.no_grad():
        _, scores = backend.network.decode(
            embedding.features, torch.tensor([[[10.0, 28.0]]]), torch.ones(1, 1, dtype=torch.int), None, True
        )  # type: ignore[attr-defined]
    (mask,) = backend.masks(embedding, [SamPrompt(((10.0 * WIDTH / 64, 28.0 * HEIGHT / 41),))])
    assert scores.shape == (1, 3)
    assert mask.score == pytest.approx(float(scores.max()), abs=1e-5)


@pytest.mark.parametrize("which", [0, 1], ids=["segment-anything", "transformers"])
def test_classes_that_share_a_call_get_the_masks_of_calls_of_their_own(model: modeling.Sam, which: int) -> None:
    backend = backends(model)[which]
    embedding = backend.embed(noise())
    generator = np.random.default_rng(0)
    points = [tuple(map(tuple, generator.uniform(0, 44, (count, 2)).tolist())) for count in (1, 2, 1, 3, 2, 1, 2, 3, 1)]
    prompts = [SamPrompt(some, (1.0, 2.0, 30.0, 40.0) if index % 4 == 0 else None) for index, some in enumerate(points)]
    together = backend.masks(embedding, prompts)
    alone = [backend.masks(embedding, [prompt])[0] for prompt in prompts]
    for shared, own in zip(together, alone, strict=True):
        torch.testing.assert_close(shared.logits, own.logits, atol=1e-5, rtol=0)
        assert shared.score == pytest.approx(own.score, abs=1e-5)


@dataclass(frozen=True)
class Counting(SegmentAnythingNetwork):
    """Notes how many prompts with how many points each call of the decoder got."""

    calls: list[tuple[int, int]] = field(default_factory=list)

    def decode(self, features: Any, points: Any, labels: Any, boxes: Any, alternatives: bool, masks: Any = None) -> Any:
        self.calls.append((len(boxes) if points is None else len(points), 0 if points is None else points.shape[1]))
        return super().decode(features, points, labels, boxes, alternatives, masks)


def test_only_prompts_of_one_kind_share_a_call(model: modeling.Sam) -> None:
    network = Counting(model.image_encoder, model.prompt_encoder, model.mask_decoder)
    backend = PromptableSam(network)
    box, a, b = (1.0, 1.0, 9.0, 9.0), (2.0, 2.0), (30.0, 20.0)
    prompts = [SamPrompt((a,)), SamPrompt((a, b)), SamPrompt((b,)), SamPrompt((a,), box), SamPrompt((), box), SamPrompt((b, a))]
    backend.masks(backend.embed(noise()), prompts)
    assert sorted(network.calls) == [(1, 0), (1, 1), (2, 1), (2, 2)]


def test_a_prompt_to_be_refined_takes_two_calls_of_its_own(model: modeling.Sam) -> None:
    network = Counting(model.image_encoder, model.prompt_encoder, model.mask_decoder)
    backend = PromptableSam(network)
    backend.masks(backend.embed(noise()), [SamPrompt(((2.0, 2.0),), refine=True), SamPrompt(((3.0, 2.0),), refine=True)])
    assert network.calls == [(1, 1)] * 4


def test_a_call_never_holds_more_than_sixteen_prompts(model: modeling.Sam) -> None:
    network = Counting(model.image_encoder, model.prompt_encoder, model.mask_decoder)
    backend = PromptableSam(network)
    masks = backend.masks(backend.embed(noise(8, 8)), [SamPrompt(((1.0, 1.0),))] * 35)
    assert network.calls == [(16, 1), (16, 1), (3, 1)]
    assert len(masks) == 35


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_the_same_weights_in_transformers_give_the_same_mask(model: modeling.Sam, prompt: SamPrompt) -> None:
    image = noise()
    (ours,), (theirs,) = (backend.masks(backend.embed(image), [prompt]) for backend in backends(model))
    torch.testing.assert_close(theirs.logits, ours.logits, atol=1e-5, rtol=0)
    assert theirs.score == pytest.approx(ours.score, abs=1e-5)


def test_the_positions_of_the_image_are_those_of_transformers(model: modeling.Sam) -> None:
    converted = to_transformers(model.state_dict())
    torch.testing.assert_close(
        TransformersNetwork.of(converted).positions(8), converted.get_image_wide_positional_embeddings(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("which", [0, 1], ids=["segment-anything", "transformers"])
def test_a_model_given_in_half_precision_stays_as_it_is_and_decodes_in_float32(which: int) -> None:
    halved = (tiny_sam(), to_transformers(tiny_sam().state_dict()))[which].bfloat16()
    backend = load_sam(halved)
    (mask,) = backend.masks(backend.embed(noise()), [PROMPTS["a point and a box"]])
    assert {parameter.dtype for parameter in halved.parameters()} == {torch.bfloat16}
    assert mask.logits.dtype == torch.float32
    assert torch.isfinite(mask.logits).all()


def test_half_precision_asked_for_reaches_the_image_encoder_alone(tmp_path: Path) -> None:
    torch.save(tiny_sam().state_dict(), tmp_path / "sam.pth")
    network = load_sam(tmp_path / "sam.pth", dtype=torch.bfloat16).network  # type: ignore[attr-defined]
    assert {parameter.dtype for parameter in network.encoder.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in network.decoder.parameters()} == {torch.float32}


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (20_000, 1), (2, 500)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_an_image_of_any_size_gets_a_mask_of_its_size(model: modeling.Sam, size: tuple[int, int]) -> None:
    backend = load_sam(model)
    (mask,) = backend.masks(backend.embed(noise(*size)), [SamPrompt(((size[0] - 1.0, 0.0),))])
    assert mask.logits.shape == (size[1], size[0])
    assert torch.isfinite(mask.logits).all()


def test_a_grey_or_transparent_image_is_read_as_rgb(model: modeling.Sam) -> None:
    backend = load_sam(model)
    grey = noise().convert("L")
    ours, theirs = backend.embed(grey), backend.embed(grey.convert("RGB"))
    assert torch.equal(ours.features, theirs.features)


@pytest.mark.parametrize("point", [(70.0, 3.0), (-1.0, 3.0), (3.0, 45.0), (3.0, -0.6), (float("nan"), 3.0), (float("inf"), 3.0)])
def test_a_point_outside_the_image_is_refused_with_the_size(model: modeling.Sam, point: tuple[float, float]) -> None:
    backend = load_sam(model)
    with pytest.raises(InvalidPrompt, match="outside the image of 70 x 45 pixels"):
        backend.masks(backend.embed(noise()), [SamPrompt((point,))])


@pytest.mark.parametrize("box", [(0.0, 0.0, 70.0, 44.0), (-1.0, 0.0, 9.0, 9.0), (9.0, 9.0, 4.0, 20.0), (0.0, 0.0, 9.0, float("nan"))])
def test_an_empty_box_or_one_outside_the_image_is_refused(model: modeling.Sam, box: tuple[float, float, float, float]) -> None:
    backend = load_sam(model)
    with pytest.raises(InvalidPrompt, match="empty or leaves the image of 70 x 45 pixels"):
        backend.masks(backend.embed(noise()), [SamPrompt((), box)])


def test_the_last_pixel_and_the_edge_of_the_first_are_inside(model: modeling.Sam) -> None:
    SamPrompt(((69.0, 44.0), (-0.4, -0.4)), (0.0, 0.0, 69.0, 44.0)).check((45, 70))


def test_the_box_of_one_patch_of_a_single_pixel_is_accepted() -> None:
    SamPrompt(((-0.48, -0.48),), (0.0, 0.0, 1 / 24 - 1, 1 / 24 - 1)).check((1, 1))


def test_a_prompt_of_nothing_is_refused(model: modeling.Sam) -> None:
    backend = load_sam(model)
    with pytest.raises(InvalidPrompt, match="neither"):
        backend.masks(backend.embed(noise()), [SamPrompt()])


class Recorder:
    """A model of one's own: its logits are the number of points, its score is 0.5."""

    def __init__(self) -> None:
        self.embedded: list[Image.Image] = []

    def embed(self, image: Image.Image) -> str:
        self.embedded.append(image)
        return "seen"

    def masks(self, embedding: str, prompts: Sequence[SamPrompt]) -> list[SamMask]:
        assert embedding == "seen"
        return [SamMask(torch.full((HEIGHT, WIDTH), float(len(prompt.points))), 0.5) for prompt in prompts]


def test_a_class_without_a_prompt_gets_no_mask_and_no_score() -> None:
    evidence = [one("cat", ((1.0, 2.0), (3.0, 4.0))), one("fog"), one("dog", (), (0.0, 0.0, 5.0, 5.0))]
    scored, logits = Sam()(Recorder(), noise(), evidence)
    assert [each.name for each in scored] == ["cat", "fog", "dog"]
    assert [each.score for each in scored] == [0.5, None, 0.5]
    assert logits[1] is None
    assert [float(each[0, 0]) for each in logits if each is not None] == [2.0, 0.0]


def test_the_image_is_encoded_once_for_all_classes() -> None:
    backend = Recorder()
    Sam()(backend, noise(), [one("cat", ((1.0, 2.0),)), one("dog", ((3.0, 2.0),))])
    assert len(backend.embedded) == 1


def test_an_image_without_a_prompt_is_not_encoded() -> None:
    backend = Recorder()
    assert Sam()(backend, noise(), [one("fog")])[1] == [None]
    assert backend.embedded == []


def test_the_switch_of_the_recipe_reaches_every_prompt(model: modeling.Sam) -> None:
    backend = load_sam(model)
    evidence = [one("cat", ((12.0, 30.0),))]
    single, best = (Sam(multimask=switch)(backend, noise(), evidence)[0][0].score for switch in ("off", "on"))
    asked = backend.masks(backend.embed(noise()), [SamPrompt(((12.0, 30.0),), None, "off"), SamPrompt(((12.0, 30.0),), None, "on")])
    assert [single, best] == pytest.approx([mask.score for mask in asked])
    assert single != pytest.approx(best)


def test_an_unknown_switch_lists_the_known_ones() -> None:
    with pytest.raises(InvalidOption, match="'auto', 'on', 'off'"):
        Sam(multimask="maybe")  # type: ignore[arg-type]


def test_a_file_a_folder_and_an_object_load_the_same_sam(model: modeling.Sam, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "sam.pth")
    to_transformers(model.state_dict()).save_pretrained(tmp_path / "folder")
    prompt = [PROMPTS["a point and a box"]]
    given, *loaded = (load_sam(sam) for sam in (model, tmp_path / "sam.pth", str(tmp_path / "folder")))
    expected = given.masks(given.embed(noise()), prompt)[0].logits
    for backend in loaded:
        torch.testing.assert_close(backend.masks(backend.embed(noise()), prompt)[0].logits, expected, atol=1e-5, rtol=0)


def test_a_model_of_ones_own_is_taken_as_it_is() -> None:
    own = Recorder()
    assert load_sam(own) is own


def test_an_object_that_cannot_be_prompted_is_refused_by_its_class() -> None:
    with pytest.raises(InvalidSam, match=r"A torch\.nn\.modules\.linear\.Linear was given"):
        load_sam(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("name", ["sam_vit_h_4b8939.pth", "weights/sam.safetensors", "/nowhere/at/all", "./folder"])
def test_a_sam_that_is_not_there_is_asked_for_by_name(name: str) -> None:
    with pytest.raises(InvalidSam, match=f"The SAM '{name}' was asked for, and no such file or folder"):
        load_sam(name)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSam, match=r"has no config\.json"):
        load_sam(tmp_path)


def test_a_folder_of_another_model_is_refused_by_its_type(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidSam, match="names 'clip'"):
        load_sam(tmp_path)


@pytest.fixture
def folder(model: modeling.Sam, tmp_path: Path) -> Path:
    """The SAM as transformers saves it."""
    to_transformers(model.state_dict()).save_pretrained(tmp_path)
    return tmp_path


HEAD = "mask_decoder.iou_prediction_head.proj_in.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {name: state[name] for name in state if "iou_prediction_head" not in name}, r"6 missing \(mask_decoder\.iou_pred"),
        (lambda state: state | {"extra.weight": torch.zeros(2)}, r"1 left over \(extra\.weight\)"),
        (lambda state: state | {HEAD: torch.zeros(7)}, r"1 of another shape than .* \(mask_decoder\.iou_.*bias \(7,\), not \(24,\)\)"),
        (lambda state: state | {HEAD: state[HEAD] * float("nan")}, r"NaN or infinity in 1 of its \d+ tensors \(mask_decoder\.iou_"),
    ],
    ids=["missing", "left over", "misshapen", "not finite"],
)
def test_a_folder_with_other_tensors_than_its_own_is_refused(folder: Path, change: Any, message: str) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidSam, match=message):
        load_sam(folder)


def test_a_tied_tensor_may_be_missing(folder: Path, model: modeling.Sam) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("prompt_encoder.shared_embedding.positional_embedding", None)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    backend, given = load_sam(folder), load_sam(model)
    masks = [sam.masks(sam.embed(noise()), [PROMPTS["a box"]])[0].logits for sam in (backend, given)]
    torch.testing.assert_close(*masks, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: _cut(folder / "model.safetensors", 5000), r"model\.safetensors' is damaged or cut short"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no \*\.safetensors: the download or the save was cut short"),
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "pickled weights only .*can run code"),
        (
            lambda folder: (folder / "config.json").write_text("[1]"),
            r"is no SAM\. .*config\.json' is no configuration .* Get the file again",
        ),
        (
            lambda folder: (folder / "config.json").write_bytes(b"\xff{"),
            r"is no SAM\. .*config\.json' is no configuration .* Get the file again",
        ),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "sam", "vision_config": 3}'), "Check its config.json"),
        (lambda folder: _index(folder, {"a": "model-2.safetensors"}), r"lacks 1 of its weight files \(model-2\.safetensors\)"),
    ],
    ids=["cut short", "no weights", "pickle", "a list", "other bytes", "a number", "a missing part"],
)
def test_the_file_at_fault_is_named_and_the_hub_is_not_blamed(folder: Path, damage: Any, message: str) -> None:
    damage(folder)
    with pytest.raises(InvalidSam, match=message) as refused:
        load_sam(folder)
    assert "hub" not in str(refused.value)


def _cut(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])


def _index(folder: Path, parts: dict[str, str]) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))


def test_a_mask_that_is_not_finite_is_no_mask() -> None:
    class Broken(Recorder):
        def masks(self, embedding: str, prompts: Sequence[SamPrompt]) -> list[SamMask]:
            return [SamMask(torch.full((HEIGHT, WIDTH), float("nan")), 0.5) for _ in prompts]

    with pytest.raises(NotFinite, match="SAM computed NaN or infinity for 'cat'"):
        Sam()(Broken(), noise(), [one("cat", ((1.0, 2.0),))])


@pytest.mark.parametrize("name", ["", "a" * 5000, "a\0b"])
def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    with pytest.raises(InvalidSam, match="no such file or folder is here"):
        load_sam(name)


def test_the_sam_of_the_package_is_found_by_its_name(model: modeling.Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(model.state_dict(), tmp_path / "sam.pth")
    monkeypatch.setattr("fseg.worlds.weights.Weights.sam_file", lambda _: tmp_path / "sam.pth")
    given, packaged = (load_sam(sam).masks(load_sam(sam).embed(noise()), [PROMPTS["a box"]])[0] for sam in (model, "glyphs"))
    assert torch.equal(packaged.logits, given.logits)
