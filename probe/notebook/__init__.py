"""HTML for notebooks: what an object shows instead of its repr."""

from probe.notebook.html import Frame, Html, coloured, image_of, section, swatch, table
from probe.notebook.thumbnail import thumbnail

__all__ = ["Frame", "Html", "coloured", "image_of", "section", "swatch", "table", "thumbnail"]
