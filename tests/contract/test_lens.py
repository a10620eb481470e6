"""The lens in every family: of the last hidden state it is Hugging Face's own distribution, of a middle layer its norm and head by hand.

Norm: the largest absolute difference of log-probabilities over the whole vocabulary, float32, with an image in the input. The same modules
compute the logits from the same states, over other numbers of positions at once, so only the order of sums differs: 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import probe
from tests import families
from tests.families.daily import daily

STREAMS = {"gemma3n": range(5), "glm5_next": range(4), "hy_v4_vl": range(4), "qwen4_exp": range(4)}
"""Families with several residual streams -> the layers whose states are not one, which no head takes."""
VOCABULARY = 160


SETTINGS: dict[str, dict[str, float]] = {
    "cohere_compass": {"logit_scale": 0.25},
    "gemma4": {"final_logit_softcapping": 2.0},
    "gemma4_unified": {"final_logit_softcapping": 2.0},
    "granite4_vision": {"logits_scaling": 3.0},
    "granite_docling": {"logits_scaling": 3.0},
    "hyperclovax_vision_v2": {"logits_scaling": 3.0},
    "inkling_mm_model": {"logits_mup_width_multiplier": 3.0, "unpadded_vocab_size": 157},
    "paligemma": {"final_logit_softcapping": 2.0},
    "t5gemma2": {"final_logit_softcapping": 2.0},
}
"""What the tiny models leave idle and checkpoints do not."""


def build(name: str) -> tuple[Any, dict[str, Any]]:
    hf, inputs = families.build(name)
    for setting, value in SETTINGS.get(name, {}).items():
        setattr(hf.config.decoder if name == "t5gemma2" else hf.config.get_text_config(), setting, value)
    if name == "cohere_compass":
        hf.logit_scale = SETTINGS[name]["logit_scale"]
    return hf, inputs


def softcapped(logits: Tensor, config: Any) -> Tensor:
    return torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping


def only_text(logits: Tensor, hf: Any) -> Tensor:
    return logits.index_fill(-1, torch.tensor(hf.model.vocabulary_mapping.image_tokens), torch.finfo(logits.dtype).min)


AFTER: dict[str, Callable[[Tensor, Any, Any], Tensor]] = {
    "chameleon": lambda logits, hf, _: only_text(logits, hf),
    "cohere_compass": lambda logits, _, text: logits * text.logit_scale,
    "diffusion_gemma": lambda logits, _, text: softcapped(logits, text),
    "gemma4": lambda logits, _, text: softcapped(logits, text),
    "gemma4_unified": lambda logits, _, text: softcapped(logits, text),
    "granite4_vision": lambda logits, _, text: logits / text.logits_scaling,
    "granite_docling": lambda logits, _, text: logits / text.logits_scaling,
    "hyperclovax_vision_v2": lambda logits, _, text: logits * text.logits_scaling,
    "inkling2": lambda logits, _, text: softcapped(logits, text)[..., : text.unpadded_vocab_size],
    "inkling_mm_model": lambda logits, _, text: (logits / text.logits_mup_width_multiplier)[..., : text.unpadded_vocab_size],
    "mistral_large4": lambda logits, _, text: softcapped(logits, text),
    "muse_glimmer": lambda logits, _, text: softcapped(logits * text.output_multiplier, text),
    "muse_spark": lambda logits, _, text: softcapped(logits * text.output_multiplier, text),
    "paligemma": lambda logits, _, text: softcapped(logits, text),
    "t5gemma2": lambda logits, hf, _: softcapped(logits, hf.config.decoder),
    "udop": lambda logits, hf, _: logits * hf.config.d_model**-0.5,
}
"""What families do between the last hidden state and the logits beside a linear head, written out."""


def after_by_hand(name: str, hf: Any, logits: Tensor) -> Tensor:
    return AFTER[name](logits, hf, hf.config.get_text_config()) if name in AFTER else logits


def norm_by_hand(hf: Any, model: probe.Probe, inputs: dict[str, Any]) -> str | None:
    """The last norm that a forward runs, unless it is in a block: found by running, not by its name."""
    ran: list[str] = []
    names = [name for name, part in hf.named_modules() if "norm" in type(part).__name__.lower() and not list(part.children())]
    hooks = [hf.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name)) for name in names]
    with torch.no_grad():
        hf(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    decoder = model.modules.layers[0].rpartition(".")[0].rpartition(".")[0]
    last = [name for name in ran if name.startswith(decoder)][-1]
    return None if any(last.startswith(f"{layer}.") for layer in model.modules.layers) else last


def head_by_hand(name: str, hf: Any) -> Any:
    if name == "blip":
        return hf.text_decoder.cls
    return hf.language_model.lm_head if name == "nemotron_h_omni" else hf.get_output_embeddings()


def lens_of_all(model: probe.Probe, states: probe.Activation, size: int, **options: Any) -> Tensor:
    return model.lens(states, words=range(size), **options).data


@pytest.mark.parametrize("name", daily(sorted(set(families.FAMILIES) - {"gemma3n"})))
def test_the_lens_is_the_models_own_distribution(name: str) -> None:
    hf, inputs = build(name)
    model = probe.load(model=hf)
    depth = len(model.modules.layers)
    middle = [] if name in STREAMS else [depth // 2]
    trace = model.run(inputs, probe.Hidden([*middle, depth]))
    states = trace.hidden(layers=[*middle, depth])
    with torch.no_grad():
        theirs = hf(**inputs, use_cache=False).logits.float().log_softmax(-1)
    ours = lens_of_all(model, states, theirs.shape[-1])
    assert ours.shape == (len(middle) + 1, *theirs.shape)
    assert float((ours[-1] - theirs).abs().max()) < 1e-5
    if not middle:
        return
    norm = norm_by_hand(hf, model, inputs)
    assert norm == model.modules.final_norm
    with torch.no_grad():
        normed = states.data[0] if norm is None else hf.get_submodule(norm)(states.data[0])
        linear = head_by_hand(name, hf)(normed).float()
    by_hand = after_by_hand(name, hf, linear).log_softmax(-1)
    assert float((ours[0] - by_hand).abs().max()) < 1e-5


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_several_residual_streams_have_no_lens(name: str) -> None:
    hf, inputs = build(name)
    model = probe.load(model=hf)
    trace = model.run(inputs, probe.Hidden("all"))
    for layer in STREAMS[name]:
        with pytest.raises(
            probe.errors.InvalidRead, match=r"several residual streams, which it merges only after its last block, into one of 32"
        ):
            model.lens(trace.hidden(layers=[layer]), words=[5])


def test_gemma3ns_merged_state_goes_through_its_norm_and_soft_cap() -> None:
    hf, inputs = build("gemma3n")
    model, merged = probe.load(model=hf), []
    hook = hf.model.language_model.norm.register_forward_pre_hook(lambda _, args: merged.append(args[0]))
    with torch.no_grad():
        theirs = hf(**inputs, use_cache=False).logits.float().log_softmax(-1)
    hook.remove()
    states = probe.Activation(merged[0], ("batch", "token", "feature"), normed=(False,))
    assert float((lens_of_all(model, states, theirs.shape[-1]) - theirs).abs().max()) < 1e-5
    after = probe.Activation(hf.model.language_model.norm(merged[0]), ("batch", "token", "feature"), normed=(True,))
    assert float((lens_of_all(model, after, theirs.shape[-1]) - theirs).abs().max()) < 1e-5


@pytest.mark.parametrize("name", sorted(AFTER))
def test_what_follows_the_head_is_not_idle_in_these_models(name: str) -> None:
    hf, _ = build(name)
    logits = torch.linspace(-50, 50, VOCABULARY)[None]
    changed = after_by_hand(name, hf, logits)
    assert changed.shape != logits.shape or float((changed - logits).abs().max()) > 0.1
