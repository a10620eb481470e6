"""SAM 2 and SAM 3's tracker: the masks of the class's own forward and of its processor, behind the door of SAM."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from fseg.errors import InvalidPrompt, InvalidSam
from fseg.sam.base import SamPrompt
from fseg.sam.loading import load_sam
from fseg.sam.stretched import StretchedSam
from tests.unit.fseg.sam.test_loading import PROMPTS
from tests.unit.fseg.sams import noise
from tests.unit.fseg.stretched_sams import tiny_sam2, tiny_sam2_video, tiny_sam3_tracker

from transformers import Sam2ImageProcessor, Sam2Model, Sam2Processor, Sam3ImageProcessor, Sam3TrackerModel, Sam3TrackerProcessor  # isort: skip

SIZE = {"height": 64, "width": 64}
MODELS = {"sam2": tiny_sam2, "sam3_tracker": tiny_sam3_tracker}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Sam2Model | Sam3TrackerModel:
    return MODELS[request.param]()


@torch.no_grad()
def by_transformers(model: Sam2Model | Sam3TrackerModel, image: Image.Image, prompt: SamPrompt) -> tuple[Tensor, float]:
    """The logits and the score of one prompt: processor, forward, the best predicted score, post-processing."""
    of_sam2 = isinstance(model, Sam2Model)
    processor = Sam2Processor(Sam2ImageProcessor(size=SIZE)) if of_sam2 else Sam3TrackerProcessor(Sam3ImageProcessor(size=SIZE))
    points = (*prompt.points, *prompt.negatives)
    inputs = processor(
        images=image,
        input_points=[[list(map(list, points))]] if points else None,
        input_labels=[[[1] * len(prompt.points) + [0] * len(prompt.negatives)]] if points else None,
        input_boxes=[[list(prompt.box)]] if prompt.box else None,
        return_tensors="pt",
    )
    sizes = inputs.pop("original_sizes")
    output = model(**inputs, multimask_output=prompt.wants_alternatives)
    if prompt.refine:
        first = output.pred_masks[0, :, int(output.iou_scores[0, 0].argmax())][:, None]
        output = model(**inputs, input_masks=first, multimask_output=False)
    masks = processor.post_process_masks(output.pred_masks, sizes, binarize=False)[0]
    best = int(output.iou_scores[0, 0].argmax())
    return masks[0, best], float(output.iou_scores[0, 0, best])


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_the_mask_is_that_of_forward_and_post_processing(model: Sam2Model | Sam3TrackerModel, prompt: SamPrompt, refine: bool) -> None:
    """Max abs of 1e-4 of the largest logit: the same operations in float32, coordinates scaled in float64 here."""
    sam, prompt = load_sam(model), replace(prompt, refine=refine)
    (mask,) = sam.masks(sam.embed(noise()), [prompt])
    logits, score = by_transformers(model, noise(), prompt)
    assert mask.logits.shape == (45, 70)
    assert logits.std() > 0.01
    torch.testing.assert_close(mask.logits, logits, atol=1e-4 * float(logits.abs().max()), rtol=0)
    assert mask.score == pytest.approx(score, abs=1e-5)


def test_a_negative_point_is_another_prompt_than_a_positive_one(model: Sam2Model | Sam3TrackerModel) -> None:
    sam, points = load_sam(model), ((12.0, 30.5), (60.0, 8.0))
    positive, negative = sam.masks(sam.embed(noise()), [SamPrompt(points), SamPrompt(points[:1], negatives=points[1:])])
    assert float((positive.logits - negative.logits).abs().max()) > 1e-3


@pytest.mark.parametrize("switch", ["on", "off"])
def test_the_switch_for_alternatives_is_multimask_output(model: Sam2Model | Sam3TrackerModel, switch: str) -> None:
    sam, prompt = load_sam(model), SamPrompt(((12.0, 30.0),), (5.0, 2.0, 40.0, 31.0), switch)  # type: ignore[arg-type]
    (mask,) = sam.masks(sam.embed(noise()), [prompt])
    assert mask.score == pytest.approx(by_transformers(model, noise(), prompt)[1], abs=1e-5)


def test_prompts_that_share_a_call_get_the_masks_of_calls_of_their_own(model: Sam2Model | Sam3TrackerModel) -> None:
    sam = load_sam(model)
    embedding = sam.embed(noise())
    prompts = [*PROMPTS.values(), SamPrompt(points=((60.0, 7.0),)), SamPrompt(box=(1.0, 2.0, 69.0, 44.0))]
    for prompt, together in zip(prompts, sam.masks(embedding, prompts), strict=True):
        (alone,) = sam.masks(embedding, [prompt])
        torch.testing.assert_close(together.logits, alone.logits, atol=1e-4 * float(alone.logits.abs().max()), rtol=0)
        assert together.score == pytest.approx(alone.score, abs=1e-5)


def test_the_levels_and_positions_are_those_of_the_model(model: Sam2Model | Sam3TrackerModel) -> None:
    sam = StretchedSam.of(model)
    pixels = sam.processor(noise(), return_tensors="pt")["pixel_values"]
    for ours, theirs in zip(sam.embed(noise()).levels, model.get_image_embeddings(pixels), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sam._positions(4, 4), model.get_image_wide_positional_embeddings(), atol=1e-6, rtol=0)


def test_a_fourth_level_of_the_neck_is_left_out_as_transformers_does() -> None:
    """The class's default neck has four levels, of which `get_image_embeddings` keeps three."""
    model = tiny_sam3_tracker((4.0, 2.0, 1.0, 0.5))
    (mask,) = load_sam(model).masks(load_sam(model).embed(noise()), [PROMPTS["a box"]])
    logits, _ = by_transformers(model, noise(), PROMPTS["a box"])
    torch.testing.assert_close(mask.logits, logits, atol=1e-4 * float(logits.abs().max()), rtol=0)


def test_a_folder_gives_the_masks_of_the_model_saved(model: Sam2Model | Sam3TrackerModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    given, loaded = load_sam(model), load_sam(str(tmp_path))
    assert isinstance(loaded, StretchedSam)
    masks = [sam.masks(sam.embed(noise()), [PROMPTS["a point and a box"]])[0].logits for sam in (given, loaded)]
    torch.testing.assert_close(*masks, atol=1e-5, rtol=1e-5)


def test_half_precision_reaches_the_encoder_alone(model: Sam2Model | Sam3TrackerModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    sam = load_sam(str(tmp_path), dtype=torch.bfloat16)
    assert isinstance(sam, StretchedSam)
    assert {parameter.dtype for parameter in sam.encoder.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in sam.decoder.parameters()} == {torch.float32}
    assert sam.masks(sam.embed(noise()), [PROMPTS["a box"]])[0].logits.isfinite().all()


def test_the_video_checkpoint_of_sam_2_gives_its_image_model(tmp_path: Path) -> None:
    """The published ones name sam2_video; the tensors of the memory are left out, all others are the image model's."""
    video = tiny_sam2_video()
    video.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam2_video"
    image_model = tiny_sam2()
    image_model.load_state_dict({name: video.state_dict()[name] for name in image_model.state_dict()})
    sam = load_sam(str(tmp_path))
    (mask,) = sam.masks(sam.embed(noise()), [PROMPTS["a box"]])
    logits, score = by_transformers(image_model, noise(), PROMPTS["a box"])
    torch.testing.assert_close(mask.logits, logits, atol=1e-4 * float(logits.abs().max()), rtol=0)
    assert mask.score == pytest.approx(score, abs=1e-5)


def test_the_video_checkpoint_of_sam_3_gives_its_tracker(tmp_path: Path) -> None:
    """It names sam3_video; the tracker's encoder lies under the detector's name, its neck beside it, the detector is left over."""
    tracker = tiny_sam3_tracker()
    places = {"vision_encoder.backbone.": "detector_model.vision_encoder.backbone.", "vision_encoder.neck.": "tracker_neck."}
    state = {"detector_model.box_head.weight": torch.zeros(2)}
    for name, value in tracker.state_dict().items():
        here = next((here for here in places if name.startswith(here)), "")
        state[places.get(here, "tracker_model.") + name.removeprefix(here)] = value.clone()
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam3_video", "tracker_config": tracker.config.to_dict()}))
    sam = load_sam(str(tmp_path))
    (mask,) = sam.masks(sam.embed(noise()), [PROMPTS["a box"]])
    logits, score = by_transformers(tracker, noise(), PROMPTS["a box"])
    torch.testing.assert_close(mask.logits, logits, atol=1e-4 * float(logits.abs().max()), rtol=0)
    assert mask.score == pytest.approx(score, abs=1e-5)


def test_a_loaded_video_model_is_refused_by_its_class() -> None:
    with pytest.raises(InvalidSam, match=r"Sam2VideoModel was given .* Sam3TrackerModel \(the image models, not those of video\)"):
        load_sam(tiny_sam2_video())


@pytest.mark.parametrize("kind", ["sam3", "sam3_tracker_video"])
def test_a_folder_without_an_image_model_for_prompts_is_refused_by_its_type(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    save_file({}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidSam, match=f"one of the model types 'sam', 'sam2', .* names '{kind}'"):
        load_sam(str(tmp_path))


def test_a_cut_checkpoint_names_what_is_missing(model: Sam2Model | Sam3TrackerModel, tmp_path: Path) -> None:
    kept = {name: value for name, value in model.state_dict().items() if "iou_prediction_head" not in name}
    model.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(InvalidSam, match=r"missing \(mask_decoder\.iou_prediction_head"):
        load_sam(str(tmp_path))


def test_a_prompt_outside_the_image_is_refused(model: Sam2Model | Sam3TrackerModel) -> None:
    sam = load_sam(model)
    with pytest.raises(InvalidPrompt, match="outside the image of 70 x 45 pixels"):
        sam.masks(sam.embed(noise()), [SamPrompt(((71.0, 3.0),))])
