"""The pages of a run: those of its worst images, and an index of them with the IoU of each class.

`choosing` finds the images, `writing` segments them once more and writes the files, `index.js` shows the index. What it has in common with other
pages is in `probe.views.page`.
"""

from fseg.evaluation.pages.writing import INDEX, write_pages

__all__ = ["INDEX", "write_pages"]
