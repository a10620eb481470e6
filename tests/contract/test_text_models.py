"""Models of text alone, and of sound and text, with a tokenizer in place of a processor: each read is plain Hugging Face's.

Hidden states, logits and edited logits are of the same kernel: 0. Attention rows times values are the call's own output to 5e-6 of a head's
largest value; a separate eager forward differs by the order of sums: 1e-5. The lens of the last state is the model's own log-softmax, of
the states of all positions in one product rather than of each sequence: 1e-5. Gradients come from the same graph: 0.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch

import probe
from probe import edit
from probe.sessions import prefixes
from probe.sessions.policies import offered_policies
from tests import hooked, zoo
from tests.families import text_models
from tests.families.daily import daily

QUESTION = "Is there a cat in the garden? It was there a moment ago."
TEMPLATE = "{% for m in messages %}[INST] {{ m['content'] | trim }} [/INST]{% endfor %}"
STATES_BEHIND = {
    "mamba"
}  # Hugging Face's hidden_states begin with the first block's output: ours, which begin with the embeddings, are one on

ALONE = {"mamba", "falcon_h1", "qwen2_audio", "voxtral", "phi4_multimodal"}
"""Families that declare no sharing."""
RECURRENT = {"lfm2", "qwen3_next"}
"""Families whose blocks hold a recurrent state, which cannot be shared in one row."""
BRIEF = "You are a patient helper. [INST] {question} [/INST]"
QUESTIONS = ["Is there a cat?", "And a dog?", "Why?", "What is on the table, and what lies below it on the floor beside the chair?", "cat"]
QUICK = ("llama", "gpt2", "mixtral", "mamba")  # a dense one, one of another shape, experts, a recurrent one


@pytest.fixture(scope="module", params=daily(text_models.TEXT_MODELS, QUICK))
def model(request: pytest.FixtureRequest) -> probe.Probe:
    tokenizer = zoo.copied(zoo.tokenizer())
    tokenizer.chat_template = TEMPLATE
    return probe.load(model=text_models.build(request.param), processor=tokenizer)


def plain(model: probe.Probe, encoding: probe.Encoding, **outputs: bool) -> Any:
    with torch.no_grad():
        return model.model(**encoding.inputs, **outputs, use_cache=False)


def test_a_tokenizer_alone_encodes_under_its_chat_template(model: probe.Probe) -> None:
    x = model.encode(None, QUESTION)
    assert x.prompt == f"[INST] {QUESTION} [/INST]"
    assert x.tokens.text("question") == QUESTION
    assert x == model.encode([], [{"role": "user", "content": QUESTION}])
    assert x.inputs["input_ids"].tolist() == model.processor(x.prompt, return_tensors="pt")["input_ids"].tolist()
    assert "image" not in x.tokens.spans


def test_states_and_logits_are_hugging_faces(model: probe.Probe) -> None:
    x = model.encode(None, QUESTION)
    trace = model.run(x, [probe.Hidden("all"), probe.Logits(None)])
    theirs = plain(model, x, output_hidden_states=True)
    ours = [trace.hidden(layer=layer).data for layer in range(len(model.modules.layers) + 1)]
    if model.family in STATES_BEHIND:
        unnormed = probe.Hidden(-1, normed=False)
        before = model.run(x, unnormed)[unnormed].data[0]
        ours = [*ours[1:-1], before, ours[-1]]
    assert len(theirs.hidden_states) == len(ours)
    assert max(float((one - other).abs().max()) for one, other in zip(ours, theirs.hidden_states, strict=True)) == 0
    assert float((trace.logits(None).data - theirs.logits).abs().max()) == 0


def test_attention_rows_are_those_of_eager_attention(model: probe.Probe) -> None:
    x = model.encode(None, QUESTION)
    blocks = [block for block, path in enumerate(model.modules.attention) if path is not None]
    if not blocks:
        with pytest.raises(probe.errors.NoAttention, match="Blocks with attention: none"):
            model.run(x, probe.Attention([0], query=-1))
        return
    trace = model.run(x, probe.Attention("all", query="question"))
    eager = copy.deepcopy(model.model)
    eager.set_attn_implementation("eager")
    weights = plain(probe.load(model=eager), x, output_attentions=True).attentions
    theirs = [weight for weight in weights if weight is not None]
    rows = list(x.tokens.span("question").positions)
    pairs = zip(blocks, theirs, strict=True)
    assert max(float((trace.attention(layer=block).data - weight[:, :, rows]).abs().max()) for block, weight in pairs) < 1e-5
    assert max(trace.row_differences.values()) < 5e-6


def test_an_answer_is_hugging_faces_greedy_one(model: probe.Probe) -> None:
    x = model.encode(None, QUESTION)
    y = model.generate(x, max_new_tokens=4)
    with torch.no_grad():
        theirs = model.model.generate(
            **x.inputs, max_new_tokens=4, do_sample=False, pad_token_id=0, temperature=None, top_p=None, top_k=None
        )
    assert list(y.tokens.ids) == theirs[0].tolist()
    given = x.with_answer("Yes, a cat.")
    assert given.text == "Yes, a cat."
    assert float((model.run(given, probe.Logits(-1)).logits().data[0, 0] - plain(model, given).logits[0, -1]).abs().max()) == 0


def test_an_edit_is_what_a_hook_does(model: probe.Probe) -> None:
    x, block = model.encode(None, QUESTION), 1
    positions = list(x.tokens.span("question").positions)

    def doubled(states: torch.Tensor) -> torch.Tensor:
        return states.index_copy(1, torch.tensor(positions), 2 * states[:, positions])

    ours = model.run(x, probe.Logits(None), edits=edit.scale(probe.Hidden(block + 1, at="question"), 2.0)).logits(None).data
    with hooked.module(model.model, model.modules.layers[block], doubled):
        theirs = plain(model, x).logits
    assert float((ours - theirs).abs().max()) == 0
    assert float((ours - plain(model, x).logits).abs().max()) > 1e-3


def test_the_lens_of_the_last_state_is_the_models_own_prediction(model: probe.Probe) -> None:
    x = model.encode(None, QUESTION)
    states = model.run(x, probe.Hidden(-1, at="question")).hidden(layer=-1)
    expected = plain(model, x).logits[0, list(x.tokens.span("question").positions)].log_softmax(-1)
    assert float((model.lens(states, words=(5, 6)).data[0] - expected[:, [5, 6]]).abs().max()) < 1e-5


def test_gradients_are_those_of_plain_autograd(model: probe.Probe) -> None:
    x, kept = model.encode(None, QUESTION), []
    ours = model.gradients(x, of=probe.LogitDifference(5, 6), to=[probe.Hidden(2)]).hidden(layer=2).data

    def taken(states: torch.Tensor) -> torch.Tensor:
        kept.append(states.detach().requires_grad_())
        return kept[0]

    with hooked.module(model.model, model.modules.layers[1], taken):
        logits = model.model(**x.inputs, use_cache=False).logits[0, -1]
    (theirs,) = torch.autograd.grad(logits[5] - logits[6], kept[0])
    assert float((ours - theirs).abs().max()) == 0


@pytest.mark.filterwarnings("ignore:Variants run whole")  # in those of ALONE
def test_a_causal_trace_is_a_patched_run(model: probe.Probe) -> None:
    clean, corrupt = model.encode(None, QUESTION), model.encode(None, QUESTION.replace("cat", "dog"))
    traced = probe.causal_trace(model, clean, corrupt, metric=probe.LogitDifference(5, 6), places=["question", -1], layers=[2])
    states = plain_states(model, clean)
    for place in ("question", -1):
        positions = list(corrupt.tokens.resolve(place))

        def patched(here: torch.Tensor, positions: list[int] = positions) -> torch.Tensor:
            return here.index_copy(1, torch.tensor(positions), states[:, positions])

        with hooked.module(model.model, model.modules.layers[1], patched):
            logits = plain(model, corrupt).logits[0, -1]
        # Runs go on from the unedited one: the same sums in another order, 1e-5 of logits of size 1 to 10 (max abs).
        assert abs(float(traced.data[0, ("question", -1).index(place)] - (logits[5] - logits[6]))) < 1e-5


@pytest.mark.parametrize("policy", ["packed", "batched"])
def test_questions_that_share_their_beginning_are_answered_as_alone(
    model: probe.Probe, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if policy not in offered_policies(model.runtime)[0]:
        assert model.family in ALONE or (policy == "packed" and model.family in RECURRENT)
        with pytest.raises(probe.errors.InvalidPolicy, match="can be asked under"):
            model.open(None, policy=policy)
        return
    ran = []
    monkeypatch.setattr(prefixes, "run_prefix", lambda *given, run=prefixes.run_prefix: (ran.append(len(given[1])), run(*given)))
    reads = [probe.Hidden("all", at=("prompt", "answer")), probe.Logits(at="answer")]
    with model.open(None, policy="none", template=BRIEF) as session:
        alone = session.ask(QUESTIONS, max_new_tokens=8)
    assert ran == []
    with model.open(None, policy=policy, template=BRIEF) as session:
        together = session.ask(QUESTIONS, max_new_tokens=8)
        traces = session.trace(together, reads)
    assert ran == [
        len(model.encode(None, "", chat=False).tokens) + 9
    ]  # the beginning of the sequence, and the words of BRIEF before the question
    assert [answer.tokens.ids for answer in together] == [answer.tokens.ids for answer in alone]
    assert len({answer.tokens.ids[answer.prompt_length :] for answer in alone}) >= 3
    for answer, trace in zip(alone, traces, strict=True):
        expected = model.run(answer, reads)
        layers = range(len(model.modules.layers) + 1)
        pairs = [(trace.hidden(at, layer=layer), expected.hidden(at, layer=layer)) for at in ("prompt", "answer") for layer in layers]
        for ours, theirs in [*pairs, (trace.logits(), expected.logits())]:
            # The same sums in another order, of states of size 1 to 10: 1e-5 (max abs), as of questions about an image.
            assert float((ours.data - theirs.data).abs().max()) <= 1e-5 * max(1.0, float(theirs.data.abs().max()))


def test_variants_go_on_from_the_unedited_run(model: probe.Probe) -> None:
    x, read = model.encode(None, QUESTION), probe.Hidden("all", at=-1)
    variants = [[edit.scale(probe.Hidden(layer, at=position), 1.5)] for layer, position in ((1, -2), (2, -1))]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        traces = model.run_variants(x, read, variants)
    assert ["no sharing is declared" in str(one.message) for one in said] == [True] * (model.family in ALONE)
    for trace, edits in zip(traces, variants, strict=True):
        expected = model.run(x, read, edits=edits)
        for layer in range(len(model.modules.layers) + 1):
            ours, theirs = trace.hidden(layer=layer).data, expected.hidden(layer=layer).data
            assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))


def plain_states(model: probe.Probe, x: probe.Encoding) -> torch.Tensor:
    """What the second block returns, by a hook."""
    kept: list[torch.Tensor] = []

    def taken(states: torch.Tensor) -> torch.Tensor:
        kept.append(states)
        return states

    with hooked.module(model.model, model.modules.layers[1], taken):
        plain(model, x)
    return kept[0]


def test_audio_tokens_are_a_span_of_a_plain_encoding() -> None:
    hf = text_models.build("qwen2_audio")
    ids = torch.tensor([[1, 5, *[text_models.AUDIO] * 10, 6, 7]])
    features = torch.randn(1, 16, 40, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "input_features": features, "feature_attention_mask": torch.ones(1, 40, dtype=torch.long)}
    trace = probe.load(model=hf).run(inputs, probe.Hidden("all", at="audio"))
    assert trace.tokens[0].span("audio").positions == tuple(range(2, 12))
    with torch.no_grad():
        theirs = hf(**inputs, output_hidden_states=True, use_cache=False).hidden_states
    assert max(float((trace.hidden("audio", layer=i).data - state[:, 2:12]).abs().max()) for i, state in enumerate(theirs)) == 0
    silent = hf.get_input_embeddings()(ids)[:, 2:12]
    assert float((trace.hidden("audio", layer=0).data - silent).abs().max()) > 1e-3  # the sound is in the states


def test_images_for_a_model_of_text_are_refused() -> None:
    model = probe.load(model=text_models.build("llama"), processor=zoo.tokenizer())
    with pytest.raises(probe.errors.TemplateError, match="has no token that stands for an image in a prompt"):
        model.encode(torch.zeros(3, 8, 8), "What is this?", template="mistral_instruct")
    with pytest.raises(probe.errors.SpanNotFound, match="No span 'image'"):
        model.run(model.encode(None, "Hello", chat=False), probe.Projected())
    with pytest.raises(probe.errors.InvalidRead, match="no vision tower was found"):
        model.run(model.encode(None, "Hello", chat=False), probe.Vision(0))
    with pytest.raises(probe.errors.InvalidRead, match=r"verify\(\) puts an image into the input, and llama takes none"):
        probe.verify(model)
    chatty = zoo.copied(zoo.tokenizer())
    chatty.chat_template = TEMPLATE
    with pytest.raises(probe.errors.TemplateError, match="a part of the type 'image', and a tokenizer reads text alone"):
        probe.load(model=model.model, processor=chatty).encode(None, [{"role": "user", "content": [{"type": "image"}]}])


def test_a_model_of_text_says_what_it_is() -> None:
    report = probe.load(model=text_models.build("llama"), processor=zoo.tokenizer()).inspect()
    assert report["family"] == "llama (LlamaForCausalLM)"
    assert report["Hidden"] == "model.layers.{0..3}"
    assert report["image token"] == "none"
    assert report["Vision"] == "not available"
