"""HTML → texts and images in reading order, without boilerplate: navigation, footers, hidden parts (resiliparse).

resiliparse extracts only text, so each image is replaced by a marker, and the text is cut at the markers.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding
from resiliparse.parse.html import HTMLTree, NodeType

from kosmos_plugin.curation.page_documents import PageImage
from kosmos_plugin.curation.pipeline.dropped import Dropped

# The time of extraction grows with the square of the nesting depth: seconds at 10,000.
MAX_DEPTH = 500
# Attributes of lazily loaded images that hold the address; `src` is a placeholder then.
_LAZY = ("data-src", "data-lazy-src", "data-original", "data-srcset", "data-lazy-srcset")
# Parts of class names and ids of elements around images; "separator" is Blogger's.
_AROUND_IMAGES = ("gallery", "carousel", "lightbox", "featured-image", "separator")
# Private-use characters of Unicode, which texts do not contain.
_MARK, _END = "\ue000", "\ue001"
# Whether a page may contain what `_keep_lone_characters` searches for, which is slow; most pages do not.
_LONE_CHARACTER = re.compile(r">\s*(?:[^\0-\u07ff]|&\w+;|&#\w+;)\s*<")
_TOO_DEEP = " > ".join(["*"] * MAX_DEPTH)


def decode_html(data: bytes, charset: str | None = None) -> str:
    """Decode HTML by the server's `charset` or, without a known one, by what the page declares or looks like."""
    if charset is not None:
        with contextlib.suppress(LookupError):  # a charset that does not exist
            return bytes_to_str(data, charset).replace("\0", "")
    return bytes_to_str(data, detect_encoding(data, from_html_meta=True) or "utf-8").replace("\0", "")


def parse_page(html: str, url: str) -> list[str | PageImage]:
    """Extract the texts and images of a page, in reading order.

    Args:
        html: The page.
        url: Its address, which with its <base> makes the addresses of images absolute.

    Returns:
        Texts of one line per paragraph, and images.

    Raises:
        Dropped: The page is nested too deep.
    """
    tree = HTMLTree.parse(html)
    if _first_element(tree, _TOO_DEEP) is not None:
        raise Dropped(f"HTML nested deeper than {MAX_DEPTH} elements")
    base = _base(tree, url)
    images: list[PageImage | None] = []
    _unpack_noscript(tree)
    for element in _elements(tree, "img, amp-img"):
        address = _address(element)
        images.append(PageImage(_absolute(base, address), element.getattr("alt")) if address else None)
        element.replace_with(tree.create_text_node(f"{_MARK}{len(images) - 1}{_END}"))
    _keep_shallow_lists(tree)
    _keep_around_images(tree)
    if _LONE_CHARACTER.search(html):
        _keep_lone_characters(tree)
    # Without `alt_texts` <figure> elements would be lost too; the images' own are gone with them.
    text = extract_plain_text(
        tree, main_content=True, alt_texts=True, list_bullets=False, skip_elements=["area", "object", "svg"]
    )
    return list(_cut(text, images))


# The next functions keep content that resiliparse's heuristics take for boilerplate.


def _unpack_noscript(tree: HTMLTree) -> None:
    """Move the images of <noscript> in front of it: with lazy loading, only these have addresses."""
    for image in _elements(tree, "noscript img"):
        noscript = image.parent
        while noscript.tag != "noscript":
            noscript = noscript.parent
        noscript.parent.insert_before(image, noscript)


def _keep_shallow_lists(tree: HTMLTree) -> None:
    """Nest lists near <body> deeper, or they are taken for menus; not those whose text is mostly links."""
    for items in _elements(tree, "body > ul, body > * > ul, body > * > * > ul"):
        linked = sum(len(link.text) for link in items.query_selector_all("a"))
        if 2 * linked < len(items.text.strip()):
            divs: list[Any] = [tree.create_element("div") for _ in range(3)]
            outer, middle, inner = divs
            items.parent.replace_child(outer, items)
            outer.append_child(middle)
            middle.append_child(inner)
            inner.append_child(items)


def _keep_around_images(tree: HTMLTree) -> None:
    """Clear class names and ids of elements that show images (class="gallery"), or they are taken for decoration."""
    for name in ("class", "id"):
        for element in _elements(tree, ", ".join(f"[{name}*={word}]" for word in _AROUND_IMAGES)):
            element[name] = ""


def _keep_lone_characters(tree: HTMLTree) -> None:
    """Lengthen a single character between elements, such as → or ”, by a marker that is removed later.

    resiliparse takes single characters for icons: `<b>File</b> → <b>Open</b>` would become "FileOpen".
    """
    for node in list(tree.document or ()):
        if node.type == NodeType.TEXT and (node.prev is not None or node.next is not None):
            text = node.value or ""
            if len(text.strip()) == 1 and not text.isascii():
                node.value = text.replace(text.strip(), text.strip() + _END)


def _elements(tree: HTMLTree, selector: str) -> list[Any]:
    """The elements that a CSS selector matches; a list, so that the tree can be changed meanwhile."""
    return [] if tree.document is None else list(tree.document.query_selector_all(selector))


def _first_element(tree: HTMLTree, selector: str) -> Any:
    """The first element that a CSS selector matches, or None."""
    return None if tree.document is None else tree.document.query_selector(selector)


def _base(tree: HTMLTree, url: str) -> str:
    base = _first_element(tree, "base[href]")
    return _absolute(url, base.getattr("href").strip()) or url if base is not None else url


def _absolute(base: str, address: str) -> str:
    """The absolute address without its fragment; "" if it is not an address."""
    try:
        return urljoin(base, address).partition("#")[0] if not address.startswith("data:") else address
    except ValueError:  # http://[/
        return ""


def _address(image: Any) -> str:
    """The address of an <img>: the attribute for lazy loading, its src, or the first of a srcset."""
    for name in _LAZY:
        if lazy := (image.getattr(name) or "").strip():
            return _first(lazy) if name.endswith("srcset") else lazy
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
    """Cut the text at the markers of images."""
    first, *rest = text.split(_MARK)
    if first := _tidy(first):
        yield first
    for piece in rest:
        number, _, following = piece.partition(_END)
        if number.isascii() and number.isdecimal() and int(number) < len(images):
            if (image := images[int(number)]) is not None and image.url:
                yield image
        else:  # the page's own character
            following = piece
        if following := _tidy(following):
            yield following


def _tidy(text: str) -> str:
    """The lines without surplus whitespace, and without empty ones."""
    lines = (" ".join(line.split()) for line in text.replace(_END, "").splitlines())
    return "\n".join(filter(None, lines))
