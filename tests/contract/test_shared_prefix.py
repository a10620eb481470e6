"""Questions that share the image's part of the prompt get the answers and the activations that each gets alone."""

from __future__ import annotations

import warnings

import pytest
import torch
from PIL import Image

import probe
from probe.backbones.registry import BACKBONES, load_entry_points
from probe.sessions.policies import offered_policies
from probe.sessions.shared.passes import Pass
from tests import processors, zoo
from tests.families.daily import FEW, daily
from tests.families.text_models import TEXT_MODELS
from tests.processors.encoded import ENCODED
from tests.processors.native import NATIVE
from tests.processors.square import SQUARE
from tests.processors.tiled import TILED

TOLERANCE = 1e-5  # float32, max abs: the same sums in another order, over states of size 1 to 10
QUESTIONS = [
    "Is there a cat?",
    "And a dog?",
    "What is on the table, and what lies below it on the floor beside the chair?",
    "Why?",
    "Describe the picture.",
    "Is there a </s> in it?",
    "Where is the umbrella, to the left of the boat or to the right of it, or is there none at all?",
    "cat",
]


def _double(built: processors.Pair) -> processors.Pair:
    """In float64: the family norms whatever a block adds, and a tiny model's rounding grows tenfold from block to block."""
    model, processor = built
    model.set_experts_implementation("eager")  # the other ones take no float64
    return model.double(), processor


SHARED = {
    "llava": lambda: zoo.llava(),
    "llava_next": lambda: zoo.llava_next(),
    **{
        name: (lambda name=name: processors.build(name))
        for name in (
            "qwen2_vl",
            "qwen2_5_vl",
            "qwen3_vl",
            "glm4v",
            "internvl",
            "aya_vision",
            "cohere2_vision",
            "idefics3",
            "smolvlm",
            "mistral3",
            "pixtral",
            "llava_onevision",
            "vipllava",
            "gemma3",
            "mllama",
            "janus",
            "perception_lm",
            "fast_vlm",
            "chameleon",
            "ovis2",
            "lfm2_vl",
            "llama4",
            "idefics2",
            "got_ocr2",
        )
    },
    **{
        name: NATIVE[name]
        for name in (
            "qwen3_vl_moe",
            "cosmos3_omni",
            "cohere_compass",
            "ernie4_5_vl_moe",
            "exaone4_5",
            "glm46v",
            "glm4v_moe",
            "glm_ocr",
            "glmga",
            "hyperclovax_vision_v2",
            "hunyuan_vl",
            "kimi_k25",
            "lighton_ocr",
            "muse_glimmer",
            "paddleocr_vl",
            "gemma4",
            "gemma4_unified",
            "qwen2_5_omni_thinker",
            "qwen3_omni_moe_thinker",
            "qwen3_5",
            "qwen3_5_moe",
            "lfm3_vl",
            "inkling2",
            "dots3_note",
            "mistral_large4",
            "video_llama_3",
        )
    },
    **{
        name: NATIVE[name]
        for name in ("cosmos3_edge", "nemotron_h_omni", "inkling_mm_model", "qwen4_exp", "glm5_next", "minimax_m3_vl", "fuyu")
    },
    "video_llava": SQUARE["video_llava"],
    **{name: TILED[name] for name in ("qianfan_ocr", "step3p7", "granite4_vision", "minicpmv4_6", "minicpmv4_7", "minicpm_ocr", "molmo2")},
    **{
        name: ENCODED[name]
        for name in ("llava_next_video", "granite_docling", "emu3", "aria", "deepseek_ocr2", "pp_chart2table", "gemma3n")
    },
    "muse_spark": lambda: _double(NATIVE["muse_spark"]()),
}
FEWEST_DIFFERENT = {"hunyuan_vl": 2}
"""How many of the answers differ at least: random weights make some families say little; their states are compared all the same."""
ALONE = ("paligemma", "instructblip")
KEPT = [probe.Hidden(layers="all", at="image")]
READ_ALONE = {
    "dots3_note",
    "gemma3n",
    "glm5_next",
    "hunyuan_vl",
    "inkling2",
    "inkling_mm_model",
    "lfm2_vl",
    "lfm3_vl",
    "minicpm_ocr",
    "minicpmv4_6",
    "minicpmv4_7",
    "minimax_m3_vl",
    "mistral_large4",
    "nemotron_h_omni",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen4_exp",
}
"""Families whose images share no pass: rows of a batch change each other, or the cache has layers of other kinds than keys and values."""
ASKED_ALONE = (READ_ALONE - {"gemma3n"}) | {"llama4", "mllama"}
"""Families whose questions about several images share no pass, either: tokens after an image may need inputs of it."""
KEEP_SIZES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "pixtral", "muse_spark")
"""Some of the families whose prefixes have as many tokens as the image has cells."""


def _opened(name: str) -> probe.Probe:
    model, processor = SHARED[name]() if name in SHARED else processors.build(name)
    return probe.load(model=model, processor=processor)


def test_every_backbone_that_declares_sharing_is_asked_here() -> None:
    load_entry_points()
    names = {*SHARED, *TEXT_MODELS}  # those of text alone in test_text_models.py
    asked = {backbone for name, backbone in BACKBONES.items() if name.rpartition("/")[2] in names}
    assert {backbone for backbone in BACKBONES.values() if backbone.prefix} <= asked


@pytest.fixture(scope="module", params=daily(SHARED, FEW))
def model(request: pytest.FixtureRequest) -> probe.Probe:
    return _opened(request.param)


@pytest.fixture(scope="module")
def alone(model: probe.Probe, wide_image: Image.Image) -> list[tuple[probe.Answer, probe.Trace]]:
    """The answer to each question alone, and what a run of its own reads."""
    with model.open(wide_image, policy="none") as session:
        answers = session.ask(QUESTIONS, max_new_tokens=12)
    return [(answer, model.run(answer, _reads(model))) for answer in answers]


@pytest.mark.parametrize("policy", ["packed", "batched"])
def test_answers_and_activations_are_those_of_each_question_alone(
    model: probe.Probe, alone: list[tuple[probe.Answer, probe.Trace]], policy: str, wide_image: Image.Image
) -> None:
    if policy not in offered_policies(model.runtime)[0]:
        with pytest.raises(probe.errors.InvalidPolicy, match="can be asked under"):
            model.open(wide_image, policy=policy)
        return
    with model.open(wide_image, policy=policy, keep=KEPT) as session:
        together = session.ask(QUESTIONS, max_new_tokens=12)
        traces = session.trace(together, _reads(model))
    assert len({answer.tokens.ids[answer.prompt_length :] for answer, _ in alone}) >= FEWEST_DIFFERENT.get(model.family, 3)
    assert_as_alone(model, alone, together, traces)
    for (_, expected), trace in zip(alone, traces, strict=True):
        for layer in trace.captured.vision:
            torch.testing.assert_close(trace.captured.vision[layer], expected.captured.vision[layer], rtol=0, atol=0)


def assert_as_alone(
    model: probe.Probe, alone: list[tuple[probe.Answer, probe.Trace]], answers: list[probe.Answer], traces: list[probe.Trace]
) -> None:
    assert [answer.tokens.ids for answer in answers] == [answer.tokens.ids for answer, _ in alone]
    for (_, expected), trace in zip(alone, traces, strict=True):
        layers = range(len(model.modules.layers) + 1)
        pairs = [
            (trace.hidden(at, layer=layer), expected.hidden(at, layer=layer)) for at in ("image", "prompt", "answer") for layer in layers
        ]
        pairs += [(trace.logits(), expected.logits()), (trace.attention(), expected.attention())]
        for ours, theirs in pairs:
            assert ours.dims == theirs.dims
            assert float((ours.data - theirs.data).abs().max()) <= TOLERANCE * max(1.0, float(theirs.data.abs().max()))


@pytest.mark.parametrize(
    "width", [80, 60], ids=["of equal size", "of another size"]
)  # another number of tokens, in families that keep the size
def test_images_that_share_passes_are_as_alone(
    model: probe.Probe,
    alone: list[tuple[probe.Answer, probe.Trace]],
    wide_image: Image.Image,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined: list[int] = []
    continuations = Pass.continuations
    monkeypatch.setattr(Pass, "continuations", lambda self, steps=0: joined.append(len(self.prefixes)) or continuations(self, steps))
    turned = wide_image.transpose(Image.Transpose.ROTATE_180).crop((0, 0, width, 40))
    images = [model.prepare(image) for image in (turned, wide_image)]
    batch = probe.ImageBatch(images)
    with model.open(images[0], keep=KEPT, together=batch) as other, model.open(images[1], keep=KEPT, together=batch) as session:
        other.ask(QUESTIONS[:1], max_new_tokens=1)
        if width == wide_image.width:
            assert len(batch._begun) == (model.family not in READ_ALONE)
        asked = [(other, QUESTIONS[2]), *((session, question) for question in QUESTIONS[:4]), (other, QUESTIONS[0])]
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            answers = probe.ask_together(asked, max_new_tokens=12)
            traces = probe.trace_together([(one, answer) for (one, _), answer in zip(asked, answers, strict=True)], _reads(model))
        shorter, longer = sorted(one._state.prefixes._length for one in (other, session))
    assert batch._begun == []
    assert any("run image by image" in str(one.message) for one in warned) == (model.family in ASKED_ALONE)
    assert max(joined, default=1) == (2 if model.family not in ASKED_ALONE and 2 * shorter >= longer else 1)
    if model.family in KEEP_SIZES:
        assert (shorter < longer) == (width < wide_image.width)
    assert_as_alone(model, alone[:4], answers[1:-1], traces[1:-1])
    with model.open(images[0], policy="none") as session:
        answers_of_other = session.ask([QUESTIONS[2], QUESTIONS[0]], max_new_tokens=12)
    expected = [(answer, model.run(answer, _reads(model))) for answer in answers_of_other]
    assert_as_alone(model, expected, [answers[0], answers[-1]], [traces[0], traces[-1]])


def test_what_is_drafted_changes_no_answer(
    model: probe.Probe, alone: list[tuple[probe.Answer, probe.Trace]], wide_image: Image.Image
) -> None:
    answers = [answer for answer, _ in alone]
    words = [answer.text.split(" ") for answer in answers]
    # Right to the end, right at first, and another question's.
    drafts = [" ".join((own, own[:4] + words[0], words[0])[number % 3]) for number, own in enumerate(words)]
    with model.open(wide_image) as session:
        drafted = session.ask(QUESTIONS, max_new_tokens=12, drafts=drafts)
    assert [answer.tokens.ids for answer in drafted] == [answer.tokens.ids for answer in answers]


def test_the_picture_is_prepared_once(model: probe.Probe, wide_image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(model.processor.image_processor)
    original, prepared = kind.__call__, []
    monkeypatch.setattr(kind, "__call__", lambda *given, **options: prepared.append(1) or original(*given, **options))
    fresh = [model.encode(wide_image, question) for question in QUESTIONS[:3]]
    assert len(prepared) == 3
    with model.open(wide_image) as session:
        encodings = session.answer(QUESTIONS[:3], [""] * 3)
    assert len(prepared) == 4
    for ours, theirs in zip(encodings, fresh, strict=True):
        assert ours.inputs.keys() == theirs.inputs.keys()
        assert all(torch.equal(ours.inputs[name], value) for name, value in theirs.inputs.items() if isinstance(value, torch.Tensor))
        assert ours.tokens.ids == theirs.tokens.ids


def _reads(model: probe.Probe) -> list[probe.Read]:
    crossed = model.family == "mllama"
    blocks = [block for block in (0, 2, 1, 3) if model.modules.attention[block]][:2]
    attention = probe.Attention(layers=blocks, query="answer", key=None if crossed else "image", heads="mean")
    vision = [probe.Vision(layers=[-1])] if model.modules.vision_blocks else []
    return [probe.Hidden(layers="all", at=("image", "prompt", "answer")), attention, *vision, probe.Logits(at="answer")]


def test_answers_that_end_at_different_times_do_not_disturb_each_other(
    model: probe.Probe, wide_image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = model.model.generation_config
    monkeypatch.setattr(settings, "eos_token_id", None)
    with model.open(wide_image, policy="none") as session:
        plain = [answer.tokens.ids[answer.prompt_length :] for answer in session.ask(QUESTIONS[:8], max_new_tokens=8)]
        monkeypatch.setattr(settings, "eos_token_id", _scattering(plain))
        alone = [answer.tokens.ids[answer.prompt_length :] for answer in session.ask(QUESTIONS[:8], max_new_tokens=8)]
    assert len({len(answer) for answer in alone}) > 1
    policies, _ = offered_policies(model.runtime)
    assert policies
    for policy in policies:
        with model.open(wide_image, policy=policy) as session:
            together = [answer.tokens.ids[answer.prompt_length :] for answer in session.ask(QUESTIONS[:8], max_new_tokens=8)]
        assert together == alone, policy


def _scattering(answers: list[tuple[int, ...]]) -> int:
    """The token that, as the end, would give the answers the most different lengths."""

    def lengths(end: int) -> set[int]:
        return {answer.index(end) if end in answer else len(answer) for answer in answers}

    return max({token for answer in answers for token in answer}, key=lambda token: (len(lengths(token)), token))


@pytest.mark.parametrize("name", ALONE)
def test_families_whose_image_depends_on_the_question_ask_alone(name: str, wide_image: Image.Image) -> None:
    model = _opened(name)
    with model.open(wide_image) as session:
        assert session.policy == "none"
        answers = session.ask(QUESTIONS[:3], max_new_tokens=4)
        (trace,) = session.trace(answers[:1], [probe.Hidden(layers=[2], at="answer")])
    alone = [model.generate(model.encode(wide_image, question), max_new_tokens=4) for question in QUESTIONS[:3]]
    assert [answer.tokens.ids for answer in answers] == [answer.tokens.ids for answer in alone]
    expected = model.run(answers[0], probe.Hidden(layers=[2], at="answer"))
    torch.testing.assert_close(trace.hidden().data, expected.hidden().data, rtol=0, atol=0)
