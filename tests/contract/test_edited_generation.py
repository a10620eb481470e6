"""Edits of a generation and of a session, in every family that shares a prefix: the tokens are those of a hooked generate().

The hooks are PyTorch's, on plain Hugging Face. Answers have eight tokens, whatever the model would end with. A session's answer to each question
is the one that `generate` gives it alone with the same edits, under each policy that the family offers.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import probe
from probe.sessions.policies import offered_policies
from probe.tracing.attention import first_tensor, with_first_tensor
from tests.contract.test_shared_prefix import SHARED, _opened
from tests.families.daily import FEW, daily

LENGTH = 8
QUESTIONS = ["Is there a cat?", "What is on the table, and what lies below it?", "Why?"]


# The hook that is written here by hand adds to one residual stream; test_edits compares edits of several.
SEVERAL_STREAMS = ("qwen4_exp", "glm5_next", "gemma3n")
ASKED = daily((name for name in SHARED if name not in SEVERAL_STREAMS), FEW)


@pytest.fixture(scope="module", params=ASKED)
def model(request: pytest.FixtureRequest) -> probe.Probe:
    opened = _opened(request.param)
    opened.model.generation_config.eos_token_id = None
    return opened


@pytest.fixture(scope="module")
def layer(model: probe.Probe) -> int:
    return len(model.modules.layers) // 2


def _vector(model: probe.Probe) -> Tensor:
    width = model.model.config.get_text_config(decoder=True).hidden_size
    return torch.randn(width, generator=torch.Generator().manual_seed(3)).to(model.model.dtype) * 3


def _generated(model: probe.Probe, encoding: probe.Encoding, layer: int, change: Any) -> tuple[int, ...]:
    """The tokens of Hugging Face's generate() with a hook on the block whose output is this hidden state."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        return with_first_tensor(output, change(first_tensor(output).clone()))

    handle = model.model.get_submodule(model.modules.layers[layer - 1]).register_forward_hook(hook)
    try:
        inputs = model.backbone.forward_inputs(model.model, encoding.inputs)
        options: dict[str, Any] = {"suppress_tokens": [model.runtime.image_token_id], "pad_token_id": 0}
        ids: Tensor = model.model.generate(**inputs, **options, max_new_tokens=LENGTH, do_sample=False)
    finally:
        handle.remove()
    return tuple(ids[0, -LENGTH:].tolist())


def test_every_new_token_is_steered(model: probe.Probe, layer: int, wide_image: Image.Image) -> None:
    encoding, vector = model.encode(wide_image, QUESTIONS[0]), _vector(model)

    def steer(states: Tensor) -> Tensor:
        return states + vector if states.shape[1] == 1 else states

    ours = model.generate(encoding, edits=[probe.edit.add(probe.Hidden(layer, at="answer"), vector)], max_new_tokens=LENGTH)
    assert ours.tokens.ids[-LENGTH:] == _generated(model, encoding, layer, steer)


# The image is outside the sliding windows of the blocks behind the edit; or random weights repeat one word whatever they see.
SAME_WORDS_WITHOUT_THE_IMAGE = ("gemma3", "cohere_compass", "glm4v_moe", "qwen2_5_omni_thinker", "dots3_note")


def test_the_image_is_silenced_in_the_pass_over_the_prompt(model: probe.Probe, layer: int, wide_image: Image.Image) -> None:
    encoding, vector = model.encode(wide_image, QUESTIONS[0]), _vector(model)
    image = list(encoding.tokens.span("image").positions)

    def put(states: Tensor) -> Tensor:
        if states.shape[1] > 1:
            states[:, image] = vector
        return states

    ours = model.generate(encoding, edits=[probe.edit.replace(probe.Hidden(layer, at="image"), vector)], max_new_tokens=LENGTH)
    assert ours.tokens.ids[-LENGTH:] == _generated(model, encoding, layer, put)
    if model.family not in SAME_WORDS_WITHOUT_THE_IMAGE:
        assert ours.tokens.ids != model.generate(encoding, max_new_tokens=LENGTH).tokens.ids


def test_blocked_keys_are_those_of_a_teacher_forced_run(model: probe.Probe, wide_image: Image.Image) -> None:
    blocks = [block for block, path in enumerate(model.modules.attention) if path and "cross_attn" not in path]
    knock_out = [probe.edit.block(probe.Attention(blocks, query="answer", key="question"))]
    ours = model.generate(model.encode(wide_image, QUESTIONS[0]), edits=knock_out, max_new_tokens=LENGTH)
    logits = model.run(ours, probe.Logits(), edits=knock_out).logits().data[0]
    predicting = list(ours.tokens.predicting("answer").positions)
    assert tuple(logits[predicting].argmax(-1).tolist()) == ours.tokens.ids[-LENGTH:]


@pytest.mark.parametrize("policy", ["packed", "batched"])
def test_a_session_answers_as_each_question_alone(model: probe.Probe, layer: int, policy: str, wide_image: Image.Image) -> None:
    if policy not in offered_policies(model.runtime)[0]:
        pytest.skip("the family does not offer this policy")
    vector = _vector(model)
    edits = [
        probe.edit.replace(probe.Hidden(layer, at="image"), vector),
        probe.edit.add(probe.Hidden(layer, at=("question", "answer")), vector),
    ]
    alone = [model.generate(model.encode(wide_image, question), edits=edits, max_new_tokens=LENGTH) for question in QUESTIONS]
    with model.open(wide_image, policy=policy) as session:
        plain = session.ask(QUESTIONS, max_new_tokens=LENGTH)
        together = session.ask(QUESTIONS, max_new_tokens=LENGTH, edits=edits)
        again = session.ask(QUESTIONS, max_new_tokens=LENGTH)
    with model.open(wide_image, policy=policy, edits=edits) as session:
        opened = session.ask(QUESTIONS, max_new_tokens=LENGTH)
    assert [one.tokens.ids for one in together] == [one.tokens.ids for one in alone]
    assert [one.tokens.ids for one in opened] == [one.tokens.ids for one in alone]
    assert [one.tokens.ids for one in again] == [one.tokens.ids for one in plain]
    assert [one.tokens.ids for one in plain] != [one.tokens.ids for one in alone]
