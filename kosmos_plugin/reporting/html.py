"""HTML pages from one base template. They are self-contained: images are embedded, and there are no scripts.

A page is a template that starts with `{% extends "base.html" %}` and fills the blocks `title`, `style` and `main`.
`{% import "tables.html" as tables %}` provides `tables.table(table)`.
"""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from PIL import Image

if TYPE_CHECKING:
    import torch

_BASE = Path(__file__).parent / "templates"


def render(template: str | Path, **values: Any) -> str:
    """Render a page.

    Args:
        template: Path of the template.
        **values: The template's variables, which are escaped. A missing one is an error.
    """
    template = Path(template)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _BASE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(values)


def png_uri(image: "torch.Tensor") -> str:
    """An image, uint8 [3, H, W], as the data URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "image/png")


def data_uri(data: bytes, media_type: str) -> str:
    """Bytes as a data URI of `media_type`."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
