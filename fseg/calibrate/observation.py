"""What is kept of one image: enough for the masks and prompts of any band of layers, alpha and beta, without a further model pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import probe
from fseg.errors import InvalidRecipe, RunMismatch
from fseg.evidence import MAPS, Evidence
from fseg.recipe import Recipe
from fseg.stages.tvr import in_view
from probe.disk import strict_json
from probe.disk.files import write_atomically

FUSIONS = ("D*M_A", "D")
"""The fusions whose response follows from D~ of each layer: Eq. 3 is a mean over layers, Eq. 4 and 5 a threshold, Eq. 8 a product."""


def reads_to_observe(recipe: Recipe) -> tuple[probe.Read, ...]:
    """The reads of the recipe, its hidden states in every layer.

    >>> [(read.at, read.layers) for read in reads_to_observe(fseg.get_recipe("glyphs-fast")) if isinstance(read, probe.Hidden)]
    [(('image',), 'all'), (('class',), 'all')]
    """
    own = [replace(read, layers="all") if isinstance(read, probe.Hidden) else read for read in recipe.respond.reads()]
    return probe.merge([*own, *recipe.refine.reads()])


@dataclass(frozen=True, eq=False)
class Observation:
    """One image after its only model pass.

    Attributes:
        evidence: one entry for each name of each class, in order, with the answers and no maps.
        distances: D~ of Eq. 3 at each `hidden_states` index alone, for each name that got a yes, in order.
        attention: M_A of Eq. 7 of these names; all True for a fusion that reads no attention.
        features: those of the refine stage, on the grid; None without a yes.
    """

    evidence: tuple[Evidence, ...]
    distances: Float[Tensor, "name layer cell"]
    attention: Bool[Tensor, "name cell"]
    features: Float[Tensor, "cell feature"] | None

    @property
    def present(self) -> list[Evidence]:
        """The evidence of the names that got a yes."""
        return [e for e in self.evidence if e.present]

    def gram(self) -> Float[Tensor, "cell cell"]:
        """The scalar products of the features of all pairs of cells; empty without a yes."""
        return torch.zeros(0, 0) if self.features is None else self.features @ self.features.T


def check_fusion(recipe: Recipe) -> None:
    """Refuse a fusion whose response does not follow from D~ of each layer.

    Raises:
        InvalidRecipe: it is another one than `FUSIONS`.
    """
    if recipe.respond.fusion not in FUSIONS:
        raise InvalidRecipe(
            f'The recipe "{recipe.name}" has the fusion {recipe.respond.fusion!r}. Layers, alpha and beta can be calibrated for '
            f"{' and '.join(map(repr, FUSIONS))}: their response at any band follows from that of each layer. For another one compare "
            "recipes with fseg.sweep.Sweep."
        )


def observe(recipe: Recipe, evidence: Sequence[Evidence]) -> Observation:
    """What is kept of an image.

    Args:
        recipe: its respond and refine stages are used; layers, alpha and beta do not matter.
        evidence: as `fseg.pipeline.collect_evidence` gives it, with `reads_to_observe`.
    """
    evidence = [in_view(e, recipe.respond.view) for e in evidence]
    if not any(e.present for e in evidence):
        return Observation(tuple(evidence), torch.zeros(0, 0, 0), torch.zeros(0, 0, dtype=torch.bool), None)
    distances, attention, kept = [], [], []
    for e in evidence:
        if not e.present or e.trace is None:
            kept.append(e)
            continue
        layers = e.trace.hidden("image").coords["layer"]
        alone = [recipe.with_({"respond.fusion": "D", "respond.layers": (layer, layer)}).respond(e) for layer in layers]
        distances.append(torch.stack([one.raw_distance.flatten() for one in alone if one.raw_distance is not None]))
        responded = recipe.respond(e)
        mask = responded.attention_mask
        attention.append(torch.ones(distances[-1].shape[1], dtype=torch.bool) if mask is None else mask.flatten())
        kept.append(replace(e, flags=responded.flags))
    first = next(e for e in evidence if e.present)
    features = recipe.refine.cell_features(first).flatten(0, 1)
    return Observation(
        tuple(replace(e, trace=None, scope=None, context=None) for e in kept), torch.stack(distances), torch.stack(attention), features
    )


def save_observation(path: Path, observation: Observation) -> None:
    """Write an observation as safetensors.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {"distances": observation.distances, "attention": observation.attention}
    if observation.features is not None:
        tensors["features"] = observation.features
    entries = strict_json.dump([_converter().unstructure(e) for e in observation.evidence]).decode()
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"evidence": entries})
    write_atomically(path, lambda file: file.write(content))


def load_observation(path: Path) -> Observation:
    """The observation of a file.

    Raises:
        RunMismatch: it is not there, damaged, or no observation.
    """
    try:
        with safe_open(path, "pt") as file:
            entries = strict_json.load(file.metadata()["evidence"].encode())
            assert isinstance(entries, list)
            evidence = tuple(_converter().structure(entry, Evidence) for entry in entries)
            features = file.get_tensor("features") if "features" in file.keys() else None  # noqa: SIM118  # not a mapping
            return Observation(evidence, file.get_tensor("distances"), file.get_tensor("attention"), features)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AssertionError) as error:
        raise RunMismatch(
            f"{str(path)!r} cannot be read as what was kept of an image: {error}. Put the file back; or remove the folder "
            f"{str(path.parent.parent)!r}, and its images are done again."
        ) from error


@cache
def _converter() -> Converter:
    """Evidence to plain values and back, without its maps and activations."""
    left_out = {name: override(omit=True) for name in (*MAPS, "scope", "context")}
    left_out["trace"] = override(unstruct_hook=lambda _: None, struct_hook=lambda *_: None)  # without a default, so it has to be there
    converter = Converter(detailed_validation=False)
    # mypy takes the overrides for the functions' own options.
    converter.register_unstructure_hook(Evidence, make_dict_unstructure_fn(Evidence, converter, **left_out))  # type: ignore[arg-type]
    converter.register_structure_hook(Evidence, make_dict_structure_fn(Evidence, converter, **left_out))  # type: ignore[arg-type]
    return converter
