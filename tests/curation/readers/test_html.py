"""HTML → texts and images in reading order, without boilerplate, and with single characters between elements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kosmos_plugin.curation.page_documents import PageImage
from kosmos_plugin.curation.readers.html import decode_html, parse_page

URL = "https://example.org/guide/page.html"
LINE = "The old lighthouse stands on a rock in the middle of the bay, and ships have passed it for two hundred years."


def parsed(body: str) -> list[str | PageImage]:
    return parse_page(f"<html><body><article>{body}</article></body></html>", URL)


@pytest.mark.parametrize(
    "menu, text",
    [
        ("<b>Filters</b> → <b>Enhance</b>", "Filters → Enhance"),
        ("<b>Filters</b>&rarr;<b>Enhance</b>", "Filters→Enhance"),
        ("<b>Filters</b> &#8594; <b>Enhance</b>", "Filters → Enhance"),
        ("“<b>Filters</b>”", "“Filters”"),
        ("<b>Filters</b> – <b>Enhance</b>", "Filters – Enhance"),
    ],
)
def test_a_single_character_between_elements_is_kept(menu, text):
    assert parsed(f"<p>{LINE}</p><p>Choose {menu}</p>") == [f"{LINE}\nChoose {text}"]


def test_navigation_and_hidden_text_are_left_out():
    page = f'<nav><a href="/">Home</a> <a href="/x">More</a></nav><p>{LINE}</p><p hidden>secret</p><script>x()</script>'
    page += '<map><area alt="a rock" href="/rock"></map><svg><title>icon</title></svg><object>no plug-in</object>'
    head = "<head><title>Lighthouses</title><style>p {}</style></head>"
    assert parse_page(f"<html>{head}<body>{page}<footer>Imprint</footer></body></html>", URL) == [LINE]


def test_a_figure_with_its_caption():
    figure = '<figure class="wp-block-image"><a href="/a.png"><img src="/a.png" alt="rock"></a>' + (
        "<figcaption>The rock at night</figcaption></figure>"
    )
    image = PageImage("https://example.org/a.png", "rock")
    assert parsed(f"<p>{LINE}</p>{figure}<p>{LINE}</p>") == [LINE, image, f"The rock at night\n{LINE}"]


paragraphs = st.lists(st.sampled_from(LINE.split()), min_size=12, max_size=20).map(" ".join)


@given(parts=st.lists(st.one_of(paragraphs, st.integers(0, 99)), min_size=1, max_size=12))
def test_the_order_of_texts_and_images_is_that_of_the_page(parts):
    """In the expected result, numbers stand for images. A page without text would have no content."""
    parts = [LINE, *parts]
    body = "".join(f"<p>{p}</p>" if isinstance(p, str) else f'<figure><img src="{p}.png"></figure>' for p in parts)
    read = []
    for part in parsed(body):
        read += part.split("\n") if isinstance(part, str) else [int(part.url.rpartition("/")[2].removesuffix(".png"))]
    assert read == parts


@pytest.mark.parametrize(
    "tag",
    [
        '<img src="/placeholder.gif" data-src="/a.jpg">',
        '<img src="data:image/svg+xml,%3Csvg%3E" data-lazy-src="/a.jpg">',
        '<img src="/placeholder.gif" data-original="/a.jpg">',
        '<noscript><img src="/a.jpg"></noscript>',
        '<amp-img src="/a.jpg" width="1" height="2"></amp-img>',
        '<div class="gallery"><dl><dt><img src="/a.jpg"></dt></dl></div>',
        '<ul id="gallery-1" class="wp-block-gallery"><li><figure><img src="/a.jpg"></figure></li></ul>',
        '<ul><li><img src="/a.jpg"></li></ul>',
        '<div class="separator" style="clear: both;"><a href="/a.jpg" imageanchor="1"><img src="/a.jpg"></a></div>',
    ],
)
def test_images_that_come_late_or_in_galleries(tag):
    post = f'<div class="post hentry"><div class="post-body">{LINE}{tag}<p>{LINE}</p></div></div>'
    assert parsed(post) == [LINE, PageImage("https://example.org/a.jpg"), LINE]


@pytest.mark.parametrize(
    "around", ["{}", "<div>{}</div>", "<main><div>{}</div></main>", "<div><div><div>{}</div></div></div>"]
)
def test_lists_are_text_and_menus_are_not(around):
    items = ["Take two large ripe bananas and mash them", "Stir well"]
    ingredients = f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
    menu = '<ul class="menu"><li><a href="/">Home</a></li><li><a href="/x">More of it</a></li></ul>'
    body = around.format(f"{menu}<p>{LINE}</p>{ingredients}<p>{LINE}</p>")
    assert parse_page(f"<html><body>{body}</body></html>", URL) == ["\n".join([LINE, *items, LINE])]


@pytest.mark.parametrize("charset", [None, "utf-8", "foo-bar", "utf8mb4", "hex"])
def test_an_unknown_charset_is_ignored(charset):
    assert decode_html("<p>“café”</p>".encode(), charset) == "<p>“café”</p>"
