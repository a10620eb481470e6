"""Prompts, masks, and what a model needs in order to be prompted: the words that the SAM stage and its models share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fseg.errors import InvalidPrompt

Multimask = Literal["auto", "on", "off"]
MULTIMASKS: tuple[Multimask, ...] = ("auto", "on", "off")


@dataclass(frozen=True)
class SamPrompt:
    """Where one class is.

    Attributes:
        points: (x, y) of positive points, in pixels of the original image; pixel centres lie at whole numbers.
        box: (x0, y0, x1, y1), the first and the last pixel of each axis, or None.
        multimask: "off" asks for the single mask, "on" for the alternatives, of which the one with the best predicted IoU is taken;
            "auto" asks for the single mask where a box or two or more points say what is meant, and for alternatives otherwise.
    """

    points: tuple[tuple[float, float], ...] = ()
    box: tuple[float, float, float, float] | None = None
    multimask: Multimask = "auto"

    @property
    def alternatives(self) -> bool:
        """Whether alternative masks are asked for."""
        if self.multimask == "auto":
            return self.box is None and len(self.points) < 2
        return self.multimask == "on"

    def check(self, size: tuple[int, int]) -> None:
        """Every pixel named lies in an image of this (height, width).

        A box covers x1 - x0 + 1 pixels: less than one for a patch of a tiny image, but always more than none.

        Raises:
            InvalidPrompt: there is neither a point nor a box; a coordinate is outside the image or not a number; the box is empty.
        """
        height, width = size
        if not self.points and self.box is None:
            raise InvalidPrompt("A prompt needs a point or a box, and this one has neither. Leave out classes that have no prompt.")
        for x, y in self.points:
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
    """The answer to one prompt.

    Attributes:
        logits: float32 (height, width) of the original image, on the CPU, not thresholded; the mask is where they are above 0.
        score: the IoU that the model itself predicts for its mask.
    """

    logits: Float[Tensor, "height width"]
    score: float


@runtime_checkable
class Promptable(Protocol):
    """What the SAM stage needs of a model. An object of your own that has these two methods can stand in for SAM."""

    def embed(self, image: Image.Image) -> Any:
        """The image (RGB), encoded once; what it returns only `masks` has to understand."""

    def masks(self, embedding: Any, prompts: Sequence[SamPrompt]) -> list[SamMask]:
        """One mask a prompt, in order, each as if its prompt had been the only one."""
