"""kosmos-prepare show: random documents of a data YAML as the model sees them, as one self-contained HTML page.

    kosmos-prepare show DATA.yaml --out page.html
    kosmos-prepare show --like train.sh --out page.html --stream interleaved --documents 20

The page shows text, decoded images, special tokens, and which tokens are in the loss. Binarized text is shown in rows,
as its documents follow each other without gaps. kosmos-inspect shows a real micro-batch, with documents packed
together.
"""

import argparse
import sys

from kosmos_plugin.errors import UserError
from kosmos_plugin.inspection.options import InputOptions, ShowOptions, add_training_options, training_options
from kosmos_plugin.options import add_options, parsed_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_training_options(parser, InputOptions)
    add_options(parser, ShowOptions)


def run(args: argparse.Namespace) -> None:
    """Write the page and print its table."""
    from kosmos_plugin.atomic import write_text
    from kosmos_plugin.inspection.page import as_html
    from kosmos_plugin.inspection.random_documents import documents_report
    from kosmos_plugin.reporting.tables import as_text

    options = parsed_options(args, ShowOptions)
    report = documents_report(*training_options(args, InputOptions), options)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, as_html(report))
    except OSError as error:
        raise UserError(f"Cannot write the page {options.out}: {error.strerror}.") from None
    print(as_text(report.tables[-1]))
    print(f"\nThe page is {options.out}", file=sys.stderr)
