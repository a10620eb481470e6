"""HTML for notebooks: what an object shows instead of its repr."""

from probe.notebook.html import Html, coloured, image_of, section, swatch, table
from probe.notebook.thumbnail import thumbnail

__all__ = ["Html", "coloured", "image_of", "section", "swatch", "table", "thumbnail"]
