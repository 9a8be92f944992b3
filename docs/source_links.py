"""A hook of MkDocs: links from a page to files of the repository outside docs/ become plain text on the site.

On a code host they open the file; the site has no copy of it. A link to a file that is not there is a warning, and so
an error of `mkdocs build --strict`.
"""

import logging
import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]+)(#[^)]*)?\)")
log = logging.getLogger("mkdocs.plugins.source_links")


def on_page_markdown(markdown: str, page: Any, config: Any, **kwargs: Any) -> str:
    """Replace each link that leaves docs/ by its text."""
    docs = Path(config.docs_dir)

    def text_of(link: re.Match[str]) -> str:
        target = (docs / page.file.src_path).parent / link[2]
        if docs in target.resolve().parents:
            return link[0]
        if not target.exists():
            log.warning(f"{page.file.src_path} links to {link[2]}, which does not exist.")
        return link[1]

    return LINK.sub(text_of, markdown)
