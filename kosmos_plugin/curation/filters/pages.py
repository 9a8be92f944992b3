"""Filters of web pages, and the test for gibberish paragraphs (§3.1, §B.1.3).

What the paper discards, and how it is done here:

- pages that are not in English (`filters.language`);
- pages without images interspersed in the text: a page needs text and at least one usable image;
- images "that have a resolution lower than 64 by 64 pixels or that are singlecolored" (`filters.images`);
- "gibberish text containing emoji symbols, hashtags, and URL links": a paragraph is removed if the share of such words
  exceeds a limit;
- "we limit the number of images to five": later images are removed (`formatters.use_images`);
- "half of the documents that only have one image": chosen by a hash of the page's address.
"""

from urllib.parse import urlsplit

import regex
from datatrove.data import Document
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.curation.pipeline.steps import Filter
from kosmos_plugin.curation.sampling.hashing import is_in_share

# Characters that are displayed as emoji, by default or with the variation selector that asks for it.
_EMOJI = regex.compile(r"\p{Emoji_Presentation}|\p{Emoji}\N{VARIATION SELECTOR-16}")
_PUNCTUATION = "()[]{}<>.,;:!?\"'“”‘’"


class HasImageFilter(Filter):
    """Drops pages without an image."""

    name = "has image"

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        return True if document.media else (False, "no image in the text")


class OneImageFilter(Filter):
    """Drops the share `drop_share` (0 … 1) of the pages that have one image, chosen by a hash of their address."""

    name = "one image"

    def __init__(self, drop_share: float, exclusion_writer: DiskWriter | None = None):
        super().__init__(exclusion_writer)
        self.drop_share = drop_share

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        if len(document.media) == 1:
            name = document.metadata.get("url") or document.text
            if is_in_share(name, self.drop_share, "one image"):
                return False, "page with one image, in the share that is dropped"
        return True


def gibberish_share(text: str) -> float:
    """The share of the words of `text` that contain an emoji, or are a hashtag or a link."""
    words = text.split()
    return sum(map(_is_gibberish, words)) / max(1, len(words))


def _is_gibberish(word: str) -> bool:
    if _EMOJI.search(word):
        return True
    word = word.strip(_PUNCTUATION)
    return (word.startswith("#") and word[1:2].isalpha()) or _is_link(word)


def _is_link(word: str) -> bool:
    if word.lower().startswith("www."):
        return True
    if "://" not in word:  # most words; parsing is slow
        return False
    try:
        parts = urlsplit(word)
    except ValueError:  # "http://[/" is not an address
        return False
    return parts.scheme in ("http", "https", "ftp") and bool(parts.netloc)
