"""HTML → texts and images in reading order: addresses, what is no content, and signs between elements."""

import pytest

from kosmos_plugin.curation.web_pages.html import PageImage, parse_page

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
def test_a_sign_between_elements_stays(menu, text):
    assert parsed(f"<p>{LINE}</p><p>Choose {menu}</p>") == [f"{LINE}\nChoose {text}"]


def test_navigation_and_hidden_text_is_left_out():
    page = f'<nav><a href="/">Home</a> <a href="/x">More</a></nav><p>{LINE}</p><p hidden>secret</p><script>x()</script>'
    assert parse_page(f"<html><body>{page}<footer>Imprint</footer></body></html>", URL) == [LINE]


@pytest.mark.parametrize(
    "tag, url",
    [
        ('<img src="a.png">', "https://example.org/guide/a.png"),
        ('<img src="/a.png#top">', "https://example.org/a.png"),
        ('<img src="//cdn.example.org/a.png">', "https://cdn.example.org/a.png"),
        ('<img src="data:image/gif;base64,AA" data-src="late.jpg">', "https://example.org/guide/late.jpg"),
        ('<img srcset="small.jpg 1x, large.jpg 2x">', "https://example.org/guide/small.jpg"),
        ('<picture><source srcset="a.webp"><img></picture>', "https://example.org/guide/a.webp"),
    ],
)
def test_where_the_image_of_a_page_is(tag, url):
    assert parsed(f"<p>{LINE}</p>{tag}<p>{LINE}</p>") == [LINE, PageImage(url), LINE]


def test_addresses_are_relative_to_the_base_of_the_page():
    page = f'<html><head><base href="/images/"></head><body><p>{LINE}</p><img src="a.png" alt="rock"></body></html>'
    assert parse_page(page, URL) == [LINE, PageImage("https://example.org/images/a.png", "rock")]
