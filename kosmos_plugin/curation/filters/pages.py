"""What §3.1 and §B.1.3 discard of web pages: rules (`steps.Rules`), which may change the page, and those for images.

- pages that are not in English (`curation.language`);
- pages without images interspersed in the text: a page needs an image that can be used and, before or after it, text;
- images "that have a resolution lower than 64 by 64 pixels or that are singlecolored";
- "gibberish text containing emoji symbols, hashtags, and URL links": here a paragraph of which more than a share of the
  words are such;
- "we limit the number of images to five": here the images behind the fifth are left out, and the page's text stays;
- "half of the documents that only have one image": by a hash of the page's address, so that a run can be repeated.
"""

from urllib.parse import urlsplit

import regex
from datatrove.data import Document

from kosmos_plugin.curation.filters.captions import image_size
from kosmos_plugin.curation.readers.html import text_of
from kosmos_plugin.curation.readers.texts import problem_of
from kosmos_plugin.curation.sampling.hashing import is_in_share
from kosmos_plugin.images import BrokenImage, decode_image

NO_IMAGE = "no image in the text"
# Unicode's property of what is shown as an emoji by itself, or by the sign that asks for it.
_EMOJI = regex.compile(r"\p{Emoji_Presentation}|\p{Emoji}\N{VARIATION SELECTOR-16}")
_PUNCTUATION = "()[]{}<>.,;:!?\"'“”‘’"


def gibberish_share(text: str) -> float:
    """The share of the words of `text` that have an emoji or are a hashtag or a link."""
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
    if "://" not in word:  # most words; parsing takes long
        return False
    try:
        parts = urlsplit(word)
    except ValueError:  # such as http://[/
        return False
    return parts.scheme in ("http", "https", "ftp") and bool(parts.netloc)


def has_text(document: Document) -> str | None:
    """Against pages without text, or whose text is broken."""
    return problem_of(document.text)


def has_images(document: Document) -> str | None:
    """Against pages that have no image at all."""
    return None if document.media else NO_IMAGE


def image_problem(data: bytes, min_side: int, one_color: bool) -> str | None:
    """Why an image is left out, or None. Sides are in pixels; with `one_color` such images are used.

    An image is of one color if all of it that training sees is: at 224 × 224 pixels, transparent ones white.
    """
    try:
        if min(image_size(data)) < min_side:
            return f"image of fewer than {min_side} by {min_side} pixels"
        pixels = decode_image(data, size=224, fit="stretch")
    except BrokenImage as error:
        return error.reason
    if not one_color and bool((pixels == pixels[:, :1, :1]).all()):
        return "image of one color"
    return None


def rebuild(document: Document, segments: list[dict]) -> None:
    """Make `segments` the page's: texts that follow each other become one, and media are those that it still has."""
    media, rebuilt = [], []
    for segment in segments:
        if "image" in segment:
            media.append(document.media[segment["image"]])
            rebuilt.append({"image": len(media) - 1})
        elif rebuilt and "text" in rebuilt[-1]:
            rebuilt[-1] = {"text": f"{rebuilt[-1]['text']}\n{segment['text']}"}
        else:
            rebuilt.append(segment)
    document.media = media
    document.metadata["segments"] = rebuilt
    document.text = text_of(rebuilt)


def is_of_dropped_half(document: Document, share: float) -> bool:
    """Whether a page is of the `share` that is dropped if it has one image: by its address, or else its text."""
    return is_in_share(document.metadata.get("url") or document.text, share, "one image")
