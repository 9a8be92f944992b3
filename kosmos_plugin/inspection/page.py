"""The report on a batch as an HTML page."""

from pathlib import Path

from kosmos_plugin.inspection.micro_batch import Report
from kosmos_plugin.reporting.html import png_uri, render

TEMPLATE = Path(__file__).parent / "templates" / "micro_batch.html"


def as_html(report: Report) -> str:
    """The report as one self-contained page, with the images of its rows."""
    shown = {image for row in report.rows for image in row.images}
    return render(TEMPLATE, report=report, images={image: png_uri(report.images[image]) for image in shown})
