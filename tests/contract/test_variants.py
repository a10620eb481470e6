"""Variants equal a run of their own in every family: those that share a prefix go on from the unedited run, the others run whole.

Differences are the largest absolute one, over the largest value where that is above 1. float32: the tokens of a variant go through the same
sums in other shapes, so 1e-5.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from PIL import Image
from torch import Tensor

import probe
from probe.sessions.variants.clean_run import CleanRun
from probe.tracing.capturing.captured import Captured
from tests import processors
from tests.contract.test_shared_prefix import SHARED
from tests.families.daily import FEW, daily

TOLERANCE = 1e-5
edit = probe.edit

ALONE = {
    **dict.fromkeys(("glm5_next", "gemma3n"), "its blocks pass on several residual streams"),
    "paligemma": "its image tokens attend to the question",
    "instructblip": "its Q-Former reads the question",
}
FROM_THE_FIRST_TOKEN = {
    "inkling_mm_model",
    "minimax_m3_vl",
    "minicpmv4_6",
    "minicpm_ocr",
    "lfm2_vl",
    "lfm3_vl",
    "dots3_note",
    "mistral_large4",
}
"""Families of which a cache holds the end of the sequence alone; that a run from the first token on is exact takes two passes to find out."""
RECURRENT = {"qwen4_exp", "minicpmv4_7", "qwen3_5", "qwen3_5_moe", "inkling2"}
"""Those where it is not, for the reasons below, or because blocks take earlier blocks' states."""
WHOLE_WITHIN_THE_IMAGE = {
    *RECURRENT,
    *("cosmos3_edge", "granite4_vision", "granite_docling", "molmo2"),
    *("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"),
    *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "cosmos3_omni", "cohere_compass", "ernie4_5_vl_moe", "hunyuan_vl"),
    *("glm4v", "glm4v_moe", "glm46v", "glm_ocr", "glmga", "paddleocr_vl", "gemma3", "gemma4", "gemma4_unified", "mllama"),
}
"""Families whose image tokens have positions by row and column, attend to later ones, or are read by blocks of cross-attention."""


# The edits here are of parts that the blocks of nemotron_h_omni have in turns.
ASKED = daily((name for name in (*SHARED, *ALONE) if name != "nemotron_h_omni"), FEW)


@pytest.fixture(scope="module", params=ASKED)
def model(request: pytest.FixtureRequest) -> probe.Probe:
    built, processor = SHARED[request.param]() if request.param in SHARED else processors.build(request.param)
    loaded = probe.load(model=built, processor=processor)
    loaded.name = request.param
    return loaded


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many edited sequences each shared pass has."""
    seen: list[int] = []
    original = CleanRun.forward

    def counted(self: CleanRun, start: object, edits: list[object], plan: object) -> Captured:
        seen.append(len(edits))
        return original(self, start, edits, plan)  # type: ignore[arg-type]

    monkeypatch.setattr(CleanRun, "forward", counted)
    return seen


def test_variants_are_what_runs_of_their_own_are(model: probe.Probe, wide_image: Image.Image, passes: list[int]) -> None:
    encoding = model.encode(wide_image, "Is there a cat to the left of the dog?")
    behind, within = _behind_the_image(model), _within_the_image(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        traces = model.run_variants(encoding, _reads(model), [[], *behind])
    if model.name in ALONE:
        assert [ALONE[model.name] in str(one.message) for one in said] == [True]
        assert passes == []
    elif model.name in RECURRENT:
        assert ["a change of recurrent states" in str(one.message) for one in said] == [True]
    else:
        assert [str(one.message) for one in said] == []
        assert sum(passes) == len(behind) + 2 * (model.name in FROM_THE_FIRST_TOKEN)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        traces += model.run_variants(encoding, _reads(model), within)
    assert bool(said) == (model.name in ALONE or model.name in WHOLE_WITHIN_THE_IMAGE)
    expected = [model.run(encoding, _reads(model), edits=edits) for edits in [[], *behind, *within]]
    for edits, ours, theirs in zip([[], *behind, *within], traces, expected, strict=True):
        assert ours.plan == theirs.plan
        assert _difference(ours.captured, theirs.captured) <= TOLERANCE, edits
    moved = [float((trace.hidden(layer=-1).data - traces[0].hidden(layer=-1).data).abs().max()) for trace in traces[1:]]
    assert min(moved) > TOLERANCE


def _behind_the_image(model: probe.Probe) -> list[list[probe.edit.Edit]]:
    """Edits of the question, at several layers and positions, most of one kind."""
    depth = len(model.modules.layers)
    block = next(number for number, path in enumerate(model.modules.attention) if path and number not in _crossed(model))
    parts = [probe.MLPOutput(block, at=-3), probe.AttentionOutput(block, at=-2)]
    return [
        *([edit.scale(probe.Hidden(layer, at=position), 1.5)] for layer in (1, depth) for position in (-1, (-4, -2))[: 1 + (layer == 1)]),
        *([edit.zero(part)] for part in parts),
        [edit.zero(parts[0]), edit.scale(probe.Hidden(depth - 1, at=-1), 0.5)],
    ]


def _within_the_image(model: probe.Probe) -> list[list[probe.edit.Edit]]:
    """Edits of image tokens; of their sign too, since a norm takes away a factor."""
    return [[edit.scale(probe.Hidden(layer, at="image"), -1.5)] for layer in (0, 1)]


def _crossed(model: probe.Probe) -> list[int]:
    return getattr(model.model.config.get_text_config(decoder=True), "cross_attention_layers", [])


def _reads(model: probe.Probe) -> list[probe.Read]:
    return [probe.Hidden("all"), probe.Hidden(-1, at=-1, normed=False), probe.MLPOutput("all", at=("image", -1)), probe.Logits(at=(-1, -2))]


def _difference(ours: Captured, theirs: Captured) -> float:
    """The largest difference of all tensors, over the largest value of each where that is above 1."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for name in ("states", "attention", "logits"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert mine.keys() == other.keys()
        pairs += [(a, b) for key in other for a, b in zip(mine[key], other[key], strict=True)]
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).abs().max()) / max(1.0, float(b.abs().max())) for a, b in pairs)
