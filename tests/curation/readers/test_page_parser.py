"""Pages that would take hours or all memory: linear time in what pages have much of, and limits for the rest."""

import time

import pytest

from kosmos_plugin.curation.page_documents import PageImage
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.readers.html import MAX_ELEMENTS, decode_html, parse_page
from kosmos_plugin.curation.readers.page_parser import TOO_SLOW, UNPARSABLE, PageParser

URL = "https://example.org/"
LINE = "<p>The old lighthouse stands on a rock in the middle of the bay, and ships have passed it for years.</p>"

# n → a page of which a thousand times more must not take much more than a thousand times longer.
MANY = {
    "images": lambda n: "<img src=x>" * n,
    "different images": lambda n: "".join(f"<a href={i}.jpg><img src={i}.png data-src={i}.gif></a>" for i in range(n)),
    "noscript": lambda n: "<img data-src=x><noscript><img src=x></noscript>" * n,
    "images in one noscript": lambda n: "<noscript>" + "<img src=x>" * n + "</noscript>",
    "images in one picture": lambda n: "<picture><source srcset=y>" + "<img src=x>" * n + "</picture>",
    "sources of one picture": lambda n: "<picture>" + "<source srcset=y>" * n + "<img></picture>",
    "candidates": lambda n: "<img srcset='" + ", ".join(f"{i}.jpg {i}w" for i in range(n)) + "'>",
    "commas": lambda n: "<img srcset='" + ", " * n + "'>",
    "a long attribute": lambda n: "<img src=# data-x='" + "a." * n + "'>",
    "links": lambda n: "<a href=/x>more</a> " * n,
    "lists": lambda n: "<ul><li>one <a href=/x>two</a> three</ul>" * n,
    "cells": lambda n: "<table>" + "<tr><td>one<td>two" * n + "</table>",
    "wide spaces": lambda n: "<b>\u3000" + "\u3000" * n + "x",
}


@pytest.mark.parametrize("kind", MANY)
def test_time_is_linear(kind):
    def seconds(n: int) -> float:
        page = LINE + MANY[kind](n)
        started = time.process_time()
        parse_page(page, URL)
        return time.process_time() - started

    seconds(10)
    small = min(seconds(1000) for _ in range(3))
    assert seconds(16_000) < 16 * 5 * small + 0.2  # quadratic: 256


@pytest.mark.slow
def test_a_hundred_thousand_images():
    parts = PageParser().parse(LINE + "<img src=x>" * 100_000, URL)
    assert sum(isinstance(part, PageImage) for part in parts) == 100_000


def test_declarations_of_a_charset_take_linear_time():
    started = time.process_time()
    decode_html(b"\xff" + b"<!--" * 250_000 + b"<meta a='" * 100_000)
    assert time.process_time() - started < 2


def test_a_page_over_the_limit_of_time_is_dropped_and_the_next_is_parsed():
    parser = PageParser(cpu_seconds=1)
    with pytest.raises(Dropped, match=TOO_SLOW):
        parser.parse("<p " + " ".join(f"a{i}" for i in range(100_000)) + ">x", URL)
    assert parser.parse(LINE, URL) == parse_page(LINE, URL)
    parser.close()


def test_a_page_over_the_limit_of_memory_is_dropped_and_the_next_is_parsed():
    parser = PageParser()
    open_elements = "".join(f"<b id={i}>" for i in range(8000))
    with pytest.raises(Dropped, match=UNPARSABLE):
        parser.parse(f"<p>{open_elements}x" + "<p>x" * 8000, URL)  # each paragraph opens them all again
    assert parser.parse(LINE, URL) == parse_page(LINE, URL)
    parser.close()


def test_pages_of_too_many_elements_are_dropped():
    with pytest.raises(Dropped, match="HTML of more than 500,000 elements"):
        parse_page("<br>" * (MAX_ELEMENTS + 1), URL)


def test_the_process_gives_what_the_parser_gives():
    page = f'<article>{LINE}<img srcset="a.jpg 1x, b.jpg 2x" alt="café \ue000"><p>“x” → y &#x1F600;</p></article>'
    parser = PageParser()
    assert parser.parse(page, URL) == parse_page(page, URL)
    parser.close()
