"""The addresses of images that are loaded late, in the ways of real scripts, site builders and feeds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmos_plugin.curation.page_documents import PageImage
from kosmos_plugin.curation.readers.html import parse_page
from kosmos_plugin.curation.readers.image_addresses import absolute, candidates

URL = "https://example.org/guide/page.html"
LINE = "The old lighthouse stands on a rock in the middle of the bay, and ships have passed it for two hundred years."
GIF = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


def images(tag: str, head: str = "") -> list[list[str]]:
    """The addresses of each image of a page, those on example.org without it."""
    page = f"<html><head>{head}</head><body><article><p>{LINE}</p>{tag}<p>{LINE}</p></article></body></html>"
    found = [[part.url, *part.other_urls] for part in parse_page(page, URL) if isinstance(part, PageImage)]
    return [[url.removeprefix("https://example.org") for url in urls] for urls in found]


PATTERNS = {
    "lazysizes": ('<img src="{gif}" data-src="/a.jpg" class="lazyload">', ["/a.jpg"]),
    "lazysizes with a size": ('<img src="/low.jpg" data-src="/a.jpg">', ["/a.jpg", "/low.jpg"]),
    "lazysizes srcset": ('<img data-sizes="auto" data-srcset="/s.jpg 300w, /l.jpg 900w">', ["/l.jpg", "/s.jpg"]),
    "lozad": ('<img class="lozad" data-src="/a.jpg">', ["/a.jpg"]),
    "lozad picture": (
        '<picture class="lozad"><source srcset="/m.webp 1x, /l.webp 2x"><img></picture>',
        ["/l.webp", "/m.webp"],
    ),
    "picture with data-srcset": (
        '<picture><source data-srcset="/a.webp"><source data-srcset="/a.jpg"><img src="{gif}"></picture>',
        ["/a.webp", "/a.jpg"],
    ),
    "WordPress, a3 and rocket": (
        '<img src="//example.org/wp-content/plugins/a3/lazy_placeholder.gif" data-lazy-src="/a.jpg" '
        'data-lazy-srcset="/a.jpg 300w, /a-1024.jpg 1024w"><noscript><img src="/a.jpg"></noscript>',
        ["/a-1024.jpg", "/a.jpg"],
    ),
    "noscript": (
        '<img src="{gif}"><noscript><img src="/a.jpg"></noscript>',
        ["/a.jpg"],
    ),
    "WordPress.com": (
        '<img src="/a.jpg?w=300" data-orig-file="/a.jpg" data-image-title="b.jpg" data-permalink="/a/">',
        ["/a.jpg?w=300", "/a.jpg"],
    ),
    "Squarespace": ('<img data-src="/a.jpg" data-image="/a.jpg" data-load="false">', ["/a.jpg"]),
    "Shopify": (
        '<img src="/a_300x.jpg" data-src="/a_{width}x.jpg?v=1" data-widths="[180, 720, 360]">',
        ["/a_720x.jpg?v=1", "/a_360x.jpg?v=1", "/a_180x.jpg?v=1", "/a_300x.jpg"],
    ),
    "Shopify without widths": ('<img src="/a_300x.jpg" data-src="/a_{width}x.jpg">', ["/a_300x.jpg"]),
    "a template": ('<img src="/a.jpg" data-src="{{ image.url }}">', ["/a.jpg"]),
    "a template of JavaScript": ('<img src="/a.jpg" data-src="${image.url}">', ["/a.jpg"]),
    "a GUID": (
        '<img src="/media/{110D559F-DEA5}.ashx">',
        ["/media/{110D559F-DEA5}.ashx"],
    ),
    "a data: address comes late": ('<img src="/a.jpg" data-src="{gif}">', ["/a.jpg"]),
    "Next.js": (
        '<img src="{gif}" srcset="/_next/image?url=%2Fa.jpg&amp;w=640 1x, /_next/image?url=%2Fa.jpg&amp;w=1200 2x">',
        ["/_next/image?url=%2Fa.jpg&w=1200", "/_next/image?url=%2Fa.jpg&w=640", "/a.jpg"],
    ),
    "Blogger": ('<a href="/s1600/a.jpg"><img src="/s320/a.jpg"></a>', ["/s320/a.jpg", "/s1600/a.jpg"]),
    "a link to a page": ('<a href="/post/"><img src="/a.jpg"></a>', ["/a.jpg"]),
    "AMP": ('<amp-img src="/a.jpg" srcset="/a.jpg 640w, /b.jpg 320w"></amp-img>', ["/a.jpg", "/b.jpg"]),
    "AMP animation": ('<amp-anim src="/a.gif"></amp-anim>', ["/a.gif"]),
    "spacer.gif": ('<img src="/images/spacer.gif" data-hi-res-src="/a.jpg">', ["/a.jpg"]),
    "a number sign": ('<img src="#" data-full="/a.jpg">', ["/a.jpg"]),
    "about:blank": ('<img src="about:blank" data-url="/a.jpg">', ["/a.jpg"]),
    "javascript:": ('<img src="javascript:void(0)" realsrc="/a.jpg">', ["/a.jpg"]),
    "an unknown attribute": ('<img src="/blank.png" data-x="/a.jpg?v=2" alt="b.jpg" title="c.jpg">', ["/a.jpg?v=2"]),
    "Discuz": ('<img src="static/none.gif" file="/a.jpg" zoomfile="/a.jpg">', ["/a.jpg"]),
    "JSON": ('<img src="{gif}" data-dynamic=\'{"https:\\/\\/example.org\\/a.jpg":[500,500]}\'>', ["/a.jpg"]),
    "CSS": ('<img src="{gif}" style="background: url(\'/a.jpg\')">', ["/a.jpg"]),
    "no address": (
        '<img src="/a.jpg" data-lazy="true" data-src-id="7" data-original-title="A. B">',
        ["/a.jpg"],
    ),
    "backslashes": ('<img src="\\images\\a.jpg">', ["/images/a.jpg"]),
    "spaces and line ends": ('<img src=" /my image\n.jpg\t">', ["/my%20image.jpg"]),
    "other letters": ('<img src="/café.jpg?x=é">', ["/caf%C3%A9.jpg?x=é"]),
    "relative to the scheme": ('<img src="//cdn.example.net/a.jpg">', ["https://cdn.example.net/a.jpg"]),
    "a fragment": ('<img src="a.jpg#top">', ["/guide/a.jpg"]),
    "commas in a srcset": (
        '<img srcset="/w_300,h_200/a.jpg 300w,/w_900,h_600/a.jpg 900w">',
        ["/w_900,h_600/a.jpg", "/w_300,h_200/a.jpg"],
    ),
    "a data: address alone": ('<img src="{gif}">', [GIF]),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_of_late_loading(name):
    tag, expected = PATTERNS[name]
    assert images(tag.replace("{gif}", GIF)) == [expected]


def test_images_without_an_address_are_left_out():
    assert images('<img alt="a.jpg"><img src="http://["><img src=""><img src="{{ url }}">') == []


@pytest.mark.parametrize("base", ["https://cdn.example.net/", " //cdn.example.net ", "https://cdn.example.net/x.html"])
def test_the_base_of_addresses(base):
    assert images('<img src="a.jpg">', f'<base target=_top><base href="{base}">') == [["https://cdn.example.net/a.jpg"]]


def test_an_address_that_different_images_share_is_a_placeholder():
    shared = "".join(f'<p>{LINE}</p><img src="/grey-box.png" data-src="/{n}.jpg">' for n in range(3))
    assert images(shared) == [["/0.jpg"], ["/1.jpg"], ["/2.jpg"]]


@given(st.lists(st.tuples(st.text("ab,/.?=", min_size=1).map(lambda s: f"x{s}y"), st.integers(1, 5000)), min_size=1))
def test_candidates_are_those_that_were_written(parts):
    written = ", ".join(f"{address} {width}w" for address, width in parts)
    assert list(candidates(written)) == [(address, float(width)) for address, width in parts]


@given(st.text(max_size=60))
def test_every_address_is_absolute_or_nothing(address):
    assert absolute(URL, address).partition(":")[0] in ("", "http", "https", "file", "ftp")
