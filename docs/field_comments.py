"""An extension of Griffe for the API pages: the comment beside a field, or just above it, is its description."""

import re
from typing import Any

import griffe

NOT_A_DESCRIPTION = ("noqa", "type:", "fmt:", "----")


class FieldComments(griffe.Extension):
    """Use comments as docstrings of class attributes."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Set the docstring of a class attribute that has none."""
        if attr.docstring is None and attr.parent is not None and attr.parent.is_class and attr.lineno:
            comment = field_comment(attr.lines_collection[attr.filepath], attr.lineno, attr.endlineno or attr.lineno)
            if comment:
                attr.docstring = griffe.Docstring(comment, parent=attr)


def field_comment(lines: list[str], first: int, last: int) -> str:
    """The comment of the field at lines `first` to `last`, counted from 1; "" if there is none."""
    if beside := re.search(r"  # (.+)$", lines[last - 1]):
        comment = beside[1]
    else:
        above: list[str] = []
        while first > 1 and (line := lines[first - 2].strip()).startswith("# "):
            above.insert(0, line.removeprefix("# "))
            first -= 1
        comment = " ".join(above)
    return "" if comment.startswith(NOT_A_DESCRIPTION) else comment
