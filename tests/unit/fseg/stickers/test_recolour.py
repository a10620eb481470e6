"""The random colours of the training: they change how a drawing looks, never what it covers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fseg.stickers.sprites import sheet_file, sprites
from fseg.stickers.training.recolour import hue, recoloured, relit
from fseg.stickers.training.tower import batch

CAT = sprites("noto")["cat"][0]


def test_another_hue_keeps_grey() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        np.testing.assert_allclose(hue(rng, np.pi, rng.uniform(0, 2)) @ np.full(3, 0.4), np.full(3, 0.4), atol=1e-6)


def test_no_turn_and_full_saturation_change_nothing_and_none_leaves_grey() -> None:
    np.testing.assert_allclose(hue(np.random.default_rng(0), 0.0, 1.0), np.eye(3), atol=1e-9)
    bare = hue(np.random.default_rng(0), 0.0, 0.0) @ np.array([0.9, 0.1, 0.3])
    assert np.ptp(bare) < 1e-9


def test_a_recoloured_sprite_covers_nearly_the_same_pixels() -> None:
    solid = np.asarray(CAT)[..., 3] >= 128
    changed = 0
    for seed in range(60):
        sprite = recoloured(np.random.default_rng(seed), CAT)
        other = np.asarray(sprite)[..., 3] >= 128
        assert (other & solid).sum() / (other | solid).sum() > 0.9  # a blur moves the edge by a pixel or so
        changed += sprite is not CAT
    assert 30 < changed < 58  # a quarter stay as they are


def test_some_images_keep_their_light() -> None:
    images = torch.rand(64, 3, 8, 8)
    same = (relit(np.random.default_rng(0), images) == images).flatten(1).all(1)
    assert 6 <= int(same.sum()) <= 28


def test_the_views_of_a_step_are_always_the_same_and_crowded_ones_hold_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FSEG_STICKERS", str(tmp_path))
    (tmp_path / "emojione.png").write_bytes(sheet_file("noto-v1").read_bytes())  # in place of the one artist who is not shipped
    early, again, late = batch(0, 8, 100, 3), batch(0, 8, 100, 3), batch(0, 8, 100, 99)
    assert np.array_equal(early.images, again.images)
    assert early.described == again.described
    assert sum(map(len, early.described)) > sum(map(len, late.described)) + 8
    assert early.images.shape == (8, 168, 168, 3)
