"""Prompts and masks, and the interface of a model that can be prompted. A new SAM is one class with the methods of `Promptable`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fseg.errors import InvalidPrompt

Multimask = Literal["auto", "on", "off"]
Embedding = TypeVar("Embedding")

MULTIMASKS: tuple[Multimask, ...] = ("auto", "on", "off")


@dataclass(frozen=True)
class SamPrompt:
    """Where one class is.

    Attributes:
        points: (x, y) of positive points, in pixels of the original image; pixel centres lie at whole numbers.
        negatives: (x, y) of points that do not belong to the class. They refine a prompt and are none by themselves.
        box: (x0, y0, x1, y1), the first and the last pixel of each axis, or None.
        multimask: "off" asks for the single mask, "on" for the alternatives, of which the one with the highest predicted IoU is returned;
            "auto" asks for the single mask with a box or with two or more points of either kind, and for alternatives with a single point, which is
            ambiguous.
        refine: ask a second time, with the logits of the first mask beside the points and the box, for a single mask.

    >>> SamPrompt(points=((10, 20),)).wants_alternatives
    True
    """

    points: tuple[tuple[float, float], ...] = ()
    box: tuple[float, float, float, float] | None = None
    multimask: Multimask = "auto"
    refine: bool = False
    negatives: tuple[tuple[float, float], ...] = ()

    @property
    def wants_alternatives(self) -> bool:
        """Whether the prompt asks for alternative masks."""
        if self.multimask == "auto":
            return self.box is None and len(self.points) + len(self.negatives) < 2
        return self.multimask == "on"

    def check(self, size: tuple[int, int]) -> None:
        """Raise InvalidPrompt unless the prompt lies inside an image of this (height, width).

        A box covers x1 - x0 + 1 pixels, which is less than one for a patch of a tiny image, but always more than 0.

        Raises:
            InvalidPrompt: there is neither a point nor a box; a coordinate is outside the image or not a number; the box is empty.
        """
        height, width = size
        if not self.points and self.box is None:
            raise InvalidPrompt("A prompt needs a point or a box, and this one has neither. Leave out classes that have no prompt.")
        for x, y in (*self.points, *self.negatives):
            if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
                raise InvalidPrompt(
                    f"The point (x {x}, y {y}) is outside the image of {width} x {height} pixels. "
                    f"Points are pixels of the original image: x from 0 to {width - 1}, y from 0 to {height - 1}."
                )
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            inside = x0 >= -0.5 and y0 >= -0.5 and x1 <= width - 0.5 and y1 <= height - 0.5
            if not (inside and x1 - x0 + 1 > 0 and y1 - y0 + 1 > 0):
                raise InvalidPrompt(
                    f"The box (x0 {x0}, y0 {y0}, x1 {x1}, y1 {y1}) is empty or leaves the image of {width} x {height} pixels. "
                    f"Boxes are pixels of the original image, the last pixel included: at most (0, 0, {width - 1}, {height - 1})."
                )


@dataclass(frozen=True)
class SamMask:
    """The mask of one prompt.

    Attributes:
        logits: float32 (height, width) of the original image, on the CPU, not thresholded; the mask is where they are above 0.
        score: the IoU that the model itself predicts for its mask.
    """

    logits: Float[Tensor, "height width"]
    score: float


@runtime_checkable
class Promptable(Protocol[Embedding]):
    """The two methods that the SAM stage calls. Any object that has them can be passed as `sam=` to `fseg.Segmenter`.

    A SAM that fills each prompt's box:

    >>> class FilledBoxes:
    ...     def embed(self, image):
    ...         return image.height, image.width
    ...     def masks(self, embedding, prompts):
    ...         filled = []
    ...         for prompt in prompts:
    ...             x0, y0, x1, y1 = map(round, prompt.box)
    ...             logits = torch.full(embedding, -1.0)
    ...             logits[y0 : y1 + 1, x0 : x1 + 1] = 1.0
    ...             filled.append(SamMask(logits, score=1.0))
    ...         return filled
    >>> isinstance(FilledBoxes(), Promptable)
    True
    """

    def embed(self, image: Image.Image) -> Embedding:
        """The image (RGB), encoded once; only `masks` uses the result."""

    def masks(self, embedding: Embedding, prompts: Sequence[SamPrompt]) -> list[SamMask]:
        """One mask for each prompt, in order, the same as if its prompt had been the only one."""


AnySam: TypeAlias = Promptable[Any]
"""A SAM whose embeddings only it reads."""
