"""A number that is not finite never passes for an answer: it is refused, with the layer in which it begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import GenerationConfig

import probe
from probe.errors import NotFinite
from tests import zoo

YES_NO = probe.Choice(yes=("yes", "Yes"), no=("no", "No"))


@pytest.fixture
def model() -> probe.Probe:
    hf, processor = zoo.llava()
    return probe.load(model=hf, processor=processor)


@pytest.fixture
def broken(model: probe.Probe) -> probe.Probe:
    """One weight of decoder block 1 is NaN, so that hidden state 2 is the first that holds it."""
    model.model.get_submodule(model.modules.layers[1]).mlp.down_proj.weight[0, 0] = torch.nan
    return model


def test_states_that_are_not_finite_are_refused_with_the_layer_in_which_it_begins(broken: probe.Probe, wide_image: Image.Image) -> None:
    encoding = broken.encode(wide_image, "Is there a cat?")
    with pytest.raises(NotFinite) as raised:
        broken.run(encoding, probe.Hidden([3, 4], at="image"))
    assert str(raised.value) == (
        "Hidden states of layer 3 at 'image' hold NaN or infinity. It begins in hidden state 2, the output of decoder block 1. "
        "Check the checkpoint's weights, which may be damaged, and the inputs."
    )
    assert broken.run(encoding, probe.Hidden([0, 1], at="image")).hidden().shape["layer"] == 2


def test_states_of_a_span_without_a_name_are_named_by_its_positions(broken: probe.Probe, wide_image: Image.Image) -> None:
    encoding = broken.encode(wide_image, "Is there a cat?")
    with pytest.raises(NotFinite, match="Hidden states of layer 3 at positions 1, 2 hold NaN"):
        broken.run(encoding, probe.Hidden(3, at=probe.Span((1, 2))))
    with pytest.raises(NotFinite, match="Hidden states of layer 3 hold NaN"):
        broken.run(encoding, probe.Hidden(3))


def test_the_embeddings_of_the_tower_are_named_where_it_begins_there(model: probe.Probe, wide_image: Image.Image) -> None:
    [weight] = [value for name, value in model.model.named_parameters() if name.endswith("position_embedding.weight")]
    weight[0, 0] = torch.nan
    with pytest.raises(NotFinite, match=r"begins in state 0 of the vision tower\."):
        model.run(model.encode(wide_image, "Is there a cat?"), probe.Hidden(1, at="image"))


def test_the_tower_is_named_where_it_begins_there(model: probe.Probe, wide_image: Image.Image) -> None:
    model.model.get_submodule(model.modules.vision_blocks[0]).mlp.fc2.weight[0, 0] = torch.nan
    encoding = model.encode(wide_image, "Is there a cat?")
    with pytest.raises(NotFinite, match=r"Hidden states of layer 1 at 'image' .* begins in state 1 of the vision tower\."):
        model.run(encoding, probe.Hidden(1, at="image"))
    with pytest.raises(NotFinite, match=r"State 2 of the vision tower holds NaN .* begins in state 1 of the vision tower\."):
        model.run(encoding, probe.Vision([2]))


@pytest.mark.parametrize(("dtype", "advice"), [("float16", "dtype='bfloat16' or 'float32'"), ("bfloat16", "dtype='float32'")])
def test_a_dtype_that_overflows_names_wider_ones(model: probe.Probe, wide_image: Image.Image, dtype: str, advice: str) -> None:
    half = probe.load(model=model.model, processor=model.processor, dtype=dtype)
    half.model.get_submodule(half.modules.layers[1]).mlp.down_proj.weight[0, 0] = torch.inf
    with pytest.raises(NotFinite, match=advice):
        half.run(half.encode(wide_image, "Is there a cat?"), probe.Hidden("all", at="image"))


def test_logits_and_next_tokens_that_are_not_finite_are_refused(model: probe.Probe, wide_image: Image.Image) -> None:
    model.model.lm_head.weight[7, 0] = torch.nan  # one word of 32064
    encoding = model.encode(wide_image, "Is there a cat?")
    with pytest.raises(NotFinite, match=r"Logits at -1 hold NaN .* begins there: the states of all layers are finite"):
        model.run(encoding, probe.Logits(at=-1))
    with pytest.raises(NotFinite, match=r"The logits of the next token hold NaN"):
        model.generate(encoding, max_new_tokens=2)


@pytest.mark.parametrize("policy", ["packed", "batched", "none"])
def test_a_session_neither_answers_nor_scores_by_numbers_that_are_not_finite(
    broken: probe.Probe, wide_image: Image.Image, policy: str
) -> None:
    questions = ["Is there a cat?", "Is there a dog?"]
    with broken.open(wide_image, policy=policy) as session:
        answers = session.answer(questions, ["yes", "no"])
        for ask in (
            lambda: session.ask(questions, max_new_tokens=2),
            lambda: session.ask(questions, gate=YES_NO),
            lambda: session.trace(answers, [probe.Hidden("all", at="answer")]),
        ):
            with pytest.raises(NotFinite, match="begins in hidden state 2, the output of decoder block 1"):
                ask()


def test_rows_are_checked_at_every_use_and_not_only_at_the_first(model: probe.Probe, wide_image: Image.Image) -> None:
    encoding = model.encode(wide_image, "Is there a cat?")
    rows = probe.Attention([2], query=-1, key="image")
    assert model.run(encoding, rows).row_differences  # compared with the kernel
    model.model.get_submodule(model.modules.layers[1]).mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(NotFinite, match=r"Attention rows of block 2 hold NaN .* begins in hidden state 2"):
        model.run(encoding, rows)
    with pytest.raises(NotFinite):  # at first use too, rather than wrong rows
        probe.load(model=model.model, processor=model.processor).run(encoding, rows)


def test_padding_may_hold_anything() -> None:
    """A kernel may give NaN for padding that sees nothing; what was read is finite."""
    hf, _ = zoo.llava()
    ids = torch.tensor([[0, 5, 6, 7], [4, 5, 6, 7]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])

    def poison(_: Any, __: Any, output: Any) -> Any:
        states = output.clone()
        states[0, 0] = torch.nan
        return states

    hf.get_submodule("model.language_model.layers.3").register_forward_hook(poison)
    trace = probe.load(model=hf).run({"input_ids": ids, "attention_mask": mask}, probe.Hidden("all", at=-1))
    assert bool(torch.isfinite(trace.hidden(layer=4).data).all())


@pytest.fixture
def hooked(model: probe.Probe) -> Iterator[probe.Probe]:
    """Block 1 adds 1 to what it returns."""
    handle = model.model.get_submodule(model.modules.layers[1]).register_forward_hook(lambda _, __, output: output + 1.0)
    yield model
    handle.remove()


def test_states_are_what_the_next_layer_receives_hooks_included(hooked: probe.Probe, wide_image: Image.Image) -> None:
    encoding = hooked.encode(wide_image, "Is there a cat?")
    received: list[torch.Tensor] = []
    handle = hooked.model.get_submodule(hooked.modules.layers[2]).register_forward_pre_hook(lambda _, given: received.append(given[0]))
    trace = hooked.run(encoding, [probe.Hidden([1, 2, 3])])
    handle.remove()
    assert torch.equal(trace.hidden(layer=2).data, received[0])
    plain = hooked.model(**encoding.inputs, output_hidden_states=True).hidden_states
    assert all(torch.equal(trace.hidden(layer=layer).data, plain[layer]) for layer in (1, 2, 3))
    assert torch.equal(hooked.run(encoding, probe.Hidden(2)).hidden(layer=2).data, received[0])  # where the pass would have ended


def test_vision_states_are_what_the_next_block_receives_hooks_included(model: probe.Probe, wide_image: Image.Image) -> None:
    encoding = model.encode(wide_image, "Is there a cat?")
    before = model.run(encoding, probe.Vision([2])).vision()
    model.model.get_submodule(model.modules.vision_blocks[1]).register_forward_hook(lambda _, __, output: output + 1.0)
    assert torch.equal(model.run(encoding, probe.Vision([2])).vision().data, before.data + 1.0)


def test_a_run_takes_its_own_hooks_away_whatever_happens(hooked: probe.Probe, wide_image: Image.Image) -> None:
    block = hooked.model.get_submodule(hooked.modules.layers[1])
    kept = len(block._forward_hooks)
    encoding = hooked.encode(wide_image, "Is there a cat?")
    hooked.run(encoding, probe.Hidden([2]))
    hooked.model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(NotFinite):
        hooked.run(encoding, [probe.Hidden([2]), probe.Logits(at=-1)])
    assert len(block._forward_hooks) == kept


@pytest.mark.parametrize("policy", ["packed", "batched"])
def test_a_session_reads_its_prefix_again_when_the_model_has_changed(model: probe.Probe, wide_image: Image.Image, policy: str) -> None:
    reads = [probe.Hidden("all", at=("image", "answer"))]
    block = model.model.get_submodule(model.modules.layers[1])
    hooks: list[Any] = []

    def hook(scale: float) -> None:
        """One hook in place of another, whose memory it may well get."""
        while hooks:
            hooks.pop().remove()
        hooks.append(block.register_forward_hook(lambda _, __, output: output * scale))

    changes = {
        "a hook": lambda: hook(1.5),
        "another in its place": lambda: hook(0.5),
        "no hook": lambda: hooks.pop().remove(),
        "a weight written to": lambda: block.mlp.down_proj.weight.mul_(2.0),
        "a module replaced": lambda: setattr(block.mlp, "act_fn", torch.nn.ReLU()),
        "once more": lambda: setattr(block.mlp, "act_fn", torch.nn.Tanh()),
        "a forward of one's own": lambda: setattr(block.mlp, "forward", lambda states: states * 0.5),
        "a buffer written to": lambda: model.model.model.language_model.rotary_emb.inv_freq.mul_(0.5),
    }
    with model.open(wide_image, keep=reads, policy=policy) as session:
        (answer,) = session.answer(["Is there a cat?"], ["yes, it is."])
        session.trace([answer], reads)
        for what, change in changes.items():
            change()
            (shared,), alone = session.trace([answer], reads), model.run(answer, reads)
            for place in ("image", "answer"):
                difference = float((shared.hidden(place).data - alone.hidden(place).data).abs().max())
                assert difference < 1e-4, f"{what}: {place} differs by {difference}"


def test_global_hooks_are_noticed(model: probe.Probe, wide_image: Image.Image) -> None:
    reads = [probe.Hidden(2, at="image")]
    with model.open(wide_image, keep=reads) as session:
        (answer,) = session.answer(["Is there a cat?"], ["yes."])
        session.trace([answer], reads)
        block = model.model.get_submodule(model.modules.layers[1])
        handle = register_module_forward_pre_hook(lambda module, given: (given[0] * 2.0,) if module is block else None)
        try:
            (shared,), alone = session.trace([answer], reads), model.run(answer, reads)
        finally:
            handle.remove()
    torch.testing.assert_close(shared.hidden().data, alone.hidden().data, atol=1e-4, rtol=1e-4)


def test_a_diagnosis_that_fails_does_not_hide_what_it_is_of(
    broken: probe.Probe, wide_image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any, **__: Any) -> str:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(type(broken.runtime.engine), "first_not_finite_state", short)
    with broken.open(wide_image) as session, pytest.raises(NotFinite, match=r"hold NaN or infinity\. Check the checkpoint's weights"):
        session.ask(["Is there a cat?"])


def test_a_token_that_the_model_bans_is_no_fault(model: probe.Probe, wide_image: Image.Image) -> None:
    def ban(_: Any, __: Any, logits: Any) -> Any:
        banned = logits.clone()
        banned[..., 5] = -torch.inf
        return banned

    model.model.lm_head.register_forward_hook(ban)
    logits = model.run(model.encode(wide_image, "Is there a cat?"), probe.Logits(at=-1)).logits().data
    assert float(logits[0, 0, 5]) == -torch.inf


def test_what_generation_takes_beside_its_settings_is_passed_on(model: probe.Probe, wide_image: Image.Image) -> None:
    called: list[int] = []

    def count(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        called.append(ids.shape[1])
        return scores

    config = GenerationConfig(max_new_tokens=2, do_sample=False)
    model.generate(model.encode(wide_image, "Is there a cat?"), generation_config=config, logits_processor=[count])
    assert called
