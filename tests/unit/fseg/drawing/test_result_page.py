"""What a result's page contains; tests/system/test_result_page.py opens it in a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fseg
import fseg.glyphs
from fseg.drawing.page import content
from fseg.drawing.page.content import gathered, quantised_cosines
from fseg.result import Result
from probe.errors import OutputError


@pytest.fixture(scope="module")
def result() -> Result:
    return fseg.Segmenter()(fseg.glyphs.scene(1).image, ["star", "cat"])


def test_cosines_are_within_half_a_step_of_their_range() -> None:
    features = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    norms, values, low, high = quantised_cosines(features)
    cells = features.flatten(0, 1)
    pairs = [(i, j) for i in range(12) for j in range(i, 12)]
    expected = [float(torch.nn.functional.cosine_similarity(cells[i].double(), cells[j].double(), dim=0)) for i, j in pairs]
    assert np.abs(low + values / 65535 * (high - low) - expected).max() <= (high - low) / 65535 / 2 + 1e-9
    np.testing.assert_allclose(norms, cells.norm(dim=-1).numpy(), rtol=1e-6)


def test_the_page_has_the_maps_as_they_are(result: Result) -> None:
    header, arrays = gathered(result)
    e = result.evidence["cat"]
    assert not [name for name in arrays if name.endswith(" 0") and name.startswith("raw_distance")]  # the star is absent
    np.testing.assert_array_equal(arrays["raw_distance 1"], e.raw_distance.numpy())
    np.testing.assert_array_equal(arrays["refined 1"], e.refined.numpy())
    assert np.unpackbits(arrays["sam 1"])[: result.labels.size].sum() == result.masks["cat"].sum()
    np.testing.assert_array_equal(arrays["labels"], result.labels)
    assert header["respond"] == {"fusion": "D*M_A", "alpha": 0.75, "beta": 0.2}


def test_features_of_a_large_grid_are_left_out_and_a_note_says_so(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MOST_CELLS", 14 * 14 - 1)
    header, arrays = gathered(result)
    assert not [name for name in arrays if name.startswith("cosines")]
    first, second = header["notes"]
    assert "recompute D, D_f, M^_f, m_c here" in first
    assert "M_v and M_r are drawn as they were computed" in second


def test_the_classes_of_an_image_share_their_features() -> None:
    scene = fseg.glyphs.scene(4, split="held-out")
    result = fseg.Segmenter()(scene.image, scene.classes)
    assert len({id(e.features) for e in result.evidence.values()}) == 1
    assert len(gathered(result)[0]["similar"]) == 1


def test_a_page_of_another_fusion_names_it(result: Result) -> None:
    recipe = result.recipe.with_({"respond.fusion": "relative"})
    header, _ = gathered(replace(result, recipe=recipe))
    assert header["respond"] is None
    assert any("The fusion 'relative' needs the model" in note for note in header["notes"])


def test_a_page_that_exists_stays(result: Result, tmp_path: Path) -> None:
    path = result.page(tmp_path / "page.html")
    with pytest.raises(OutputError, match="overwrite=True"):
        result.page(path)
    assert result.page(path, overwrite=True) == path


def test_a_frame_holds_the_page_as_one_attribute(result: Result) -> None:
    frame = result.show(height=300)
    shown = frame._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert shown.count('"') == 4
    assert "height: 300px" in shown
    assert len(repr(frame)) < 60
