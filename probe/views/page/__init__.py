"""One HTML file that shows a trace.

`content` gathers what a trace has, `figures` and `packing` make bytes of it, `document` the file, `page.js` shows them; `asking` is what `probe
view` reads of an answer. `shell` and `parts` are of every page, those of other packages too.
"""

from probe.views.page.document import page
from probe.views.page.widget import widget

__all__ = ["page", "widget"]
