"""One HTML file that shows a trace: `content` gathers what there is, `packing` makes bytes of it, `document` the file around them."""

from probe.views.page.document import page

__all__ = ["page"]
