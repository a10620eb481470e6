"""NaN planted in one number of a language model's weights: in every layer of the decoder, in the tower, in the projector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import fseg
import probe
from fseg.glyphs import llava_folder, scene
from tests.faults.campaign import Campaign, Outcome


def _trials(n: int, folder: Path, rng: np.random.Generator) -> Iterator[Outcome]:
    shown = scene(1)
    model = probe.load(str(llava_folder()), resize="stretch", tiles=False)
    segmenter = fseg.Segmenter(backbone=model)
    classes = [*shown.classes, "zzz"]
    clean = segmenter(shown.image, classes)
    assert clean.present
    weights = dict(model.model.named_parameters())
    names = [str(name) for name in rng.permutation(sorted(weights))]
    for number in range(n):
        name = names[number % len(names)]
        flat = weights[name].view(-1)
        place = int(rng.integers(len(flat)))
        kept = float(flat[place])
        flat[place] = torch.nan
        try:
            yield _outcome(segmenter, shown.image, classes, clean, f"NaN at {place} of {name}")
        finally:
            flat[place] = kept


def _outcome(segmenter: fseg.Segmenter, image: probe.ImageLike, classes: list[str], clean: fseg.Result, damage: str) -> Outcome:
    """A number that takes part in no computation, such as the embedding of a word that is not there, changes nothing."""
    (result,) = segmenter.map([image], classes)
    if isinstance(result, fseg.Failure):
        named = isinstance(result.error, probe.errors.NotFinite) and "begin" in str(result.error)
        return Outcome("raised with its layer") if named else Outcome("raised otherwise", f"{damage}: {result}")
    if np.array_equal(result.labels, clean.labels) and result.present == clean.present:
        return Outcome("not used, the same result")
    return Outcome("another result", f"{damage}: {result.present} instead of {clean.present}")


CAMPAIGNS = [Campaign("nan-weights", "NaN in one number of a LLaVA's weights", 200, 8, _trials)]
