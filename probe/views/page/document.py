"""`page`: a trace as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from probe.attribution.likely import LikelyTokens
from probe.disk.files import write_atomically
from probe.errors import GridUnknown, InvalidRead
from probe.inputs.images import ImageLike, open_image
from probe.notebook import Html
from probe.tokens.integers import as_int
from probe.tokens.spans import TokenMap, shortened
from probe.tracing.activation import Activation
from probe.tracing.trace import Trace
from probe.views.overlay import overlay
from probe.views.page.content import Content, gather
from probe.views.page.figures import numbers_of
from probe.views.page.packing import pack
from probe.views.page.shell import COLOURS, check_new, colours, figure, jpeg, resource, standalone


def page(
    trace: Trace,
    image: ImageLike | Sequence[ImageLike],
    *,
    to: str | Path,
    likely: LikelyTokens | None = None,
    tokens: int = 32,
    layers: int = 40,
    overwrite: bool = False,
) -> Path:
    """Write a trace as one HTML file to look at in a browser: attention and cosine of the answer's tokens, over the image.

    The file needs no server and no network. It shows what was read: attention to the image of every block and head for every query that is
    text, and at each layer where hidden states of the image and of text were read, the cosine of the image's to each token's. Values in it are
    within 1/255 of each map's range.

    Args:
        trace: of one sequence, such as one of `Attention("all", query="answer", key="image")` and `Hidden("all", at=("image", "answer"))`. Of
            several reads of attention to the image, the one from the most tokens is shown.
        image: the image that was encoded; of several images a list.
        to: the file.
        likely: the likeliest words of hidden states, `model.lens(trace.hidden(at), top=3)`, named where the pointer is: of the image's tokens
            cell by cell, of the text's beside each map.
        tokens, layers: the most tokens, and blocks or hidden states, with maps in the file; of more, evenly spaced ones, and a note says so.
        overwrite: replace a file that exists.

    Returns:
        the file's path.

    Raises:
        OutputError: the file exists, or cannot be written.
        InvalidRead: the trace is of several sequences, or `likely` is not of its hidden states, or a number is not positive.
        GridUnknown: the images are not those that were encoded.
        GridMismatch: the image tokens are not as many as the family's layout says.
        PackageNeeded: matplotlib, whose colour maps are used, is not installed.

    >>> y = model.generate(model.encode(image, "Is there a cat?"))
    >>> trace = model.run(y, [probe.Attention("all", query="answer", key="image"), probe.Hidden("all", at=("image", "answer"))])
    >>> probe.views.page(trace, image, to="trace.html", likely=model.lens(trace.hidden(("image", "answer")), top=3)).name
    'trace.html'
    """
    path = Path(to)
    check_new(path, overwrite=overwrite)
    content, images = gathered(trace, image, tokens, layers)
    document = _document(content, images, likely)
    write_atomically(path, lambda file: file.write(document))
    return path


def gathered(trace: Trace, image: ImageLike | Sequence[ImageLike], tokens: int, layers: int) -> tuple[Content, list[Image.Image]]:
    """What is shown of a trace, and its images.

    Raises:
        InvalidRead, GridUnknown, GridMismatch: see `page`.
    """
    for name, number in (("tokens", tokens), ("layers", layers)):
        if (as_int(number) or 0) < 1:
            raise InvalidRead(f"{name}={number!r}: how many {name} have maps in the page, at least 1.")
    images = [open_image(one) for one in (image if isinstance(image, Sequence) and not isinstance(image, str) else [image])]
    content = gather(trace, tokens, layers)
    _check_images(content, images)
    return content, images


def _check_images(content: Content, images: Sequence[Image.Image]) -> None:
    if content.views and len(images) != len(content.tokens.images):
        raise GridUnknown(f"{len(images)} images were given, and {len(content.tokens.images)} were encoded. Pass them all, in their order.")
    for view in content.views:
        size = (images[view.image].height, images[view.image].width)
        if view.grid and view.grid.image_size != size:
            height, width = view.grid.image_size
            raise GridUnknown(
                f"Image {view.image} has {size[0]} x {size[1]} pixels (height x width), and {height} x {width} were encoded. Pass that image."
            )


def packed(content: Content, images: Sequence[Image.Image], likely: LikelyTokens | None) -> str:
    """What `page.js` shows, as text: see `pack`.

    Raises:
        InvalidRead: `likely` is not of the trace's hidden states.
        PackageNeeded: matplotlib, whose colour maps are used, is not installed.
    """
    header, arrays = numbers_of(content, likely)
    arrays |= {f"image {number}": np.frombuffer(jpeg(image), dtype=np.uint8) for number, image in enumerate(images)}
    arrays["colours"] = colours()
    prompt, answer = _said(content.tokens)
    return pack({"family": content.tokens.family, "prompt": prompt, "answer": answer, **header}, arrays)


def _document(content: Content, images: Sequence[Image.Image], likely: LikelyTokens | None) -> bytes:
    """The file."""
    prompt, answer = _said(content.tokens)
    return standalone(
        shortened(answer or prompt or "A trace", 60),
        style=resource("page.css"),
        script=resource("page.js"),
        data=packed(content, images, likely),
        shown="each token, layer and head",
        without=Html(f"<p>{escape(prompt)}</p>\n<p>{escape(answer)}</p>\n{_still(content, images)}"),
    )


def _said(tokens: TokenMap) -> tuple[str, str]:
    """The question, or the whole prompt, and the answer; "" where there is none."""
    return _text(tokens, "question", "prompt"), _text(tokens, "answer")


def _text(tokens: TokenMap, *names: str) -> str:
    """The text of the first span that there is."""
    named = next((name for name in names if name in tokens.spans), None)
    return tokens.text(named) if named and tokens.decode else ""


def _still(content: Content, images: Sequence[Image.Image]) -> Html:
    """For browsers without JavaScript: each image, under its first map's mean over everything that was read of it, and what that is."""
    figures = []
    for number, image in enumerate(images):
        view = next((view for view in content.views if view.image == number and view.grid), None)
        name = next(iter(content.maps), None)
        if view is None or view.grid is None or name is None:
            shown, caption = image, "The image."
        else:
            mean = content.maps[name].of_view(view).mean((0, 1)).reshape(view.grid.shape)
            shown = overlay(image, Activation(mean, ("row", "col"), view=view.grid), colours=COLOURS)
            caption = f"Mean {name} over all tokens and maps of this page."
        figures.append(figure(shown, caption))
    return Html("".join(figures))
