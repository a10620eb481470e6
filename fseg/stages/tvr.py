"""Text-Visual Response (paper, section 3.3): from hidden states and attention rows to one response map a class, Eq. 3 to 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

import probe
from fseg.checks import flag, number, one_of, whole
from fseg.errors import InvalidOption, NoMap
from fseg.evidence import Evidence
from fseg.fusions.registry import Fusion, Option, Options, band, fusion, get_fusion

CLASS_TOKENS = ("last", "first", "mean-feature", "mean-map")
ENTROPIES = {"probability": 0.0, "reference": 0.001}
"""What a cell has to exceed to belong to a component: nothing, or the absolute threshold of the work that the paper follows [15]."""

_EIGHT_NEIGHBOURS = np.zeros((3, 3, 3), dtype=bool)  # in (map, row, col): cells touch within a map, never across maps
_EIGHT_NEIGHBOURS[1] = True
_CELLS_AT_ONCE = 1 << 23  # keeps the labels of every head of a 32-layer model within some hundred megabytes


def distance_map(image: Float[Tensor, "layer cell feature"], word: Float[Tensor, "layer feature"]) -> Float[Tensor, " cell"]:
    """Mean cosine similarity of each image cell to the class token over a band of layers: D~ of Eq. 3, in -1..1."""
    return torch.cosine_similarity(image.float(), word.float()[:, None], dim=-1).mean(0)


def class_distance(
    image: Float[Tensor, "layer cell feature"], word: Float[Tensor, "layer token feature"], class_token: str = "last"
) -> Float[Tensor, " cell"]:
    """D~ of Eq. 3 for a class name of several sub-tokens.

    Args:
        class_token: "last" (the only one that has read the whole name), "first", "mean-feature" (one distance to the mean state), or
            "mean-map" (the mean of the distances to each).
    """
    match class_token:
        case "last":
            return distance_map(image, word[:, -1])
        case "first":
            return distance_map(image, word[:, 0])
        case "mean-feature":
            return distance_map(image, word.float().mean(1))
        case "mean-map":
            return torch.stack([distance_map(image, token) for token in word.unbind(1)]).mean(0)
    raise InvalidOption(f"class_token={class_token!r}: takes {', '.join(CLASS_TOKENS)}.")


def dynamic_threshold(distance: Float[Tensor, "*cell"], alpha: float, beta: float) -> Float[Tensor, ""]:
    """tau of Eq. 4: a share of the peak, but never above `beta`."""
    return (alpha * distance.max()).clamp(max=beta)


def suppress(distance: Float[Tensor, "*cell"], threshold: Float[Tensor, ""]) -> Float[Tensor, "*cell"]:
    """D of Eq. 5: the distance where it exceeds the threshold, 0 elsewhere."""
    return torch.where(distance > threshold, distance, torch.zeros_like(distance))


def spatial_entropy(maps: Float[Tensor, "map row col"], mode: str = "probability") -> Float[Tensor, " map"]:
    """How scattered the mass of each map is, in nats: 0 for one blob, more for many, +inf where no cell stands out.

    B = relu(a - mean a); p is the share of B's mass in each 8-connected component of B > threshold; the entropy is -sum p ln p.

    Args:
        mode: "probability" counts every cell above the mean; "reference" follows the work that the paper cites: a cell belongs to a
            component where B > 0.001, and the mass outside the components still counts in the total, so that the shares may sum to less
            than 1.

    Returns:
        float64 on the CPU.
    """
    values = maps.detach().double().cpu().numpy()
    at_once = max(1, _CELLS_AT_ONCE // max(1, values[0].size)) if len(values) else 1
    parts = [_entropies(values[start : start + at_once], ENTROPIES[mode]) for start in range(0, len(values), at_once)]
    return torch.from_numpy(np.concatenate(parts or [np.zeros(0)]))


def _entropies(maps: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    above = np.maximum(maps - maps.mean(axis=(1, 2), keepdims=True), 0)
    labels, components = ndimage.label(above > threshold, structure=_EIGHT_NEIGHBOURS)
    mass = np.bincount(labels.ravel(), weights=above.ravel(), minlength=components + 1)[1:]
    owner = np.zeros(components + 1, dtype=np.intp)
    owner[labels.reshape(len(maps), -1)] = np.arange(len(maps))[:, None]
    owner = owner[1:]
    # Summed component by component, so that the share of a lone component is exactly 1 and ties stay ties.
    outside = np.where(labels == 0, above, 0).sum(axis=(1, 2))
    total = np.bincount(owner, weights=mass, minlength=len(maps)) + outside
    share = mass / total[owner]
    entropy = np.bincount(owner, weights=-share * np.log(share), minlength=len(maps))
    return np.where(np.bincount(owner, minlength=len(maps)) > 0, entropy, np.inf)


def select_rows(
    rows: Float[Tensor, "map row col"],
    top_k: int = 10,
    *,
    drop_light_rows: bool = True,
    drop_sinks: bool = False,
    entropy: str = "probability",
) -> Int[Tensor, " kept"]:
    """The indices of the `top_k` attention rows of lowest spatial entropy, best first.

    Ties go to the larger mass, then to the row that comes first (lower layer, lower head, lower token). Rows of infinite entropy are never
    kept, so there may be fewer.

    Args:
        rows: attention from one text token to the image cells each, ordered by layer, then head, then token.
        drop_light_rows: leave out, first, the rows whose mass on the image is below the median.
        drop_sinks: leave out, next, the rows with over half of their mass in one cell.
        entropy: mode of `spatial_entropy`.
    """
    mass = rows.sum(dim=(1, 2), dtype=torch.float64).cpu().numpy()
    kept = np.ones(len(rows), dtype=bool)
    if drop_light_rows and len(rows):
        kept &= mass >= np.median(mass)
    if drop_sinks and len(rows):
        kept &= rows.amax(dim=(1, 2)).double().cpu().numpy() <= mass / 2
    candidates = np.flatnonzero(kept)
    scattered = spatial_entropy(rows[torch.from_numpy(candidates).to(rows.device)], entropy).numpy()
    candidates, scattered = candidates[np.isfinite(scattered)], scattered[np.isfinite(scattered)]
    order = np.lexsort((candidates, -mass[candidates], scattered))
    return torch.from_numpy(candidates[order[:top_k]])


def attention_map(rows: Float[Tensor, "kept row col"]) -> Float[Tensor, "row col"]:
    """A_v of Eq. 6: the mean of the rows kept."""
    return rows.float().mean(0)


def attention_mask(attention: Float[Tensor, "row col"]) -> Bool[Tensor, "row col"]:
    """M_A of Eq. 7: where the attention exceeds its own mean."""
    return attention > attention.mean()


def reliable_response(distance: Float[Tensor, "row col"], mask: Bool[Tensor, "row col"]) -> Float[Tensor, "row col"]:
    """D_f of Eq. 8: the distance inside the attention mask, 0 elsewhere."""
    return distance * mask


def _distances(e: Evidence, alpha: float, beta: float, class_token: str) -> dict[str, Tensor]:
    raw = e.fold(class_distance(e.hidden("image"), e.hidden("class"), class_token)).cpu()
    return {"raw_distance": raw, "distance": suppress(raw, dynamic_threshold(raw, alpha, beta))}


def _attentions(e: Evidence, top_k: int, drop_light_rows: bool, drop_sinks: bool, entropy: str) -> dict[str, Any]:
    per_head = entropy == "reference"
    read = e.attention_heads("description", "image") if per_head else e.attention_rows("description", "image")
    rows = read.reshape(-1, *e.grid).cpu()
    chosen = select_rows(rows, top_k, drop_light_rows=drop_light_rows, drop_sinks=drop_sinks, entropy=entropy)
    if len(chosen):
        attention = attention_map(rows[chosen])
        return {"attention": attention, "attention_mask": attention_mask(attention)}
    return {"attention_mask": torch.ones(e.grid, dtype=torch.bool), "flags": ("no-attention" if len(rows) else "no-description",)}


def _distance_reads(layers: Sequence[int], alpha: float, beta: float, class_token: str) -> list[probe.Read]:
    number("alpha", alpha, at_least=0, at_most=1)
    number("beta", beta, at_least=0)
    one_of("class_token", class_token, CLASS_TOKENS)
    return [probe.Hidden(layers=band(layers), at=("image", "class"))]


def _attention_reads(top_k: int, drop_light_rows: bool, drop_sinks: bool, entropy: str, **distance: Any) -> list[probe.Read]:
    whole("top_k", top_k, at_least=1)
    flag("drop_light_rows", drop_light_rows)
    flag("drop_sinks", drop_sinks)
    one_of("entropy", entropy, tuple(ENTROPIES))
    rows = probe.Attention(layers="all", query="description", key="image", heads="all" if entropy == "reference" else "mean")
    return [*_distance_reads(**distance), rows]


@fusion("D", reads=_distance_reads)
def distance_alone(
    e: Evidence, *, layers: Sequence[int] = (7, 13), alpha: float = 0.75, beta: float = 0.19, class_token: str = "last"
) -> dict[str, Any]:
    """Table 5's first row: D_f = D. No attention is read."""
    maps = _distances(e, alpha, beta, class_token)
    return {**maps, "response": maps["distance"]}


@fusion("M_A", reads=_attention_reads)
def attention_alone(
    e: Evidence,
    *,
    layers: Sequence[int] = (7, 13),
    alpha: float = 0.75,
    beta: float = 0.19,
    class_token: str = "last",
    top_k: int = 10,
    drop_light_rows: bool = True,
    drop_sinks: bool = False,
    entropy: str = "probability",
) -> dict[str, Any]:
    """Table 5's second row: D_f = M_A. D~ is still read: it ranks synonyms and scores the final masks."""
    distances = _distances(e, alpha, beta, class_token)
    attentions = _attentions(e, top_k, drop_light_rows, drop_sinks, entropy)
    return {**distances, **attentions, "response": attentions["attention_mask"]}


@fusion("D*M_A", reads=_attention_reads)
def distance_in_attention(
    e: Evidence,
    *,
    layers: Sequence[int] = (7, 13),
    alpha: float = 0.75,
    beta: float = 0.19,
    class_token: str = "last",
    top_k: int = 10,
    drop_light_rows: bool = True,
    drop_sinks: bool = False,
    entropy: str = "probability",
) -> dict[str, Any]:
    """The paper's fusion: D_f = D * M_A, Eq. 8.

    Args:
        layers: the band (l_s, l_e) of Eq. 3, both included, in `hidden_states` indices.
        alpha: share of the peak in Eq. 4, from 0 to 1.
        beta: ceiling of the threshold in Eq. 4, at least 0 (below it, cells that Eq. 5 sets to 0 would exceed those that it keeps); from 1
            on, no cosine reaches it, and there is no ceiling.
        class_token: which sub-token of the class name stands for it, see `class_distance`.
        top_k: K of Eq. 6.
        drop_light_rows, drop_sinks: see `select_rows`.
        entropy: see `spatial_entropy`; "reference" ranks the rows of single heads, "probability" rows averaged over the heads.
    """
    distances = _distances(e, alpha, beta, class_token)
    attentions = _attentions(e, top_k, drop_light_rows, drop_sinks, entropy)
    return {**distances, **attentions, "response": reliable_response(distances["distance"], attentions["attention_mask"])}


@dataclass(frozen=True)
class Respond:
    """The second stage: a fusion by name, with its options.

    Attributes:
        fusion: a registered name: "D", "M_A" and "D*M_A" are Table 5's rows.
        options: the fusion's options; those left out take its defaults.

    Raises:
        UnknownFusion, InvalidOption, InvalidBand: on construction, before any forward.
    """

    fusion: str = "D*M_A"
    options: Mapping[str, Option] = field(default_factory=Options)

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", self._fusion.options(self.options))
        self.reads()

    @property
    def _fusion(self) -> Fusion:
        return get_fusion(self.fusion)

    def reads(self) -> list[probe.Read]:
        """What the model has to be read for."""
        return list(self._fusion.reads(self.options))

    def __call__(self, e: Evidence) -> Evidence:
        """The evidence with its response D_f, and the maps on the way to it."""
        return self._fusion(e, self.options)


def best_synonym(synonyms: Sequence[Evidence]) -> Evidence:
    """Of several names of one class, the evidence with the largest peak of D~ (of the response, where a fusion left no D~).

    Raises:
        NoMap: none of them has a response yet.
    """
    return max(synonyms, key=_peak)


def _peak(e: Evidence) -> float:
    chosen = e.raw_distance if e.raw_distance is not None else e.response
    if chosen is None:
        raise NoMap(f'"{e.asked_as}" has no response map to compare synonyms by: run the respond stage on it first.')
    return float(chosen.max())
