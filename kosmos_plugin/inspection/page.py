"""The report of `inspection` as an HTML page that stands alone: its images are inside, and it has no script."""

import base64
import html
import importlib.resources
import io
import string
from collections.abc import Iterable

import torch
from PIL import Image

from kosmos_plugin.inspection.micro_batch import Report, Row, Run, Token, fold, has_target_apart
from kosmos_plugin.reporting.tables import Table


def as_html(report: Report) -> str:
    """The report as one page that stands alone: its images are inside, and it has no script."""
    page = importlib.resources.files("kosmos_plugin.inspection").joinpath("page.html").read_text(encoding="utf-8")
    return string.Template(page).substitute(
        title=html.escape(report.title),
        where=html.escape(report.where),
        tables="\n".join(_table_as_html(table) for table in report.tables),
        rows="\n".join(_row_as_html(row, report.images) for row in report.rows),
        note=html.escape(report.note),
    )


def _table_as_html(table: Table) -> str:
    numeric = table.numeric

    def line(tag: str, cells: Iterable[str]) -> str:
        classes = (' class="number"' if right else "" for right in numeric)
        return "".join(f"<{tag}{c}>{html.escape(cell)}</{tag}>" for c, cell in zip(classes, cells, strict=True))

    body = "".join(f"<tr>{line('td', cells)}</tr>\n" for cells in table.lines)
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    return (
        f"<h2>{html.escape(table.title)}</h2>\n<div class=scroll><table><thead><tr>{line('th', table.header)}</tr>"
        f"</thead>\n<tbody>{body}</tbody></table></div>{note}"
    )


def _row_as_html(row: Row, images: torch.Tensor) -> str:
    parts = []
    for part in row.parts:
        body = "".join(_run_as_html(run, images) for run in part.runs)
        label = " · ".join(filter(None, (html.escape(part.label), html.escape(part.name))))
        shade = "padding" if not part.number else "odd" if part.number % 2 else "even"
        parts.append(
            f'<div class="part {shade}" title="document_id {part.attention}"><p class=label>{label}</p>{body}</div>'
            if part.number
            else f'<div class="part padding">{body}</div>'
        )
    return (
        f'<section id="row-{row.number}"><h3>Row {row.number} <span>{html.escape(row.label)}</span></h3>\n'
        + "<div class=row>\n"
        + "\n".join(parts)
        + "</div></section>"
    )


def _run_as_html(run: Run, images: torch.Tensor) -> str:
    apart = "".join(_target_as_html(token) for token in run.tokens if has_target_apart(token))
    if run.kind == "tokens":
        return "".join(_token_as_html(token) for token in run.tokens)
    if run.kind == "padding":
        return f"<span class=fold>[{fold(run)}]</span>{apart}"
    first, last = run.tokens[0].position, run.tokens[-1].position
    return (
        f'<figure title="positions {first} to {last}: the embeddings of image {run.image} take their places">'
        f'<img src="{_data_uri(images[run.image])}" alt="image {run.image}"><figcaption>{fold(run)}</figcaption>'
        f"</figure>{apart}"
    )


def _token_as_html(token: Token) -> str:
    asked = "nothing" if token.target is None else f"{token.target_text!r} ({token.target})"
    title = f"position {token.position} · token {token.id} · {'counted' if token.counted else 'not counted'}"
    classes = " ".join(["t"] + ["special"] * token.special + ["counted"] * token.counted)
    title = html.escape(f"{title} · asked for next: {asked}")
    apart = _target_as_html(token) if has_target_apart(token) else ""
    return f'<span class="{classes}" title="{title}">{html.escape(token.text)}</span>{apart}'


def _target_as_html(token: Token) -> str:
    title = f"position {token.position} · target {token.target} · counted, though it is not the next token of the row"
    return f'<span class="t counted apart" title="{title}">→{html.escape(token.target_text)}</span>'


def _data_uri(image: torch.Tensor) -> str:
    """uint8 [3, S, S] as a PNG inside the page."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
