"""One HTML file that shows a result.

`content` gathers what it shows and what its script computes with, `document` makes the file, `page.js` recomputes Eq. 4 to 12 and shows them. What
it has in common with the page of a trace is in `probe.views.page`.
"""

from fseg.drawing.page.document import result_page

__all__ = ["result_page"]
