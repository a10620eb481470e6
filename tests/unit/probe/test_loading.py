"""Opening checkpoints, and the errors of folders that are none."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ASTConfig, ASTModel, BertConfig, BertModel, ResNetConfig, ResNetModel

import probe
from probe.backbones import Backbone
from probe.errors import DeviceNotFound, LoadError
from tests import zoo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save(zoo.llava(), tmp_path_factory.mktemp("llava"))


def test_a_saved_folder_opens_with_its_processor(folder: Path, wide_image: Image.Image) -> None:
    model = probe.load(str(folder), dtype="float32")
    assert model.family == "llava"
    assert model.encode(wide_image, "Is there a cat?").tokens.text("question") == "Is there a cat?"
    report = model.inspect()
    assert report["layers"] == "4 decoder blocks, hidden_states 0 (embeddings) to 4"
    assert "model.language_model.layers.{0..3}.self_attn" in str(report)


def test_folders_that_are_no_model_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="No model folder"):
        probe.load(str(tmp_path / "missing"))
    with pytest.raises(LoadError, match=r"has no config\.json"):
        probe.load(str(tmp_path))


def test_a_folder_without_weights_is_half_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(LoadError, match="cut short"):
        probe.load(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(LoadError, match=r"pickled weights only \(pytorch_model\.bin\)"):
        probe.load(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(LoadError, match=r"model\.safetensors' is damaged or cut short .*Get the file again"):
        probe.load(str(tmp_path))


def config_of(folder: Path, **fields: object) -> Path:
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_a_folder_that_is_no_checkpoint_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(LoadError, match=r"has no config\.json: it is not a saved model \(it has notes\.txt\)\. Save one there"):
        probe.load(tmp_path)
    (tmp_path / "model.Q4.gguf").write_text("")
    with pytest.raises(LoadError, match=r"it has a GGUF file, which probe does not read\. Get the checkpoint in safetensors"):
        probe.load(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(LoadError, match=r"it is an adapter without its model\. Load the model, put the adapter on it with peft"):
        probe.load(tmp_path)


def test_a_diffusion_pipeline_names_its_parts(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    for part in ("text_encoder", "unet"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30"}')
    with pytest.raises(LoadError, match=r"it is a diffusion pipeline, of which probe reads none\. Of its parts \(text_encoder, unet\)"):
        probe.load(tmp_path)
    (tmp_path / "unet" / "model.safetensors").write_bytes(b"")
    with pytest.raises(LoadError, match=r"is of a UNet2DConditionModel of diffusers, which is no model of transformers"):
        probe.load(tmp_path / "unet")


def test_a_configuration_without_an_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"has no model_type \(its keys: hidden_size, layers\), so its architecture is not known"):
        probe.load(config_of(tmp_path, layers=3, hidden_size=8))
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(LoadError, match=r"config\.json' is no configuration .*Get the file again"):
        probe.load(tmp_path)
    with pytest.raises(LoadError, match=r"of an architecture that transformers [\d.]+ does not have: .*`nonesuch`.*Install a newer"):
        probe.load(config_of(tmp_path, model_type="nonesuch"))


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    reason = r"is a 'wav2vec2' model \(Wav2Vec2Model\), which transformers opens neither as one that writes text nor as a vision encoder"
    with pytest.raises(LoadError, match=reason):
        probe.load(config_of(tmp_path, model_type="wav2vec2", architectures=["Wav2Vec2Model"]))


def saved_without(folder: Path, place: Path, *names: str, add: dict[str, torch.Tensor] | None = None) -> str:
    """A copy of a model's folder whose weights lack these tensors and have these others."""
    shutil.copytree(folder, place)
    tensors = {name: tensor for name, tensor in load_file(place / "model.safetensors").items() if name not in names}
    save_file(tensors | (add or {}), place / "model.safetensors", {"format": "pt"})
    return str(place)


def test_a_checkpoint_without_all_of_its_tensors_is_refused(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = sorted(load_file(folder / "model.safetensors"))[:5]
    with pytest.raises(LoadError, match=r"tensors 5 missing \([\w.]+, [\w.]+, [\w.]+, \.\.\.\)\. Get the checkpoint again"):
        probe.load(saved_without(folder, tmp_path / "llava", *names))
    assert "Consider training" not in capfd.readouterr().err  # transformers' advice beside our error


def test_a_checkpoint_with_tensors_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"tensors 1 left over \(decoder\.extra\)"):
        probe.load(saved_without(folder, tmp_path / "more", add={"decoder.extra": torch.zeros(2)}))
    name = "language_model.model.norm.weight"
    assert load_file(folder / "model.safetensors")[name].shape == (48,)
    with pytest.raises(LoadError, match=r"1 of another shape than the configuration says \(\S+norm\.weight \(47,\), not \(48,\)\)"):
        probe.load(saved_without(folder, tmp_path / "shape", add={name: torch.ones(47)}))


def test_tied_weights_and_names_that_a_class_ignores_do_not_count(folder: Path, tmp_path: Path) -> None:
    hf, processor = zoo.llava()
    hf.config.tie_word_embeddings = hf.config.text_config.tie_word_embeddings = True
    hf.tie_weights()
    tied = zoo.save((hf, processor), tmp_path / "tied")
    assert not any("lm_head" in name for name in load_file(tied / "model.safetensors"))
    assert probe.load(tied).family == "llava"
    ignored = {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    assert probe.load(saved_without(folder, tmp_path / "old", add=ignored)).family == "llava"


def test_a_folder_that_lacks_a_weight_file_of_its_index_names_it(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "llava")
    files = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "llava/model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(LoadError, match=r"lacks 1 of its weight files \(model-00002-of-00002\.safetensors\)"):
        probe.load(tmp_path / "llava")


def test_names_that_are_nothing_here_are_not_blamed_on_the_files() -> None:
    with pytest.raises(LoadError, match="no folder 'models/llava' here, and as a hub id it cannot be fetched"):
        probe.load("models/llava")
    with pytest.raises(LoadError, match=r"is a web address\. Give the hub id"):
        probe.load("https://huggingface.co/llava-hf/llava-1.5-7b-hf")
    with pytest.raises(LoadError, match="got an empty name"):
        probe.load("")


def test_a_kernel_that_is_not_installed_is_said_so(folder: Path) -> None:
    with pytest.raises(LoadError, match="FlashAttention2 has been toggled on, but it cannot be used"):
        probe.load(str(folder), attn_implementation="flash_attention_2")


def test_a_model_on_the_cpu_is_in_float32_however_it_got_there(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "half")
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, tmp_path / "half/model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "bfloat16"}
    (tmp_path / "half/config.json").write_text(json.dumps(config))
    assert probe.load(tmp_path / "half").model.dtype == torch.float32
    assert probe.load(tmp_path / "half", device_map="cpu").model.dtype == torch.float32
    assert probe.load(tmp_path / "half", device_map={"": "cpu"}).model.dtype == torch.float32
    assert probe.load(tmp_path / "half", dtype="bfloat16", device_map="cpu").model.dtype == torch.bfloat16


def test_a_model_without_a_decoder_or_a_tower_is_refused() -> None:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    with pytest.raises(LoadError, match="model= is a BertModel, which takes input_ids and has no language decoder"):
        probe.load(model=BertModel(BertConfig(**small)))
    with pytest.raises(LoadError, match="model= is a ASTModel, which takes input_values and has no language decoder"):
        probe.load(model=ASTModel(ASTConfig(**small)))
    with pytest.raises(LoadError, match="ResNetModel takes images and no words, and has no list of blocks with attention"):
        probe.load(model=ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])))


def test_a_model_that_speaks_names_the_part_that_reads(folder: Path) -> None:
    speaking = copy.copy(zoo.llava()[0])
    speaking.thinker = torch.nn.Identity()
    with pytest.raises(LoadError, match=r"Give the part that reads images: model=model\.thinker"):
        probe.load(model=speaking)


def test_a_device_that_is_not_there_names_those_that_are(folder: Path) -> None:
    with pytest.raises(DeviceNotFound, match=r"Device 'cuda:77' was asked for, this machine has cpu"):
        probe.load(str(folder), device="cuda:77")
    with pytest.raises(DeviceNotFound, match="No device 'gpu'"):
        probe.load(str(folder), device="gpu")


def test_arguments_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(LoadError, match="one of them"):
        probe.load()
    with pytest.raises(LoadError, match=r"a loaded model goes into model="):
        probe.load(torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(LoadError, match="No model folder"):
        probe.load(Path("nope"))
    with pytest.raises(LoadError, match="not a Hugging Face model"):
        probe.load(model=torch.nn.Linear(1, 1))
    with pytest.raises(LoadError, match='"stretch"'):
        probe.load(str(folder), resize="crop")  # type: ignore[arg-type]
    with pytest.raises(LoadError, match="No dtype 'int8'"):
        probe.load(str(folder), dtype="int8")


def test_a_backbone_of_a_taken_name_is_refused_with_both_origins() -> None:
    class Mine(Backbone):
        """Another declaration of LLaVA."""

    with pytest.raises(LoadError, match=r"Mine clashes with that of probe\.backbones\.llava\.Llava"):
        probe.register("llava")(Mine)


def test_families_that_nobody_declared_work_without_a_grid(wide_image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.runtime.backbone_for", lambda _: Backbone())
    hf, processor = zoo.llava()
    model = probe.load(model=hf, processor=processor)
    trace = model.run(model.encode(wide_image, "Is there a cat?"), probe.Hidden([1], at="image"))
    assert trace.hidden().data.shape == (1, 1, 16, 48)
    with pytest.raises(probe.errors.GridUnknown, match="llava does not say where its image tokens lie"):
        trace.hidden().grid()
    with pytest.raises(LoadError, match="resize='processor'"):
        probe.load(model=hf, processor=processor, resize="stretch")


def test_a_folder_is_found_from_home_and_as_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert probe.load(f"~/{folder.name}").family == "llava"
    assert probe.load(folder).family == "llava"


def test_tiles_and_a_direct_resize_exclude_each_other(wide_image: Image.Image) -> None:
    hf, processor = zoo.llava_next()
    with pytest.raises(LoadError, match="Load it with tiles=False as well"):
        probe.load(model=hf, processor=processor, resize="stretch")
    assert probe.load(model=hf, processor=processor, tiles=False).encoder.direct
    one_view = probe.load(model=zoo.llava()[0], processor=zoo.llava()[1], tiles=False)
    assert not one_view.encoder.direct  # LLaVA-1.5 has no tiles to leave out: its processor stays in charge


@pytest.mark.parametrize("options", [{"revision": "abc"}, {"attn_implementation": "eager"}, {"device_map": "auto"}, {"remote_code": True}])
def test_a_loaded_model_takes_no_option_of_a_checkpoint(options: dict[str, Any]) -> None:
    hf, processor = zoo.llava()
    with pytest.raises(LoadError, match=f"{next(iter(options))}= cannot change a loaded model="):
        probe.load(model=hf, processor=processor, **options)


def test_a_device_and_a_device_map_are_not_given_together() -> None:
    with pytest.raises(LoadError, match="both say where the model goes"):
        probe.load("llava", device="cpu", device_map="auto")
