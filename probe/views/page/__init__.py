"""One HTML file that shows a trace.

`content` gathers what a trace has, `figures` and `packing` make bytes of it, `document` the file around them, `page.js` shows them; `asking` is what
`probe view` reads of an answer.
"""

from probe.views.page.document import page
from probe.views.page.widget import widget

__all__ = ["page", "widget"]
