"""HTML pages: one base template for all that the project writes. A page stands alone: no script, images inside.

A room's page is a template in its own `templates/` folder that begins with `{% extends "base.html" %}` and fills the
blocks `title`, `style` and `main`. `{% import "tables.html" as tables %}` brings `tables.table(table)`.
"""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image

_BASE = Path(__file__).parent / "templates"


def render(template: str | Path, **values: Any) -> str:
    """Render a page.

    Args:
        template: Path of the template's file.
        **values: What the template names. Every value is escaped.
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


def png_uri(image: torch.Tensor) -> str:
    """uint8 [3, H, W] → a PNG as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "image/png")


def data_uri(data: bytes, media_type: str) -> str:
    """Bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
