"""Links from a page to a file of the repository that is no page: to where the repository is."""

from __future__ import annotations

import re

from mkdocs.config.defaults import MkDocsConfig

OUTSIDE = re.compile(r"\]\(\.\./(?!#)([^)]+)\)")


def on_page_markdown(markdown: str, config: MkDocsConfig, **_: object) -> str:
    """MkDocs' hook: `../examples/README.md` of a page in `docs` is `examples/README.md` of the repository."""
    return OUTSIDE.sub(lambda found: f"]({config['repo_url']}/blob/main/{found[1]})", markdown)
