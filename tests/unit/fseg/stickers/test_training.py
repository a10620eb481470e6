"""The training of the sticker world's models: what is asked, what is resumed, and that the whole is what was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from fseg.errors import InvalidOption
from fseg.stickers import CLASSES, scene
from fseg.stickers.sprites import sheet_file
from fseg.stickers.train import Stage, main, train
from fseg.stickers.training import joint, llava, loop, qwen, sam, text, tower, transfer
from fseg.stickers.training.views import Views, coverage, stretched
from fseg.vocabulary.questions import question
from fseg.worlds.training import fast

BOTH = pytest.mark.parametrize("language", [text.LLAVA, text.QWEN], ids=lambda language: language.name)
SMALL_CAT = "It is small, at the top left, left of an apple."


@pytest.fixture
def all_artists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for the one training artist who is not shipped."""
    monkeypatch.setenv("FSEG_STICKERS", str(tmp_path))
    (tmp_path / "emojione.png").write_bytes(sheet_file("noto-v1").read_bytes())


@BOTH
def test_the_class_token_is_the_last_piece_of_a_split_name(language: text.Language) -> None:
    encode = text.tokenizer(language)
    said = text.turn(language, question("umbrella"), "umbrella", text.answer("umbrella", SMALL_CAT))
    assert len(encode.tokenize(" umbrella")) > 1
    assert [encode.convert_ids_to_tokens(said.ids[word]) for word in said.words] == [encode.tokenize(" umbrella")[-1]] * 2
    assert encode.decode(said.ids[said.second :]).startswith(" It is small")


@BOTH
def test_a_no_has_one_word_and_no_second_sentence(language: text.Language) -> None:
    said = text.turn(language, question("cow"), "cow", text.answer("cow", None))
    assert len(said.words) == 1
    assert text.tokenizer(language).decode(said.ids[said.start :]) == language.form.no + language.form.end
    assert said.second == len(said.ids) - 1


@BOTH
def test_the_question_about_every_class_fits_with_its_longest_answer(language: text.Language) -> None:
    longest = "It is medium, at the bottom right, right of a potted plant."
    lengths = [len(text.turn(language, question(name), name, text.answer(name, longest)).ids) for name in CLASSES]
    assert max(lengths) <= language.length


@BOTH
def test_the_chat_template_writes_the_prompt_of_training(language: text.Language) -> None:
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "find the cat"}]}]
    written = text.tokenizer(language).apply_chat_template(
        chat, chat_template=language.template, add_generation_prompt=True, tokenize=False
    )
    form = language.form
    assert written == language.start + language.image + form.before + "find the cat" + form.after


def test_chosen_questions_have_true_answers() -> None:
    described = {CLASSES.index("cat"): SMALL_CAT, CLASSES.index("umbrella"): "It is large, on the left."}
    chosen = [
        each for seed in range(40) for each in text.choose(np.random.default_rng(seed), described, np.ones(len(CLASSES)), (0.2, 0.5, 0.3))
    ]
    assert len(chosen) == 40 * text.TURNS
    for asked, name, said, label in chosen:
        assert name in asked
        assert (said == "No.") == (label == 0)
        if label:
            assert CLASSES[label - 1] == name
            assert said.endswith(described[label - 1])
    assert any("contains an umbrella" in said for _, _, said, _ in chosen)  # where the question has the right article
    assert any(name not in CLASSES for _, name, _, _ in chosen)  # things that this world does not have


def test_a_synonym_is_asked_and_answered_by_its_own_name() -> None:
    described = {CLASSES.index("television"): SMALL_CAT}
    chosen = [each for seed in range(60) for each in text.choose(np.random.default_rng(seed), described, np.ones(len(CLASSES)), (0.0, 1.0))]
    said = {answer.split(". ")[0] for _, _, answer, label in chosen if label}
    assert any("tvmonitor" in each for each in said)
    assert any("television" in each for each in said)


def test_cells_know_what_share_of_them_is_covered() -> None:
    labels = np.zeros((1, 24, 24), dtype=np.uint8)
    labels[0, :12, :6], labels[0, 12:, 12:] = 3, 1
    share = coverage(labels, 12)
    assert share.shape == (1, 4, len(CLASSES) + 1)
    assert share[0, 0, [0, 3]].tolist() == [0.5, 0.5]
    assert share[0, 3, 1] == 1


def test_the_processor_makes_grids_within_those_of_the_training(tmp_path: Path) -> None:
    qwen.save(qwen.DynamicSpeaker(), tmp_path)
    images = AutoProcessor.from_pretrained(tmp_path).image_processor
    for height, width in ((300, 300), (300, 340), (300, 400), (400, 300), (300, 480), (112, 150), (480, 300)):
        _, rows, cols = images(Image.new("RGB", (width, height)), return_tensors="pt")["image_grid_thw"][0].tolist()
        assert min(rows, cols) // 2 >= 7  # the shortest and the longest sides of the grids in training
        assert max(rows, cols) // 2 <= 14
        assert rows * cols // 4 <= qwen.PLACES
    assert all(rows * cols <= qwen.PLACES for rows, cols in qwen.GRIDS)
    assert len({rows * cols for rows, cols in qwen.SPOKEN}) == 2  # shapes for which the decoder is compiled


def _views(height: int, width: int) -> Views:
    image, labels = stretched(scene(3, size=(height, width)), height, width)
    return Views(np.array(image)[None], labels[None], ({},))


def _prepared(kind: str) -> tuple[llava.SquareSpeaker | qwen.DynamicSpeaker, Callable[..., None], tuple[int, int]]:
    torch.manual_seed(0)
    if kind == "llava":
        return llava.SquareSpeaker(), llava.save, (14, 14)
    return qwen.DynamicSpeaker(), qwen.save, (8, 12)


@pytest.mark.parametrize("kind", ["llava", "qwen"])
def test_the_saved_model_says_what_the_trained_one_says(kind: str, tmp_path: Path) -> None:
    """Logits behind an image, max abs difference, float32, atol 2e-3: twelve blocks of sums in another order; the weights fit bfloat16."""
    speaker, save, (rows, cols) = _prepared(kind)
    with torch.no_grad():
        for weight in speaker.parameters():
            weight.copy_(weight.to(torch.bfloat16))
    save(speaker, tmp_path)
    whole, processor = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32), AutoProcessor.from_pretrained(tmp_path)
    language, turn = speaker.language, text.turn(speaker.language, question("cat"), "cat", text.answer("cat", SMALL_CAT))
    size = rows * speaker.cell, cols * speaker.cell
    shown = _views(*size)
    image = scene(3, size=size).image
    written = language.start + language.image + text.tokenizer(language).decode(turn.ids)
    inputs = processor(images=image, text=written, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        expected = whole(**inputs).logits[0, -len(turn.ids) :]
        features, _ = speaker.see(tower.normalised(torch.tensor(shown.images).permute(0, 3, 1, 2).float() / 255))
        prefix = joint.embedded(speaker, features)
        rope = speaker.rope(rows, cols, prefix.shape[1] - rows * cols, len(turn.ids))
        last, _, _ = fast.decoder(speaker.decoder, prefix, speaker.decoder.embed_tokens(torch.tensor([[turn.ids]])), rope=rope)
        found = speaker.head(last)[0, 0]
    assert inputs["input_ids"].shape[1] == prefix.shape[1] + len(turn.ids)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


def test_the_second_backbone_begins_with_the_first_one_s_decoder() -> None:
    first, second = llava.SquareSpeaker(), qwen.DynamicSpeaker()
    transfer.take_decoder(second.decoder, second.head, first)
    mine, theirs = text.tokenizer(text.QWEN), text.tokenizer(text.LLAVA)
    cats = mine.convert_tokens_to_ids("Ġcat"), theirs.convert_tokens_to_ids("Ġcat")
    assert torch.equal(second.decoder.embed_tokens.weight[cats[0]], first.decoder.embed_tokens.weight[cats[1]])
    block, other = second.decoder.layers[3].self_attn, first.decoder.layers[3].self_attn
    assert torch.equal(block.q_proj.weight, other.q_proj.weight)
    assert not block.q_proj.bias.any()


def test_the_second_tower_begins_with_the_first_one_s_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block without positions, where the neurons that are left behind say nothing; max abs difference, float32, atol 1e-4: other sums."""
    monkeypatch.setattr(transfer, "GAIN", 0.0)
    torch.manual_seed(0)
    first, second = llava.SquareSpeaker(), qwen.MergedNaming()
    given = first.naming.tower.encoder.layers[2]
    with torch.no_grad():
        given.mlp.fc2.weight[:, ::3] = 0  # 192 of 576
        transfer.take_tower(second.tower, first, _views(240, 240).images)
        states, still = torch.randn(50, 192), (torch.ones(50, 64), torch.zeros(50, 64))
        found = second.tower.blocks[2](states, cu_seqlens=torch.tensor([0, 50], dtype=torch.int32), position_embeddings=still)
        torch.testing.assert_close(found, given(states[None], attention_mask=None)[0], atol=1e-4, rtol=1e-4)


def test_the_second_merger_begins_with_the_mean_of_the_first_one_s_projections() -> None:
    """States of the scale that the merger was told, neurons of its own switched off; max abs difference, float32, atol 1e-5: other sums."""
    torch.manual_seed(0)
    first, second = llava.SquareSpeaker(), qwen.MergedNaming()
    merger = second.tower.merger
    with torch.no_grad():
        states = torch.nn.functional.layer_norm(torch.randn(12, 192), [192]) * 3
        transfer.take_projector(second.tower, first, torch.tensor(3.0))
        merger.mlp[2].weight[:, 4 * 128 :] = 0
        torch.testing.assert_close(merger(states), first.project(states[None]).view(3, 4, 128).mean(1), atol=1e-5, rtol=1e-4)


def test_a_speaker_reads_what_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = llava.SquareSpeaker(), llava.SquareSpeaker()
    llava.save(first, tmp_path / "llava")
    second.read(tmp_path / "llava")
    for (name, mine), theirs in zip(second.state_dict().items(), first.state_dict().values(), strict=True):
        if not name.startswith(("naming.norm", "naming.head")):
            assert torch.equal(mine, theirs.to(torch.bfloat16).float()), name
    with pytest.raises(InvalidOption, match="nothing is missing: train the stage 'llava' first"):
        second.read(tmp_path / "nothing")


def test_a_tower_is_measured_on_grids_of_several_shapes(all_artists: None) -> None:
    tests = qwen.held_out(6, 2)
    assert len({each.labels.shape for each in tests}) == 3
    assert all(0 <= figure <= 1 for figure in tower.labelled(tests, qwen.MergedNaming(), qwen.CELL).values())


def test_a_checkpoint_of_another_world_is_refused(tmp_path: Path) -> None:
    torch.save({"world": "glyphs", "step": 3}, tmp_path / "tower.pt")
    with pytest.raises(InvalidOption, match=r"world 'glyphs', not of 'stickers'"):
        loop.read_state(tmp_path / "tower.pt")
    torch.save({"step": 3}, tmp_path / "tower.pt")  # as the glyph world's were before they had a name
    with pytest.raises(InvalidOption, match=r"'glyphs', not of 'stickers'"):
        loop.begin(loop.Plan(tmp_path, "tower", 1), nn.Linear(1, 1), [])


def test_a_stage_without_the_one_before_names_it(tmp_path: Path, all_artists: None) -> None:
    with pytest.raises(InvalidOption, match=r"tower.pt is missing: train the stage 'tower' first"):
        train(Stage.llava, tmp_path, steps=1, every=1, compiled=False)


def test_training_without_the_sets_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FSEG_STICKERS", str(tmp_path / "nothing"))
    app = typer.Typer()
    app.command()(main)
    printed = CliRunner().invoke(app, ["tower", "--out", str(tmp_path)], env={"COLUMNS": "400"})
    assert printed.exit_code == 2
    assert "python -m fseg.stickers.fetch" in printed.output


class Killed(Exception):
    """Stands for the end of the process in the middle of a step."""


def _stage(kind: str, plan: loop.Plan, folder: Path) -> nn.Module:
    if kind == "tower":
        return tower.train(plan, compiled=False)
    if kind == "llava":
        return llava.train(plan, folder / "tower.pt", compiled=False)
    if kind == "dynamic":
        return qwen.train_tower(plan, folder / "llava", compiled=False)
    if kind == "qwen":
        return qwen.train(plan, folder / "dynamic.pt", folder / "llava", compiled=False)
    return sam.train(plan)


def _before(folder: Path) -> None:
    """States of untrained stages, and the folder of an untrained backbone, for those that follow them."""
    torch.manual_seed(1)
    for name, model in (("tower", tower.Naming()), ("dynamic", qwen.MergedNaming())):
        torch.save({"world": "stickers", "average": model.state_dict()}, folder / f"{name}.pt")
    llava.save(llava.SquareSpeaker(), folder / "llava")


@pytest.mark.parametrize("kind", ["tower", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("llava", "dynamic", "qwen", "sam"))])
def test_a_killed_training_resumes_to_the_same_bits(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, all_artists: None) -> None:
    for module in (tower, llava, qwen):
        monkeypatch.setattr(module, "held_out", lambda *_: [])
    for module, name in ((tower, "labelled"), (qwen, "labelled"), (joint, "measured"), (sam, "_measured")):
        monkeypatch.setattr(module, name, lambda *_, **__: {})
    follow, steps = loop._follow, 2

    def train_in(folder: Path) -> nn.Module:
        return _stage(kind, loop.Plan(folder, f"{kind}-tried", steps, size=2, every=1, warm=2, apart=kind == "llava"), tmp_path)

    _before(tmp_path)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    whole.mkdir()
    torn.mkdir()
    expected = train_in(whole)

    def dying(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
        if step == 1:  # behind the state of step 1, which is lost with what the second step did
            raise Killed
        follow(average, model, decay, step)

    monkeypatch.setattr(loop, "_follow", dying)
    with pytest.raises(Killed):
        train_in(torn)
    monkeypatch.setattr(loop, "_follow", follow)
    found = train_in(torn)
    for (name, mine), theirs in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    weights = [torch.load(folder / f"{kind}-tried.pt")["model"] for folder in (whole, torn)]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*(each.values() for each in weights), strict=True))
    assert len((torn / f"{kind}-tried.jsonl").read_text().splitlines()) == 2
