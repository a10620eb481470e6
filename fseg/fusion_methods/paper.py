"""The paper's fusion D_f = D * M_A (section 3.3, Eq. 8), and its two parts alone: the rows of Table 5."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import probe
from fseg.checks import check_bool, check_choice, check_int, check_number
from fseg.evidence import Evidence
from fseg.fusion_methods.attention import ENTROPIES, attention_map, attention_mask, select_rows
from fseg.fusion_methods.distance import ALPHA, BETA, CLASS_TOKENS, class_distance, dynamic_threshold, suppress
from fseg.fusion_methods.options import band
from fseg.fusion_methods.registry import fusion

ROWS = {"at": "description", "before": "before description"}
"""Whose attention A_v is made of: that of the tokens of S_1, or of the tokens that predict them."""


def reliable_response(distance: Float[Tensor, "row col"], mask: Bool[Tensor, "row col"]) -> Float[Tensor, "row col"]:
    """D_f of Eq. 8: the distance inside the attention mask, 0 elsewhere."""
    return distance * mask


def _distances(e: Evidence, alpha: float, beta: float, class_token: str) -> dict[str, Tensor]:
    raw = e.fold(class_distance(e.hidden("image"), e.hidden(_class_span(class_token)), class_token)).cpu()
    return {"raw_distance": raw, "distance": suppress(raw, dynamic_threshold(raw, alpha, beta))}


def _attentions(
    e: Evidence, top_k: int, drop_light_rows: bool, drop_sinks: bool, entropy: str, mean_factor: float, rows: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A_v and M_A, and a flag where there was no attention to take them from."""
    per_head = entropy == "reference"
    query = ROWS[rows]
    read = e.attention_heads(query, "image") if per_head else e.attention_rows(query, "image")
    maps = e.fold_each(read).flatten(0, -3).cpu()
    chosen = select_rows(maps, top_k, drop_light_rows=drop_light_rows, drop_sinks=drop_sinks, entropy=entropy, mean_factor=mean_factor)
    if len(chosen):
        attention = attention_map(maps[chosen])
        return {"attention": attention, "attention_mask": attention_mask(attention)}, ()
    return {"attention_mask": torch.ones(e.grid.shape, dtype=torch.bool)}, ("no-attention" if len(maps) else "no-description",)


def _distance_reads(layers: Sequence[int], alpha: float, beta: float, class_token: str) -> list[probe.Read]:
    check_number("alpha", alpha, at_least=0, at_most=1)
    check_number("beta", beta, at_least=0)
    check_choice("class_token", class_token, CLASS_TOKENS)
    return [probe.Hidden(layers=band(layers), at=("image", _class_span(class_token)))]


def _class_span(class_token: str) -> str:
    """The span whose states stand for the class."""
    return "before class" if class_token == "before" else "class"


def _attention_reads(
    layers: Sequence[int],
    alpha: float,
    beta: float,
    class_token: str,
    top_k: int,
    drop_light_rows: bool,
    drop_sinks: bool,
    entropy: str,
    mean_factor: float,
    rows: str,
) -> list[probe.Read]:
    check_int("top_k", top_k, at_least=1)
    check_bool("drop_light_rows", drop_light_rows)
    check_bool("drop_sinks", drop_sinks)
    check_choice("entropy", entropy, tuple(ENTROPIES))
    check_number("mean_factor", mean_factor, at_least=0)
    check_choice("rows", rows, tuple(ROWS))
    read = probe.Attention(layers="all", query=ROWS[rows], key="image", heads="all" if entropy == "reference" else "mean")
    return [*_distance_reads(layers, alpha, beta, class_token), read]


# Every option of a fusion is passed to its `reads` too: `layers` is used there, and not in the functions below.
@fusion("D", reads=_distance_reads)
def distance_alone(
    e: Evidence, *, layers: Sequence[int] = (7, 13), alpha: float = ALPHA, beta: float = BETA, class_token: str = "last"
) -> dict[str, object]:
    """Table 5's first row: D_f = D. No attention is read."""
    maps = _distances(e, alpha, beta, class_token)
    return {**maps, "response": maps["distance"]}


@fusion("M_A", reads=_attention_reads)
def attention_alone(
    e: Evidence,
    *,
    layers: Sequence[int] = (7, 13),
    alpha: float = ALPHA,
    beta: float = BETA,
    class_token: str = "last",
    top_k: int = 10,
    drop_light_rows: bool = True,
    drop_sinks: bool = False,
    entropy: str = "probability",
    mean_factor: float = 1.0,
    rows: str = "at",
) -> dict[str, object]:
    """Table 5's second row: D_f = M_A. D~ is still read: it ranks synonyms and scores the final masks."""
    distances = _distances(e, alpha, beta, class_token)
    attentions, flags = _attentions(e, top_k, drop_light_rows, drop_sinks, entropy, mean_factor, rows)
    return {**distances, **attentions, "response": attentions["attention_mask"], "flags": flags}


@fusion("D*M_A", reads=_attention_reads)
def distance_in_attention(
    e: Evidence,
    *,
    layers: Sequence[int] = (7, 13),
    alpha: float = ALPHA,
    beta: float = BETA,
    class_token: str = "last",
    top_k: int = 10,
    drop_light_rows: bool = True,
    drop_sinks: bool = False,
    entropy: str = "probability",
    mean_factor: float = 1.0,
    rows: str = "at",
) -> dict[str, object]:
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
        mean_factor: how many times its mean is subtracted from a row before its entropy is taken, see `spatial_entropy`.
        rows: "at" the tokens of S_1, or "before": of the tokens that predict them, as who indexes the attentions of a step-by-step generation
            by the answer's positions gets it.
    """
    distances = _distances(e, alpha, beta, class_token)
    attentions, flags = _attentions(e, top_k, drop_light_rows, drop_sinks, entropy, mean_factor, rows)
    response = reliable_response(distances["distance"], attentions["attention_mask"])
    return {**distances, **attentions, "response": response, "flags": flags}
