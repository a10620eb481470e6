"""From an activation on a grid to the values of an image's pixels."""

from __future__ import annotations

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from probe.errors import GridUnknown
from probe.tracing.activation import Activation


def maps_on_pixels(image: Image.Image, maps: Activation, axes: tuple[str, ...] = ()) -> Float[Tensor, "*map height width"]:
    """The maps on the image's pixels, float32 on the CPU, NaN where no cell covers a pixel.

    Args:
        axes: the axes beside (row, col) or (height, width) that are kept, in this order; others of length 1 are dropped.

    Raises:
        GridUnknown: other axes, or maps of another image.
    """
    pixels = maps.to_pixels() if maps.dims[-2:] == ("row", "col") else maps
    dropped = {dim: 0 for dim, size in pixels.shape.items() if size == 1 and dim not in (*axes, "height", "width")}
    found = pixels.isel(**dropped)
    if set(found.dims) != {*axes, "height", "width"} or found.dims[-2:] != ("height", "width"):
        kept = f"maps along {' and '.join(axes)}" if axes else "one map"
        raise GridUnknown(
            f"{maps!r} is not {kept} of this image of {image.height} x {image.width} pixels. "
            "Select along its other axes or take their mean, and fold it: .mean('head').grid()."
        )
    if found.data.shape[-2:] != (image.height, image.width):
        height, width = found.data.shape[-2:]
        raise GridUnknown(f"{maps!r} lies on an image of {height} x {width} pixels, this one has {image.height} x {image.width}.")
    order = [found.dims.index(dim) for dim in (*axes, "height", "width")]
    return found.data.detach().float().cpu().permute(order)
