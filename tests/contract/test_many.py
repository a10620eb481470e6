"""Many inputs at once in every family: each is what it is alone, whatever its image's size and its prompt's length.

Norm: the largest absolute difference, over the largest value of a tensor where that is above 1. float32: rows of a padded batch go through
the same sums in products of other shapes, 1e-5. Generated tokens are equal; their log-probabilities add up over cached steps, 5e-5.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import probe
from probe.many.rows import RowWork
from probe.tracing.capturing.captured import Captured
from tests import families
from tests.contract.test_encode import BUILT, REFUSED
from tests.contract.test_newer_families import apertus1p5, hy_v4_vl

TOLERANCE, SCORES = 1e-5, 5e-5
WIDER = {"qwen3_5_moe": 3e-5}
"""Recurrent states before routed experts: the order of sums depends on the processor, and 2.04e-5 was seen on one."""

QUICK = ("llava", "gemma3", "qwen2_5_vl")  # one token a patch; image tokens that see ahead, and a window; positions by row and column
ALL: Mapping[str, Callable[[], Any]] = {**BUILT, "hy_v4_vl": hy_v4_vl, "apertus1p5": apertus1p5}
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(set(ALL) - set(REFUSED))]

ALONE = {
    "glm5_next": "which keys its attention chooses depends on the padding",
    "hunyuan_vl": "numbers the images of all rows through",
}
"""Families whose inputs run one by one."""
EQUAL_SHAPES = {"emu3", "udop"}
"""Families of which only inputs of equal shapes run together."""
TOWER_ALONE = {"idefics2", "inkling2", "minicpm_ocr", "minicpmv4_6", "minicpmv4_7", "nemotron_h_omni"}
"""Families of whose tower it is not known which states are whose: inputs run one by one where `Vision` is read."""


TILES_ALONE = {"unlimited_ocr"}
"""Families whose inputs of an image in tiles have other names: two of the three are alike."""
SIZES = {"pix2struct": [(60, 100), (96, 80), (150, 130)]}
"""Other sizes (height, width) where a tiny tower has too few rows for a tall image."""
UNANSWERED = {"blip": probe.errors.ProbeError, "vision-encoder-decoder": IndexError}
"""Families whose answers `generate` cannot give, for these prompts, and its error."""


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> probe.Probe:
    families.skip_if_lacking(request.param)
    hf, processor = ALL[request.param]()
    loaded = probe.load(model=hf, processor=processor)
    loaded.name = request.param
    return loaded


@pytest.fixture(scope="module")
def encodings(model: probe.Probe) -> list[probe.Encoding]:
    """Images of three sizes, and prompts of three lengths."""
    questions = ("What is this?", "Is there a very large cat to the left of the red dog in the image?", "Why is it so?")
    return [
        model.encode(noise(size, seed), "" if model.name == "pp_formulanet" else question)
        for seed, (size, question) in enumerate(zip(SIZES.get(model.name, [(60, 100), (96, 40), (150, 90)]), questions, strict=True))
    ]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each batch had that was run as one."""
    seen: list[int] = []
    original = RowWork._trusted

    def counted(self: Any, key: Any, batch: Any, joined: Any, results: Any) -> bool:
        seen.append(len(batch))
        return original(self, key, batch, joined, results)

    monkeypatch.setattr(RowWork, "_trusted", counted)
    return seen


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def readable(model: probe.Probe, encoding: probe.Encoding, *reads: probe.Read) -> list[probe.Read]:
    """Those of the reads that this family can give."""
    found = []
    for read in reads:
        try:
            model.run(encoding, read)
        except (probe.errors.InvalidRead, probe.errors.UnmodelledAttention):
            continue
        found.append(read)
    return found


def test_traces_are_those_of_each_input_alone(model: probe.Probe, encodings: list[probe.Encoding], batches: list[int]) -> None:
    block = next(number for number, path in enumerate(model.modules.attention) if path)
    attention = probe.Attention([block], query=-1, key=None)
    reads = readable(model, encodings[0], probe.Hidden("all"), probe.MLPOutput("all", at=-1), probe.Logits(at=(0, -1)), attention)
    assert any(isinstance(read, probe.Hidden) for read in reads)
    assert compare(model, encodings, reads) <= WIDER.get(model.name, TOLERANCE)
    none, few = model.name in ALONE or model.name in EQUAL_SHAPES, model.name in TILES_ALONE
    assert batches == ([] if none else [2] if few else [3])
    assert ("one by one" in model.inspect()["batches"]) == (model.name in ALONE)


def test_towers_states_are_those_of_each_input_alone(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    reads = readable(model, encodings[0], probe.Vision("all"))
    if not reads:
        assert not model.modules.vision_blocks or "Vision" in model.modules.unreadable
        return
    assert compare(model, encodings, reads, alone=model.name in TOWER_ALONE) <= TOLERANCE


def test_edited_traces_are_those_of_each_input_alone(model: probe.Probe, encodings: list[probe.Encoding]) -> None:
    edits = [probe.edit.scale(probe.Hidden(1, at=(0, -1)), -1.5)]
    reads = [probe.Hidden(-1)]
    assert compare(model, encodings, reads, edits=edits) <= TOLERANCE
    plain = [model.run(encoding, reads) for encoding in encodings]
    edited = model.run_many(encodings, reads, edits=edits)
    assert all(difference(a.captured, b.captured) > TOLERANCE for a, b in zip(edited, plain, strict=True))


def test_inputs_of_equal_shapes_run_together(model: probe.Probe, batches: list[int]) -> None:
    encodings = [model.encode(noise((60, 100), seed), "" if model.name == "pp_formulanet" else "What is this?") for seed in range(2)]
    assert compare(model, encodings, [probe.Hidden("all")]) <= TOLERANCE
    assert batches == ([] if model.name in ALONE else [2])


def compare(model: probe.Probe, encodings: list[probe.Encoding], reads: list[probe.Read], *, edits: Any = (), alone: bool = False) -> float:
    """How far traces of many inputs are from those of each alone; all else is equal."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ours = list(model.run_many(encodings, reads, edits=edits))
    reasons = [str(one.message) for one in said if "run_many()" in str(one.message)]
    if model.name in ALONE:
        assert [ALONE[model.name] in reason for reason in reasons] == [True]
    else:
        assert bool(reasons) == alone
    theirs = [model.run(encoding, reads, edits=edits) for encoding in encodings]
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.tokens, mine.plan, mine.vision_layout, mine.depth) == (other.tokens, other.plan, other.vision_layout, other.depth)
    return max(difference(mine.captured, other.captured) for mine, other in zip(ours, theirs, strict=True))


def difference(ours: Captured, theirs: Captured) -> float:
    pairs = [(ours.vision[state], value) for state, value in theirs.vision.items()]
    for name in ("states", "attention", "logits"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert mine.keys() == other.keys()
        pairs += [(a, b) for key in other for a, b in zip(mine[key], other[key], strict=True)]
    assert pairs
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).abs().max()) / max(1.0, float(b.abs().max())) if b.numel() else 0.0 for a, b in pairs)


def test_answers_are_those_of_each_prompt_alone(
    model: probe.Probe, encodings: list[probe.Encoding], batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = model.model.generation_config
    monkeypatch.setattr(settings, "eos_token_id", None)
    if model.name in UNANSWERED:
        for one_by_one in (lambda: model.generate(encodings[0]), lambda: next(model.generate_many(encodings))):
            with pytest.raises(UNANSWERED[model.name]):
                one_by_one()
        return
    plain = [model.generate(encoding, max_new_tokens=6).tokens.ids[-6:] for encoding in encodings]
    # An end that comes earlier in some of the answers than in others.
    monkeypatch.setattr(settings, "eos_token_id", plain[0][2])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ours = list(model.generate_many(encodings, max_new_tokens=6, scores=True))
    theirs = [model.generate(encoding, max_new_tokens=6, scores=True) for encoding in encodings]
    assert ("generate_many()" in " ".join(str(one.message) for one in said)) == (model.name in ALONE)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.tokens == other.tokens
        assert mine.inputs.keys() == other.inputs.keys()
        assert mine.log_probabilities is not None
        assert other.log_probabilities is not None
        torch.testing.assert_close(mine.log_probabilities, other.log_probabilities, rtol=0, atol=SCORES)
    alone = model.name in ALONE or "equal length alone" in model.inspect()["batches"]
    assert (batches == []) >= alone


def test_the_lists_name_families_that_are_there() -> None:
    assert {*ALONE, *EQUAL_SHAPES, *TOWER_ALONE} <= set(ALL)
    assert torch.is_grad_enabled()
