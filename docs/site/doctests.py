"""Examples in docstrings as code: MkDocs would read `>>>` as a quotation and `[4]` as a link."""

from __future__ import annotations

import textwrap

import griffe


def fenced(docstring: str) -> str:
    """The docstring with each run of lines from a `>>>` to the next blank line in a fence."""
    lines: list[str] = []
    inside: str | None = None  # the indentation of the example that is open
    for line in [*docstring.splitlines(), ""]:
        if inside is None and line.lstrip().startswith(">>>"):
            inside = line[: len(line) - len(line.lstrip())]
            lines += [*([""] if lines and lines[-1].strip() else []), f"{inside}```pycon"]
        elif inside is not None and not line.strip():
            lines.append(f"{inside}```")
            inside = None
        lines.append(line)
    return "\n".join(lines)


class Doctests(griffe.Extension):
    """Rewrites every docstring when it is collected."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        """Griffe's hook for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(textwrap.dedent(obj.docstring.value))
