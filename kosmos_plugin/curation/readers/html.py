"""HTML → text and images in reading order, without boilerplate: navigation, footers, hidden parts (resiliparse).

resiliparse extracts text alone, so a mark is put in the place of each image, and the text is cut at the marks.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urljoin

from datatrove.data import Document, Media, MediaType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree, NodeType

# Extraction takes time that grows with the square of how deep elements are nested: seconds at 10,000.
MAX_DEPTH = 500
# Where scripts that load images late have their addresses; the src is that of a placeholder then.
_LATE = ("data-src", "data-lazy-src", "data-original", "data-srcset", "data-lazy-srcset")
# What names of elements around images have in them; "separator" is Blogger's.
_AROUND_IMAGES = ("gallery", "carousel", "lightbox", "featured-image", "separator")
# Of Unicode's private characters, which no text has.
_MARK, _END = "\ue000", "\ue001"
# Whether HTML may have what `_keep_lone_characters` looks for; most has not, and looking takes long.
_LONE_CHARACTER = re.compile(r">\s*(?:[^\0-\u07ff]|&\w+;|&#\w+;)\s*<")
_TOO_DEEP = " > ".join(["*"] * MAX_DEPTH)


@dataclass(frozen=True)
class PageImage:
    """An image's address, absolute (http:, https:, file: or data:), and its alternative text."""

    url: str
    alt: str | None = None


def decode_html(data: bytes, charset: str | None = None) -> str:
    """HTML as text, by the server's `charset`, or by what the page says or looks like."""
    if charset is not None:
        with contextlib.suppress(LookupError):  # servers name what there is not
            return bytes_to_str(data, charset).replace("\0", "")
    return bytes_to_str(data, detect_encoding(data, from_html_meta=True) or "utf-8").replace("\0", "")


def parse_page(html: str, url: str) -> list[str | PageImage] | str:
    """The texts, of a line a paragraph, and the images of a page in reading order, or why there are none.

    Addresses are made absolute by `url`, the page's own, and by its <base>.
    """
    tree = HTMLTree.parse(html)
    if tree.document.query_selector(_TOO_DEEP) is not None:
        return f"HTML nested deeper than {MAX_DEPTH} elements"
    base = _base(tree, url)
    images: list[PageImage | None] = []
    _unpack_noscript(tree)
    for element in list(tree.document.query_selector_all("img, amp-img")):
        address = _address(element)
        images.append(PageImage(_absolute(base, address), element.getattr("alt")) if address else None)
        element.replace_with(tree.create_text_node(f"{_MARK}{len(images) - 1}{_END}"))
    _keep_shallow_lists(tree)
    _keep_around_images(tree)
    if _LONE_CHARACTER.search(html):
        _keep_lone_characters(tree)
    # Without `alt_texts` there would be no <figure> either; those of images are gone with them.
    text = extract_plain_text(
        tree, main_content=True, alt_texts=True, list_bullets=False, skip_elements=["area", "object", "svg"]
    )
    return list(_cut(text, images))


# What follows keeps content that resiliparse's heuristics take for something else.


def _unpack_noscript(tree: HTMLTree) -> None:
    """Put the images of <noscript> before it: where scripts load images late, only these have addresses."""
    for image in list(tree.document.query_selector_all("noscript img")):
        noscript = image.parent
        while noscript.tag != "noscript":
            noscript = noscript.parent
        noscript.parent.insert_before(image, noscript)


def _keep_shallow_lists(tree: HTMLTree) -> None:
    """Put lists near <body> deeper, where they are not taken for a menu, unless most of their text is that of links."""
    for items in list(tree.document.query_selector_all("body > ul, body > * > ul, body > * > * > ul")):
        linked = sum(len(link.text) for link in items.query_selector_all("a"))
        if 2 * linked < len(items.text.strip()):
            outer = inner = tree.create_element("div")
            items.parent.replace_child(outer, items)
            for _ in range(2):
                inner = inner.append_child(tree.create_element("div"))
            inner.append_child(items)


def _keep_around_images(tree: HTMLTree) -> None:
    """Take the names away from what shows images, such as class="gallery", which are taken for decoration."""
    for name in ("class", "id"):
        for element in list(
            tree.document.query_selector_all(", ".join(f"[{name}*={word}]" for word in _AROUND_IMAGES))
        ):
            element[name] = ""


def _keep_lone_characters(tree: HTMLTree) -> None:
    """Add a sign that is taken out again to what is between elements and of one character, such as → or ”.

    resiliparse takes them for icons and leaves them out, so that `<b>File</b> → <b>Open</b>` would become "FileOpen".
    """
    for node in list(tree.document):
        if node.type == NodeType.TEXT and (node.prev is not None or node.next is not None):
            text = node.value
            if len(text.strip()) == 1 and not text.isascii():
                node.value = text.replace(text.strip(), text.strip() + _END)


def page_document(parts: list[str | PageImage], id: str, url: str) -> Document:
    """The document of a page's parts: `metadata["segments"]` (see `shard_writer`), and media without their bytes."""
    segments, media = [], []
    for part in parts:
        if isinstance(part, str):
            segments.append({"text": part})
        else:
            segments.append({"image": len(media)})
            media.append(Media(str(len(media)), MediaType.IMAGE, part.url, part.alt))
    return Document(text_of(segments), id, media, {"segments": segments, "url": url})


def text_of(segments: list[dict]) -> str:
    """The whole text of segments, without the images."""
    return "\n".join(segment["text"] for segment in segments if "text" in segment)


def _base(tree: HTMLTree, url: str) -> str:
    base = tree.document.query_selector("base[href]")
    return _absolute(url, base.getattr("href").strip()) or url if base is not None else url


def _absolute(base: str, address: str) -> str:
    """The absolute address without its fragment; "" if it is none."""
    try:
        return urljoin(base, address).partition("#")[0] if not address.startswith("data:") else address
    except ValueError:  # such as http://[/
        return ""


def _address(image) -> str:
    """Where the image of an <img> is: what scripts read that load it late, else its src, else a srcset's first."""
    for name in _LATE:
        if late := (image.getattr(name) or "").strip():
            return _first(late) if name.endswith("srcset") else late
    source = (image.getattr("src") or "").strip()
    if source and not source.startswith("data:"):
        return source
    alternative = _first(image.getattr("srcset"))
    if not alternative and (parent := image.parent) is not None and parent.tag == "picture":
        element = parent.query_selector("source[srcset]")
        alternative = _first(element.getattr("srcset")) if element is not None else ""
    return alternative or source


def _first(srcset: str | None) -> str:
    return next(iter((srcset or "").split()), "").rstrip(",")


def _cut(text: str, images: list[PageImage | None]) -> Iterator[str | PageImage]:
    first, *rest = text.split(_MARK)
    if first := _tidy(first):
        yield first
    for piece in rest:
        number, _, following = piece.partition(_END)
        if number.isascii() and number.isdecimal() and int(number) < len(images):
            if (image := images[int(number)]) is not None and image.url:
                yield image
        else:  # a page may have these characters itself
            following = piece
        if following := _tidy(following):
            yield following


def _tidy(text: str) -> str:
    """Lines without blanks around and between them."""
    lines = (" ".join(line.split()) for line in text.replace(_END, "").splitlines())
    return "\n".join(filter(None, lines))
