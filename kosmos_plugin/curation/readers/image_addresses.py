"""The attributes of an image of a page → the addresses where it may be, the best first.

Many pages load images late: `src` is a placeholder, and the address is in another attribute, in <source>, or in
<noscript>. A crawl often has only one of the sizes that a page offers. So an image has several addresses, which are
tried in turn:

    srcset, data-srcset, …      its candidates, the largest first
    data-src, data-original, …  the addresses that scripts copy to `src`; Shopify's {width} is one of `data-widths`
    src                         unless it is a placeholder
    <source> of a <picture>     its candidates, the largest first
    any other attribute         that looks like the address of an image, if there is none so far
    data-large-file, …          the same picture in another size; so is the image that it links to

A `data:` address is used only if there is no other: it is mostly a blurred preview.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from urllib.parse import parse_qs, quote, urljoin, urlsplit

from kosmos_plugin.image_files import IMAGE_EXTENSIONS

# Longer addresses are not used; browsers and servers allow about as much. It bounds what a long <base> can do.
MAX_ADDRESS = 2048
MAX_ADDRESSES = 50  # of an image
_SCHEMES = ("http", "https", "file", "ftp")

# Attributes whose values are not addresses, even if they look like file names.
_NOT_ADDRESSES = ("alt", "title", "id", "class", "name", "longdesc", "usemap", "sizes", "width", "height", "style")
_LATE = re.compile(
    r"(?!.*(?:placeholder|preview|low|thumb|blur|loading|error|title|width|height|sizes|type)).*"
    r"(?:src|original|lazy|defer|echo|unveil|layzr)"
)
# The same picture in another size: WordPress, its themes, and zooming scripts.
_OTHER_SIZES = (
    *("data-orig-file", "data-large-file", "data-medium-file", "data-full-url", "data-full", "data-image"),
    *("data-hi-res", "data-highres", "data-retina", "data-large_image", "data-zoom-image", "data-zoom"),
)
# File names that stand for an image that has not been loaded.
_PLACEHOLDER = re.compile(
    r"(?:^|[-_./])(?:spacer|blank|pixel|placeholder|transparent|trans|loading|loader|preload(?:er)?|lazy(?:-?load)?|"
    r"1x1|clear|dot|empty|gr[ea]y|spinner|none|no-?image|px)(?:$|[-_.])",
    re.IGNORECASE,
)
# {{ image.url }}, ${url}, {width}, <%= url %>, [[url]]; but not {110D559F-DEA5-…}, a GUID.
_TEMPLATE = re.compile(r"\{\{|\}\}|[$#]\{|\{[A-Za-z_]\w*\}|<|>|\[\[|%7b%7b|%7b[a-z_]+%7d", re.IGNORECASE)
_WIDTH = re.compile(r"\{width\}|%7bwidth%7d", re.IGNORECASE)
_OTHER_SCHEME = re.compile(r"(?!https?:|file:|ftp:)[a-z-]+:", re.IGNORECASE)  # about:blank, data:, javascript:
_SIZED = re.compile(r"\s\d+(?:\.\d+)?[wx]\s*(?:,|$)")
_DESCRIPTOR = re.compile(r"(\d+(?:\.\d+)?)([wx])")
# One candidate of a srcset: an address, which may contain commas, then its size up to a comma.
_CANDIDATE = re.compile(r"[\s,]*(\S+)([^,]*)")
# What is around addresses in CSS, JSON and other notations.
_DELIMITERS = re.compile(r"[\s\"'()\[\]{}<>|,]+")
_CONTROLS = "".join(map(chr, range(33)))


def image_addresses(
    attributes: Mapping[str, str], sources: Sequence[Mapping[str, str]], link: str | None, base: str
) -> list[str]:
    """The addresses of an image.

    Args:
        attributes: Its attributes, by names in lower case.
        sources: The attributes of each <source> before it in its <picture>.
        link: The address that it links to.
        base: The address that its addresses are relative to.

    Returns:
        Absolute addresses, the best first, each once; none if there is none.
    """
    late, other = _late_addresses(attributes), list(_other_sizes(attributes))
    source = attributes.get("src", "")
    given = [*late, *(() if is_placeholder(source) else (source,)), *_of_sources(sources)]
    found = _absolute_all(base, given)
    if not found:
        found = _absolute_all(base, _within_attributes(attributes))
    if link is not None and looks_like_image(link):
        other.append(link)
    other += filter(None, map(_original, found))
    if other:
        found = list(dict.fromkeys([*found, *_absolute_all(base, other)]))
    if not found:
        found = _absolute_all(base, [source]) or [value for value in (source, *late) if _is_data(value)][:1]
    return found[:MAX_ADDRESSES]


def absolute(base: str, address: str) -> str:
    """Make an address absolute as browsers do, without its fragment; "" if it is not an address that can be read."""
    address = re.sub(r"[\t\n\r]", "", address.strip(_CONTROLS)).partition("#")[0]
    if not address or len(address) > MAX_ADDRESS or _TEMPLATE.search(address):
        return ""
    path, question_mark, query = address.partition("?")
    try:
        path = quote(path.replace("\\", "/"), safe="!$%&'()*+,-./:;=?@[]^_`{|}~")
        joined = urljoin(base, path + question_mark + query.replace(" ", "%20"))
        parts = urlsplit(joined)
    except ValueError:  # http://[/, or half a surrogate pair
        return ""
    is_address = parts.scheme == "file" or (parts.scheme in _SCHEMES and bool(parts.netloc))
    return joined if is_address and len(joined) <= MAX_ADDRESS else ""


def is_placeholder(address: str) -> bool:
    """Whether an address in `src` is known to stand for an image that is loaded later."""
    address = address.strip(_CONTROLS)
    if not address or address.startswith(("#", "?", "//:")) or _OTHER_SCHEME.match(address):
        return True
    return _PLACEHOLDER.search(_path(address).rpartition("/")[2]) is not None


def looks_like_image(address: str) -> bool:
    """Whether the path of an address has the extension of an image."""
    return _path(address).lower().endswith(tuple(f".{extension}" for extension in IMAGE_EXTENSIONS))


def candidates(srcset: str) -> Iterator[tuple[str, float]]:
    """(address, width or density) of each candidate of a `srcset`, as the HTML standard splits it."""
    position = 0
    while (match := _CANDIDATE.match(srcset, position)) is not None:
        address, descriptors, position = match[1], match[2], match.end()
        if address.endswith(","):  # the candidate has no descriptors
            address, descriptors, position = address.rstrip(","), "", match.end(1)
        size = _DESCRIPTOR.search(descriptors)
        if address:
            yield address, float(size[1]) if size else 1.0


def _of_srcset(srcset: str) -> list[str]:
    """The addresses of a `srcset`, the largest first."""
    return [address for address, _ in sorted(candidates(srcset), key=lambda candidate: -candidate[1])]


def _late_addresses(attributes: Mapping[str, str]) -> list[str]:
    """The addresses of all attributes for late loading, and of `srcset`."""
    sets, single = [], []
    for name, value in attributes.items():
        if name == "src" or name in _NOT_ADDRESSES or not _LATE.match(name) or not _may_be_address(value):
            continue
        if name.endswith("srcset") or _SIZED.search(value):
            sets += _of_srcset(value)
        elif _WIDTH.search(value):
            single += _of_widths(value, attributes.get("data-widths", ""))
        else:
            single.append(value)
    return [*sets, *single]


def _may_be_address(value: str) -> bool:
    """Whether a value may be an address or a `srcset`: not "true", "#zoom", "120", JSON or a sentence."""
    value = value.strip()
    if _is_data(value):
        return True
    if value.startswith(("#", "{", "[")) or not ("." in value or "/" in value):
        return False
    return looks_like_image(value) or _SIZED.search(value) is not None or not re.search(r"\s", value)


def _of_widths(template: str, widths: str) -> list[str]:
    """Shopify's `data-src` with {width}, for each of its `data-widths`, the largest first."""
    try:
        values = json.loads(widths)
    except (ValueError, RecursionError):
        return []
    numbers = {value for value in values if isinstance(value, int)} if isinstance(values, list) else set()
    largest = sorted(numbers, reverse=True)[:MAX_ADDRESSES]
    return [_WIDTH.sub(str(width), template) for width in largest] if len(template) <= MAX_ADDRESS else []


def _of_sources(sources: Sequence[Mapping[str, str]]) -> Iterator[str]:
    for attributes in sources:
        if attributes.get("type") != "image/svg+xml":
            yield from _late_addresses(attributes)
            yield attributes.get("src", "")


def _within_attributes(attributes: Mapping[str, str]) -> Iterator[str]:
    """What looks like the address of an image in any attribute, also within CSS or JSON."""
    for name, value in attributes.items():
        is_text = name in _NOT_ADDRESSES or name.startswith("aria-") or "title" in name or name.endswith("alt")
        if name == "style" or not (name == "src" or is_text):
            yield from filter(looks_like_image, _DELIMITERS.split(value.replace("\\/", "/")))


def _other_sizes(attributes: Mapping[str, str]) -> Iterator[str]:
    for name in _OTHER_SIZES:
        if (value := attributes.get(name)) and looks_like_image(value):
            yield value


def _original(address: str) -> str | None:
    """The image that a resizing address such as Next.js's /_next/image?url=%2Fa.jpg&w=640 was made from."""
    query = address.partition("?")[2]
    if not any(f"{name}=" in query for name in ("url", "src", "image")):
        return None
    fields = parse_qs(query, max_num_fields=None)
    return next((fields[name][0] for name in ("url", "src", "image") if name in fields), None)


def _absolute_all(base: str, addresses: Iterable[str]) -> list[str]:
    """The absolute addresses, each once; what is not an address is left out."""
    found = dict.fromkeys(absolute(base, address) for address in addresses)
    return [address for address in found if urlsplit(address).path.strip("/")]


def _is_data(address: str) -> bool:
    return address.lstrip()[:11].lower() == "data:image/"


def _path(address: str) -> str:
    return address.partition("#")[0].partition("?")[0].rstrip()
