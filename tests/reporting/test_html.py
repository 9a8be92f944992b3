"""The base of all HTML pages: escaped, self-contained, accessible tables."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pytest
import torch
from PIL import Image

from kosmos_plugin.reporting import html
from kosmos_plugin.reporting.tables import Table

PAGE = """{% extends "base.html" %}
{% import "tables.html" as tables %}
{% block title %}{{ title }}{% endblock %}
{% block main %}<h1>{{ title }}</h1>{{ tables.table(table) }}{% endblock %}
"""
TABLE = Table("Counts", ("name", "number"), [("<b>bold</b>", "1,200"), ("plain", "7")], "A <note>.")


@pytest.fixture
def page(tmp_path) -> str:
    (tmp_path / "page.html").write_text(PAGE)
    return html.render(tmp_path / "page.html", title="<i>title</i>", table=TABLE)


class Cells(HTMLParser):
    """Parses a page: the attributes of header and data cells, and all opened tags."""

    def __init__(self, page: str):
        super().__init__()
        self.heads: list[dict] = []
        self.cells: list[dict] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag in ("th", "td"):
            (self.heads if tag == "th" else self.cells).append(dict(attributes))


def test_values_are_escaped(page):
    assert page.count("&lt;i&gt;title&lt;/i&gt;") == 2
    assert "<b>" not in page and "&lt;b&gt;bold" in page and "A &lt;note&gt;." in page


def test_a_page_is_self_contained_and_follows_the_system(page):
    tags = Cells(page).tags
    assert "script" not in tags and "link" not in tags and "@import" not in page
    assert '<meta name="color-scheme" content="light dark">' in page


def test_header_cells_say_what_they_head(page):
    cells = Cells(page)
    assert [head["scope"] for head in cells.heads] == ["col", "col", "row", "row"]
    assert [head.get("class") for head in cells.heads] == [None, "number", None, None]
    assert [cell["class"] for cell in cells.cells] == ["number", "number"]


def test_a_table_scrolls_and_can_be_reached_by_keyboard(page):
    assert '<div class="wide" tabindex="0" role="region" aria-label="Counts">' in page


def test_a_missing_value_is_an_error(tmp_path):
    (tmp_path / "page.html").write_text(PAGE)
    with pytest.raises(jinja2.UndefinedError):
        html.render(tmp_path / "page.html", table=TABLE)


def test_an_image_is_the_same_pixels():
    image = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    kind, _, data = html.png_uri(image).partition(",")
    decoded = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
    assert kind == "data:image/png;base64"
    assert torch.equal(torch.from_numpy(decoded).permute(2, 0, 1), image)


def test_every_template_of_the_package_extends_the_base():
    package = Path(html.__file__).parents[1]
    pages = [path for path in package.glob("**/templates/*.html") if path.parent.parent.name != "reporting"]
    assert len(pages) >= 2
    for path in pages:
        assert path.read_text(encoding="utf-8").startswith('{% extends "base.html" %}'), path
