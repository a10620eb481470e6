"""`fseg heads` in this process: the ranking by hand, one pass an image, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import fseg
import probe
from fseg.calibrate.heads import elbow, rank_heads, selected
from fseg.calibrate.report import check_free_for_heads, write_heads
from fseg.cli.app import app
from fseg.errors import InvalidDataSet, OutputError
from fseg.evaluation.run.job import Job
from tests.unit.fseg.evaluation import trees
from tests.unit.fseg.evaluation.runs import RECIPE, job_of, planted, saved, scenes


@pytest.fixture(scope="module")
def models() -> tuple[probe.Probe, Any]:
    return planted()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("set"))


@pytest.fixture
def job(root: Path, models: tuple[probe.Probe, Any]) -> Job:
    return job_of(root, *models)


@pytest.fixture
def passes(models: tuple[probe.Probe, Any]) -> Iterator[list[int]]:
    """An entry for each pass of the model over an image."""
    seen: list[int] = []
    hook = models[0].model.model.vision_tower.register_forward_pre_hook(lambda *_: seen.append(1))
    yield seen
    hook.remove()


def test_the_elbow_is_the_value_farthest_from_the_line_of_the_ends() -> None:
    # Sorted: 0, 1, 2, 3, 14; the line from 0 to 14 is at 3.5, 7, 10.5, and the distances are 2.5, 5, 7.5.
    assert elbow(np.array([14.0, 1.0, 3.0, 0.0, 2.0])) == 3.0
    assert elbow(np.array([2.0, 2.0])) == 2.0


def test_heads_of_low_entropy_are_ranked_by_how_many_maps_select_them() -> None:
    mass = np.full((2, 2, 4), 0.5)
    mass[:, 0, 0] = 0.1  # hardly looks at the image
    entropy = np.full((2, 2, 4), 2.0)
    entropy[:, 0, 0] = 0.0
    entropy[0, 1, 2], entropy[1, 0, 3] = 0.5, 0.1  # the best of one map each: seven heads are admitted, and each map selects one
    entropy[0, 0, 3], entropy[1, 1, 2] = 1.0, 1.0
    first, second, *others = selected(mass, entropy, 0.4)
    assert (first, second) == (((0, 3), 0.5), ((1, 2), 0.5))  # mean entropies 0.55 and 0.75
    assert others == [((0, 1), 0.0), ((0, 2), 0.0), ((1, 0), 0.0), ((1, 1), 0.0), ((1, 3), 0.0)]
    entropy[1, 1, 2] = 0.0
    assert selected(mass, entropy, 0.4)[0] == ((1, 2), 1.0)
    entropy[:] = np.inf
    assert {share for _, share in selected(mass, entropy, 0.4)} == {0.0}


def test_each_image_is_read_once_and_the_recipe_names_the_heads(job: Job, tmp_path: Path, passes: list[int]) -> None:
    ranking = rank_heads(job, tmp_path / "heads", 2)
    assert len(passes) == 6
    assert (ranking.images, ranking.maps, ranking.failures) == (6, 6, {})  # each scene shows one class
    assert ranking.recipe.respond.fusion == "heads"
    assert ranking.recipe.respond.options["heads"] == tuple((one.block, one.head) for one in ranking.heads[:2])
    assert sum(one.selected for one in ranking.heads) >= 1
    kept = load_file(tmp_path / "heads" / "heads" / "scene-0.safetensors")
    assert kept["mass"].shape == kept["entropy"].shape == (1, 4, 4)
    again = rank_heads(job, tmp_path / "heads", 2)
    assert len(passes) == 6
    assert (again.recipe, again.heads, again.threshold) == (ranking.recipe, ranking.heads, ranking.threshold)
    together = rank_heads(job, tmp_path / "together", 2, batch=3)
    assert len(passes) <= 6 + 4  # two passes of three images, the first one compared with two of them
    assert (together.recipe, together.heads) == (ranking.recipe, ranking.heads)


def test_the_kept_mass_is_the_attention_of_hugging_face_to_the_image(job: Job, models: tuple[probe.Probe, Any], tmp_path: Path) -> None:
    rank_heads(job, tmp_path / "heads")
    model = models[0]
    question = "Does the image have the class of a pottedplant? Answer yes or no to this question. "
    with model.open(job.root / "images/scene-0.png", template="vicuna_v1") as session:
        (answer,) = RECIPE.ask(session, ["pottedplant"])[0:1]
    assert question in answer.answer.tokens.text("question") + " "
    model.model.set_attn_implementation("eager")
    try:
        attentions = model.model(**answer.answer.inputs, output_attentions=True).attentions
    finally:
        model.model.set_attn_implementation("sdpa")
    image, last = list(answer.answer.tokens.span("image").positions), min(answer.answer.tokens.span("answer").positions) - 1
    there = np.stack([layer[0, :, last, image].sum(-1).detach().numpy() for layer in attentions])
    kept = load_file(tmp_path / "heads" / "heads" / "scene-0.safetensors")["mass"][0].numpy()
    assert np.abs(kept - there).max() < 1e-5  # another order of float32 sums


def test_a_recipe_that_takes_heads_keeps_its_fusion(job: Job, tmp_path: Path) -> None:
    product = RECIPE.with_({"respond.fusion": "D*heads", "respond.query": "class"})
    ranking = rank_heads(replace(job, rows={"mine": product}), tmp_path / "heads", 1)
    assert ranking.recipe == product.with_({"respond.heads": ranking.recipe.respond.options["heads"]})
    out = tmp_path / "heads.toml"
    assert "6 maps of each head" in write_heads(out, ranking)[0]
    assert fseg.get_recipe(out) == ranking.recipe
    check_free_for_heads(out)


def test_files_of_others_and_other_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("")
    with pytest.raises(OutputError, match=r"mine\.toml' exists, and there is no run in .*mine' that wrote it"):
        check_free_for_heads(tmp_path / "mine.toml")
    with pytest.raises(OutputError, match=r"it is the recipe to write, a file such as heads\.toml"):
        check_free_for_heads(tmp_path / "mine")


def test_a_set_that_shows_no_class_has_no_heads(models: tuple[probe.Probe, Any], tmp_path: Path) -> None:
    set_ = trees.folder(tmp_path / "set", "background\npottedplant\n", {"a": [[0, 0], [0, 0]]})
    with pytest.raises(InvalidDataSet, match=r"None of 1 images of folder shows a class"):
        rank_heads(job_of(set_ or tmp_path / "set", *models), tmp_path / "heads")


def test_the_command_writes_a_recipe(root: Path, tmp_path: Path) -> None:
    backbone, _ = saved(tmp_path)
    (tmp_path / "base.toml").write_text(RECIPE.to_toml())
    command = ["heads", "--dataset", "folder", "--root", str(root), "--recipe", str(tmp_path / "base.toml"), "--limit", "2"]
    ended = CliRunner().invoke(app, [*command, "--backbone", str(backbone), "--out", str(tmp_path / "found.toml")], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    assert "on 2 images of folder: 2 maps of each head" in ended.output
    recipe = fseg.get_recipe(tmp_path / "found.toml")
    assert (recipe.name, recipe.backbone.checkpoint, len(recipe.respond.options["heads"])) == ("found", str(backbone), 3)
    assert recipe.refine.beta == 1.0
