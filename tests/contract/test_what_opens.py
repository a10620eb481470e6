"""Checkpoints by name: each kind opens with what its folder has, or the error says what was found and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    MistralConfig,
    MistralModel,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2AudioProcessor,
    T5Config,
    T5ForConditionalGeneration,
    WhisperFeatureExtractor,
)

import probe
from probe.errors import LoadError, ProcessorNeeded
from tests import families, zoo
from tests.families import encoders, text_models

REMOTE = Path(__file__).parents[1] / "remote" / "modeling_quartet.py"
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def saved(folder: Path, model: Any, *others: Any) -> Path:
    for part in (model, *others):
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "gemma3_text"])
def test_a_model_of_text_opens_by_name_with_its_tokenizer(name: str, tmp_path: Path) -> None:
    hf = text_models.build(name)
    model = probe.load(saved(tmp_path, hf, zoo.tokenizer()))
    assert type(model.model) is type(hf)
    x = model.encode(None, "Is there a cat?", chat=False)
    assert x.tokens.text("prompt") == "Is there a cat?"
    with torch.no_grad():
        theirs = hf(**x.inputs, use_cache=False).logits
    assert float((model.run(x, probe.Logits(None)).logits(None).data - theirs).abs().max()) == 0


def test_a_model_that_hears_opens_by_name_and_reads_text_with_its_own_processor(tmp_path: Path) -> None:
    hf, sound = text_models.build("qwen2_audio"), WhisperFeatureExtractor(feature_size=16)
    model = probe.load(saved(tmp_path, hf, Qwen2AudioProcessor(sound, zoo.copied(zoo.tokenizer(), to_extend=True), audio_token="<unk>")))
    assert type(model.model) is type(hf)
    x = model.encode(None, "Is there a cat?", chat=False)
    assert sorted(x.inputs) == ["attention_mask", "input_ids"]
    assert model.generate(x, max_new_tokens=2).text == probe.load(model=hf, processor=zoo.tokenizer()).generate(x, max_new_tokens=2).text


def test_a_folder_without_a_tokenizer_opens_with_one_that_is_given(tmp_path: Path) -> None:
    folder = saved(tmp_path, text_models.build("llama"))
    with pytest.raises(LoadError, match=r"The processor of .* cannot be loaded: .*probe\.load\(name, processor=\.\.\.\)"):
        probe.load(folder)
    assert probe.load(folder, processor=zoo.tokenizer()).encode(None, "Hello", chat=False).tokens.text() == "Hello"


@pytest.mark.parametrize("name", ["clip", "siglip2", "dinov2", "dinov3_vit", "vit", "clip_vision_model"])
def test_a_vision_encoder_opens_by_name_with_its_image_processor(name: str, tmp_path: Path, wide_image: Image.Image) -> None:
    hf, processor = encoders.build(name)
    model = probe.load(saved(tmp_path, hf, processor))
    assert type(model.model) is type(hf)  # with all of its parts: the head of a classifier, the tower of words
    ours = model.run(model.encode(wide_image, ""), probe.Vision(-1)).vision()
    theirs = probe.load(model=hf, processor=processor)
    assert torch.equal(ours.data, theirs.run(theirs.encode(wide_image, ""), probe.Vision(-1)).vision().data)


def test_of_a_model_that_speaks_the_part_that_reads_is_opened(tmp_path: Path) -> None:
    thinker, inputs = families.build("qwen2_5_omni_thinker")
    config = Qwen2_5OmniConfig(thinker_config=thinker.config.to_dict(), enable_audio_output=False)
    whole = Qwen2_5OmniForConditionalGeneration(config)
    whole.thinker.load_state_dict(thinker.state_dict())
    whole.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors") | {"talker.codec_head.weight": torch.zeros(2), "token2wav.bias": torch.zeros(2)}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    model = probe.load(tmp_path, processor=zoo.tokenizer())
    assert model.family == "qwen2_5_omni_thinker"
    logits = probe.load(model=thinker).run(inputs, probe.Logits(-1)).logits().data
    assert torch.equal(model.run(inputs, probe.Logits(-1)).logits().data, logits)


def test_a_model_of_an_encoder_and_a_decoder_of_words_opens(tmp_path: Path) -> None:
    config = T5Config(d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8, vocab_size=160, decoder_start_token_id=0)
    model = probe.load(saved(tmp_path, zoo.enliven(T5ForConditionalGeneration(config))), processor=zoo.tokenizer())
    inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "decoder_input_ids": torch.tensor([[0, 8]])}
    trace = model.run(inputs, [probe.Hidden("all"), probe.Logits(None)])
    with torch.no_grad():
        theirs = model.model(**inputs, output_hidden_states=True, use_cache=False)
    pairs = enumerate(theirs.decoder_hidden_states)
    assert max(float((trace.hidden(layer=layer).data - state).abs().max()) for layer, state in pairs) == 0
    assert float((trace.logits(None).data - theirs.logits).abs().max()) == 0


def test_what_neither_writes_nor_sees_is_refused_by_its_name(tmp_path: Path) -> None:
    bert = saved(tmp_path / "bert", BertForMaskedLM(BertConfig(**SMALL, vocab_size=99)))
    reason = r"is a 'bert' model \(BertForMaskedLM\), which transformers opens neither as one that writes text nor as a vision encoder"
    with pytest.raises(LoadError, match=reason):
        probe.load(bert)
    headless = saved(tmp_path / "mistral", MistralModel(MistralConfig(**SMALL, num_key_value_heads=2, vocab_size=99)))
    with pytest.raises(LoadError, match=r"is a 'mistral' model \(MistralModel\)"):
        probe.load(headless)


@pytest.fixture(scope="module")
def quartet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with Python code of its own, of an architecture that transformers does not have."""
    from tests.remote.modeling_quartet import Quartet, QuartetConfig

    folder = tmp_path_factory.mktemp("quartet")
    text = {**SMALL, "vocab_size": 32064, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    saved(folder, zoo.enliven(Quartet(QuartetConfig(llm_config=text))), zoo.tokenizer())
    shutil.copy(REMOTE, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "modeling_quartet.QuartetConfig", "AutoModelForCausalLM": "modeling_quartet.Quartet"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_of_a_checkpoint_is_not_run_unless_asked_for(quartet: Path) -> None:
    with pytest.raises(LoadError, match=r"comes with Python code of its own\. If you trust it, load it with remote_code=True"):
        probe.load(quartet)


def test_a_model_with_code_of_its_own_is_discovered(quartet: Path) -> None:
    model = probe.load(quartet, remote_code=True)
    hf = model.model
    assert type(hf).__module__.startswith("transformers_modules.")
    assert model.modules.layers == tuple(f"language_model.model.layers.{block}" for block in range(2))
    assert model.modules.vision_blocks == tuple(f"vision_model.blocks.{block}" for block in range(3))
    inputs = {"input_ids": torch.tensor([[1, *[150] * 16, 5, 6]]), "pixel_values": families.tiny.pixels(1)}
    trace = model.run(
        inputs, [probe.Vision("all"), probe.Projected(), probe.Hidden("all"), probe.Attention("all", query=-1), probe.Logits(None)]
    )
    with torch.no_grad():
        theirs = hf(**inputs, output_hidden_states=True, use_cache=False)
        seen = hf.vision_model(inputs["pixel_values"])
        hf.set_attn_implementation("eager")
        rows = hf(**inputs, output_attentions=True, use_cache=False).attentions
    states = enumerate(theirs.hidden_states)
    assert max(float((trace.hidden(layer=layer).data - state).abs().max()) for layer, state in states) == 0
    assert float((trace.vision(layer=3).data - seen).abs().max()) == 0
    assert float((trace.projected().data - hf.bridge(seen)).abs().max()) == 0
    assert float((trace.logits(None).data - theirs.logits).abs().max()) == 0
    # A separate eager forward differs by the order of sums.
    assert max(float((trace.attention(layer=block).data - row[:, :, -1:]).abs().max()) for block, row in enumerate(rows)) < 1e-6
    assert model.inspect()["heads"] == "4, 4 for keys and values"


def test_a_model_with_code_of_its_own_answers(quartet: Path) -> None:
    model = probe.load(quartet, remote_code=True)
    x = model.encode(None, "Is there a cat?", chat=False)
    states = model.run(x, probe.Hidden(-1)).hidden(layer=-1)
    assert model.lens(states, top=1).ids.data.shape == (1, len(x.tokens), 1)
    y = model.generate(x, max_new_tokens=3)
    with torch.no_grad():
        theirs = model.model(**x.inputs, use_cache=False).logits[0, -1].argmax()
    assert y.tokens.ids[len(x.tokens)] == int(theirs)


def test_an_encoder_without_its_image_processor_takes_pixel_values(wide_image: Image.Image) -> None:
    model = probe.load(model=encoders.build("dinov2")[0])
    with pytest.raises(ProcessorNeeded, match=r"encode\(\) needs a processor"):
        model.encode(wide_image, "")
    assert model.run({"pixel_values": torch.zeros(1, 3, 56, 56)}, probe.Vision(0)).vision().grid().data.shape == (1, 4, 4, 32)
