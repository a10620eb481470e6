"""The numbers of a label map: 0 is background, i + 1 is class i of the user's list, 255 is no class."""

from __future__ import annotations

BACKGROUND = 0
"""The label of pixels outside every class."""

IGNORED = 255
"""The label of pixels without a class: not counted in a ground truth, not assigned in a prediction. Also the largest label of an 8-bit PNG."""
