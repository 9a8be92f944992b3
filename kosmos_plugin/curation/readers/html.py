"""HTML → texts and images in reading order, without boilerplate: navigation, footers, hidden parts (resiliparse).

resiliparse extracts only text, so each image is replaced by a marker, and the text is cut at the markers.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree, NodeType

from kosmos_plugin.curation.page_documents import PageImage
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.readers.charsets import decode
from kosmos_plugin.curation.readers.image_addresses import absolute, image_addresses, is_placeholder

# The time of extraction grows with the square of the nesting depth: seconds at 10,000.
MAX_DEPTH = 500
# More than any page that people read has; it bounds the work that follows.
MAX_ELEMENTS = 500_000
# Further attributes of an image, and further <source> elements before it, are not looked at.
_MAX_ATTRIBUTES, _MAX_SOURCES = 64, 16
# Parts of class names and ids of elements around images; "separator" is Blogger's.
_AROUND_IMAGES = ("gallery", "carousel", "lightbox", "featured-image", "separator")
# Private-use characters of Unicode, which texts do not contain.
_MARK, _END = "\ue000", "\ue001"
# Whether a page may contain what `_keep_lone_characters` searches for, which is slow; most pages do not.
_LONE_CHARACTER = re.compile(r">\s*(?:(?!\s)[^\0-\u07ff]|&\w+;|&#\w+;)\s*<")
_TOO_DEEP = " > ".join(["*"] * MAX_DEPTH)


def decode_html(data: bytes, charset: str | None = None) -> str:
    """Decode HTML as browsers do (`charsets.decode`); invalid bytes and NUL are left out."""
    return decode(data, charset).replace("\0", "").replace("\ufffd", "")


def parse_page(html: str, url: str) -> list[str | PageImage]:
    """Extract the texts and images of a page, in reading order.

    Args:
        html: The page.
        url: Its address, which with its <base> makes the addresses of images absolute.

    Returns:
        Texts of one line per paragraph, and images.

    Raises:
        Dropped: The page is nested too deep, or has too many elements.
    """
    tree = HTMLTree.parse(html)
    if _first_element(tree, _TOO_DEEP) is not None:
        raise Dropped(f"HTML nested deeper than {MAX_DEPTH} elements")
    if tree.document is not None and len(tree.document.query_selector_all("*")) > MAX_ELEMENTS:
        raise Dropped(f"HTML of more than {MAX_ELEMENTS:,} elements")
    base = _base(tree, url)
    addresses, alts = [], []
    _unpack_noscript(tree)
    for element in _elements(tree, "img, amp-img, amp-anim"):
        addresses.append(image_addresses(_attributes(element), _sources(element), _link(element), base))
        alts.append(element.getattr("alt"))
        element.replace_with(tree.create_text_node(f"{_MARK}{len(alts) - 1}{_END}"))
    _remove_shared(addresses)
    _keep_shallow_lists(tree)
    _keep_around_images(tree)
    if _LONE_CHARACTER.search(html):
        _keep_lone_characters(tree)
    # Without `alt_texts` <figure> elements would be lost too; the images' own are gone with them.
    text = extract_plain_text(
        tree, main_content=True, alt_texts=True, list_bullets=False, skip_elements=["area", "object", "svg"]
    )
    images = [
        PageImage(found[0], alt, tuple(found[1:])) if found else None
        for found, alt in zip(addresses, alts, strict=True)
    ]
    return list(_cut(text, images))


def _remove_shared(addresses: Sequence[list[str]]) -> None:
    """Remove second and later addresses that different images share: placeholders, by whatever name."""
    images: dict[str, set[str]] = {}
    for first, *others in filter(None, addresses):
        for other in others:
            images.setdefault(other, set()).add(first)
    for found in addresses:
        found[1:] = [address for address in found[1:] if len(images[address]) == 1]


# The next functions keep content that resiliparse's heuristics take for boilerplate.


def _unpack_noscript(tree: HTMLTree) -> None:
    """Move the images of <noscript> in front of it, or give their addresses to the image that they stand for."""
    for image in _elements(tree, "noscript img"):
        shown = image.parent if image.parent.tag == "picture" else image
        noscript = shown.parent
        while noscript.tag != "noscript":
            noscript = noscript.parent
        around = (next(filter(_is_element, _neighbors(noscript, side, 4)), None) for side in ("prev", "next"))
        late = next(filter(None, map(_late_image, around)), None)
        if late is None:
            noscript.parent.insert_before(shown, noscript)
            continue
        for name in ("src", "srcset"):
            if value := image.getattr(name):
                late[f"data-noscript-{name}"] = value
        image.remove()


def _is_element(node: Any) -> bool:
    return node.type == NodeType.ELEMENT


def _late_image(element: Any) -> Any:
    """The image that `element` is or, for a <picture>, has, if its `src` is only a placeholder; else None."""
    if element is not None and element.tag == "picture":
        element = element.query_selector("img")
    if element is None or element.tag not in ("img", "amp-img") or element.hasattr("data-noscript-src"):
        return None
    return element if is_placeholder(element.getattr("src") or "") or element.hasattr("data-src") else None


def _keep_shallow_lists(tree: HTMLTree) -> None:
    """Nest lists near <body> deeper, or they are taken for menus; not those whose text is mostly links."""
    for items in _elements(tree, "body > ul, body > * > ul, body > * > * > ul"):
        linked = sum(len(link.text) for link in items.query_selector_all("a").values())
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
    """The elements that a CSS selector matches: a list, since iterating over resiliparse's own is quadratic."""
    return [] if tree.document is None else tree.document.query_selector_all(selector).values()


def _first_element(tree: HTMLTree, selector: str) -> Any:
    """The first element that a CSS selector matches, or None."""
    return None if tree.document is None else tree.document.query_selector(selector)


def _base(tree: HTMLTree, url: str) -> str:
    base = _first_element(tree, "base[href]")
    return (absolute(url, base.getattr("href") or "") or url) if base is not None else url


def _attributes(element: Any) -> dict[str, str]:
    return {name: element.getattr(name) or "" for name in element.attrs[:_MAX_ATTRIBUTES]}


def _sources(image: Any) -> list[dict[str, str]]:
    """The attributes of each <source> before an image in its <picture>."""
    if image.parent is None or image.parent.tag != "picture":
        return []
    before = [node for node in _neighbors(image, "prev", 2 * _MAX_SOURCES) if node.tag == "source"]
    return [_attributes(source) for source in reversed(before)]


def _neighbors(element: Any, direction: str, most: int) -> Iterator[Any]:
    """At most `most` siblings of an element, from it on; `direction` is "prev" or "next".

    resiliparse's `prev_element` passes over any number of texts, which takes quadratic time over many elements.
    """
    node = getattr(element, direction)
    while node is not None and most > 0:
        yield node
        node, most = getattr(node, direction), most - 1


def _link(image: Any) -> str | None:
    """The address that an image links to."""
    element = image.parent
    if element is not None and element.tag == "picture":
        element = element.parent
    return element.getattr("href") if element is not None and element.tag == "a" else None


def _cut(text: str, images: list[PageImage | None]) -> Iterator[str | PageImage]:
    """Cut the text at the markers of images."""
    first, *rest = text.split(_MARK)
    if first := _tidy(first):
        yield first
    for piece in rest:
        number, _, following = piece.partition(_END)
        if number.isascii() and number.isdecimal() and int(number) < len(images):
            if (image := images[int(number)]) is not None:
                yield image
        else:  # the page's own character
            following = piece
        if following := _tidy(following):
            yield following


def _tidy(text: str) -> str:
    """The lines without surplus whitespace, and without empty ones."""
    lines = (" ".join(line.split()) for line in text.replace(_END, "").splitlines())
    return "\n".join(filter(None, lines))
