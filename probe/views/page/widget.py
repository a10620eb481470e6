"""`widget`: the page of a trace inside a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from probe.attribution.likely import LikelyTokens
from probe.errors import PackageNeeded
from probe.inputs.images import ImageLike
from probe.tracing.trace import Trace
from probe.views.page.document import gathered, packed
from probe.views.page.shell import page_script, page_style, resource

if TYPE_CHECKING:
    import anywidget

RENDER = 'export default { render: ({ model, el }) => mount(el, model.get("packed")) };'
"""What anywidget calls, after `page.js`."""


def widget(
    trace: Trace, image: ImageLike | Sequence[ImageLike], *, likely: LikelyTokens | None = None, tokens: int = 32, layers: int = 40
) -> anywidget.AnyWidget:
    """What `page` shows, inside a notebook of Jupyter, marimo or VS Code.

    Args:
        trace, image, likely, tokens, layers: as in `page`.

    Raises:
        PackageNeeded: anywidget or matplotlib is not installed.
        InvalidRead, GridUnknown, GridMismatch: as in `page`.

    >>> y = model.encode(image, "Is there a cat?").with_answer("No.")
    >>> shown = probe.views.widget(model.run(y, probe.Attention("all", query="answer", key="image")), image)
    >>> "packed" in shown.trait_names()
    True
    """
    try:
        import anywidget
        import traitlets
    except ModuleNotFoundError as error:
        raise PackageNeeded("widget() needs anywidget, which is not installed: pip install 'fseg-llava[widget]'.") from error
    module, style = page_script(f"{resource('page.js')}\n{RENDER}\n"), page_style(resource("page.css"))

    class TraceWidget(anywidget.AnyWidget):
        """A trace in a notebook."""

        _esm = module
        _css = style
        packed = traitlets.Unicode().tag(sync=True)

    return TraceWidget(packed=packed(*gathered(trace, image, tokens, layers), likely))
