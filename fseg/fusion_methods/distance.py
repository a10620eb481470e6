"""How close each image cell is to the class token: D~ and D, Eq. 3 to 5."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fseg.errors import InvalidOption

CLASS_TOKENS = ("last", "first", "mean-feature", "mean-map", "before")

ALPHA, BETA = 0.75, 0.19
"""The paper's alpha and beta of Eq. 4, for its models with Vicuna."""


def distance_map(image: Float[Tensor, "layer cell feature"], word: Float[Tensor, "layer feature"]) -> Float[Tensor, " cell"]:
    """Mean cosine similarity of each image cell to the class token over a band of layers: D~ of Eq. 3, in -1..1."""
    return torch.cosine_similarity(image.float(), word.float()[:, None], dim=-1).mean(0)


def class_distance(
    image: Float[Tensor, "layer cell feature"], word: Float[Tensor, "layer token feature"], class_token: str = "last"
) -> Float[Tensor, " cell"]:
    """D~ of Eq. 3 for a class name of several sub-tokens.

    Args:
        class_token: "last" (the only one that has read the whole name), "first", "mean-feature" (one distance to the mean state),
            "mean-map" (the mean of the distances to each), or "before": `word` are the states that predict the sub-tokens, and the one that
            predicts the last is taken, as who indexes the hidden states of a step-by-step generation by the answer's positions gets it.
    """
    match class_token:
        case "last" | "before":
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
