"""The report on a batch as text for a terminal."""

import itertools
import re
import textwrap

from kosmos_plugin.inspection.micro_batch import Part, Report, Row, readable
from kosmos_plugin.reporting import tables
from kosmos_plugin.vocabulary import SPECIAL_TOKENS

# Text that spells a special token gets a backslash.
_SPELLED = re.compile("<(?=(?:s|/s|pad|unk|" + "|".join(symbol.strip("<>") for symbol in SPECIAL_TOKENS) + ")>)")
# Marks in the text until it is wrapped: start and end of tokens that are not in the loss, and a space that must not
# become a line break. The text itself never contains them (see `readable`).
_START, _END, _SPACE = "\x01", "\x02", "\xa0"
_PLAIN = str.maketrans({_START: "⟦", _END: "⟧", _SPACE: " "})
_COLOR = str.maketrans({_START: "\x1b[2m", _END: "\x1b[0m", _SPACE: " "})


def as_text(report: Report, color: bool = False, width: int = 100) -> str:
    """The report for a terminal.

    Args:
        report: The report.
        color: Dim the tokens that are not in the loss, instead of putting them in brackets.
        width: Columns of the terminal.
    """
    marks = _COLOR if color else _PLAIN
    example = f"{_START}like this{_END}".translate(marks)
    legend = (
        f"Tokens {example} are not in the loss, and neither are positions shown as [n × …]. [→ …] is a target that is "
        "not the row's next token. A backslash marks text that spells a special token."
    )
    blocks = [f"{report.title}\n{report.where}", *map(tables.as_text, report.tables), textwrap.fill(legend, width)]
    blocks += [_row_as_text(row, marks, width) for row in report.rows]
    return "\n\n".join([*blocks, *filter(None, [report.note])])


def _row_as_text(row: Row, marks: dict[int, str], width: int) -> str:
    lines = [f"Row {row.number} · {row.label}"]
    for part in row.parts:
        if not part.number:
            lines.append(f"  ─ {_flow(part)}".translate(_PLAIN))
            continue
        lines.append("  " + " · ".join(filter(None, (f"─ {part.label}", readable(part.name)))))
        body = textwrap.wrap(_flow(part), width - 4, break_on_hyphens=False, replace_whitespace=False)
        lines += [f"    {line}".translate(marks) for line in body]
    return "\n".join(lines)


def _flow(part: Part) -> str:
    """A part's text in reading order, with images and padding folded and the marks in place."""
    flow = []  # (text, whether to mark it as not in the loss, whether it is ordinary text)
    for run in part.runs:
        if run.kind != "tokens":
            flow.append((f" {f'[{run.summary}]'.replace(' ', _SPACE)} ", False, False))
        for token in run.tokens:
            if run.kind == "tokens":
                flow.append((f" {token.text} " if token.special else token.text, not token.in_loss, not token.special))
            if token.has_other_target:
                flow.append((f" [→{_SPACE}{token.target_text.strip()}] ", False, False))
    joined = [
        ("".join(text for text, _, _ in group), *key) for key, group in itertools.groupby(flow, lambda item: item[1:])
    ]
    escaped = [(_SPELLED.sub(r"\\<", text) if is_text else text, mark) for text, mark, is_text in joined]
    marked = ""
    for mark, group in itertools.groupby(escaped, lambda item: item[1]):
        text = "".join(text for text, _ in group)
        marked += f" {_START}{text.strip()}{_END} " if mark and text.strip() else text
    return re.sub(" +", " ", marked).strip()
