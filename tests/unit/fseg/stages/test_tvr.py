from __future__ import annotations

import pytest
import torch

from fseg.errors import NoMap
from fseg.stages import tvr
from tests.unit.fseg.fakes import evidence


def test_the_synonym_with_the_largest_peak_gives_the_map():
    sofa = evidence(asked_as="sofa", raw_distance=torch.tensor([[0.3, 0.3], [0.3, 0.3]]))
    couch = evidence(asked_as="couch", raw_distance=torch.tensor([[0.0, 0.4], [0.0, 0.0]]))
    assert tvr.best_synonym([sofa, couch]).asked_as == "couch"


def test_synonyms_without_a_distance_are_compared_by_their_response():
    sofa, couch = (evidence(asked_as=name, response=torch.full((2, 2), peak)) for name, peak in (("sofa", 0.9), ("couch", 0.1)))
    assert tvr.best_synonym([couch, sofa]).asked_as == "sofa"


def test_synonyms_without_any_map_cannot_be_compared():
    with pytest.raises(NoMap, match="run the respond stage"):
        tvr.best_synonym([evidence(), evidence()])
