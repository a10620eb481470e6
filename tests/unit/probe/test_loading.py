"""Opening checkpoints, and the errors of folders that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

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
    with pytest.raises(LoadError, match="cannot be loaded"):
        probe.load(str(tmp_path))


def test_a_text_only_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(LoadError, match="is a 'llama' model, which takes no images"):
        probe.load(str(tmp_path))


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
    monkeypatch.setattr("probe.model.backbone_for", lambda _: Backbone())
    hf, processor = zoo.llava()
    model = probe.load(model=hf, processor=processor)
    trace = model.run(model.encode(wide_image, "Is there a cat?"), probe.Hidden([1], at="image"))
    assert trace.hidden().data.shape == (1, 1, 16, 48)
    with pytest.raises(probe.errors.GridUnknown, match="llava does not say where its image tokens lie"):
        trace.hidden().grid()
    with pytest.raises(LoadError, match="resize='processor'"):
        probe.load(model=hf, processor=processor, resize="stretch").encode(wide_image, "Is there a cat?")


def test_a_folder_is_found_from_home_and_as_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert probe.load(f"~/{folder.name}").family == "llava"
    assert probe.load(folder).family == "llava"


def test_tiles_and_a_direct_resize_exclude_each_other(wide_image: Image.Image) -> None:
    hf, processor = zoo.llava_next()
    with pytest.raises(LoadError, match="Load it with tiles=False as well"):
        probe.load(model=hf, processor=processor, resize="stretch")
    assert probe.load(model=hf, processor=processor, tiles=False).direct
    one_view = probe.load(model=zoo.llava()[0], processor=zoo.llava()[1], tiles=False)
    assert not one_view.direct  # LLaVA-1.5 has no tiles to leave out: its processor stays in charge
