"""The file of a result's page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from fseg.drawing.label_map import overlay
from fseg.drawing.page.content import gathered
from probe.notebook import Html, table
from probe.views.page.packing import pack
from probe.views.page.shell import figure, resource, standalone

if TYPE_CHECKING:
    from fseg.result import Result


def result_page(result: Result) -> bytes:
    """A result as one HTML file that needs no server and no network.

    Raises:
        NotFinite: a margin or a score is NaN or infinite.
        PackageNeeded: matplotlib, whose colour maps are used, is not installed.
    """
    header, arrays = gathered(result)
    title = str(header["title"])
    answers = table([(name, result.evidence[name].answer) for name in result.classes], ("class", "answer"))
    labels = figure(overlay(result.image, result.labels, result.classes), "The label map.")
    return standalone(
        title,
        style=resource("page.css", "fseg.drawing.page"),
        script=resource("page.js", "fseg.drawing.page"),
        data=pack(header, arrays),
        shown="each step of each class",
        without=Html(f"<p>{escape(title)}</p>\n{answers}\n{labels}"),
    )
