"""A micro-batch in words and as a page: what the model is really given, and what it is asked for.

    Batch ─ describe ─→ rows ─→ parts (documents, padding) ─→ runs (tokens, one image's slots, padding) ─→ tokens
                         └─ Report (with the tables of streams and of the batch) ─→ as_text | as_html (inspection.page)

Everything is read off the Batch's tensors alone, so a mistake on the way to them shows.
"""

import itertools
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kosmos_plugin.data.batch import Batch
from kosmos_plugin.data.mixture import Mixture
from kosmos_plugin.data.order import BLOCK
from kosmos_plugin.data.packing import PackedRow
from kosmos_plugin.reporting import tables
from kosmos_plugin.reporting.tables import Table
from kosmos_plugin.vocabulary import SPECIAL_TOKENS, Vocabulary

_SPELLED = re.compile("<(?=(?:s|/s|pad|unk|" + "|".join(symbol.strip("<>") for symbol in SPECIAL_TOKENS) + ")>)")
# Marks in the text for a terminal until it is wrapped: begin and end of what the loss does not count, and a space that
# is no place for a new line. Text itself never holds them (see `_readable`).
_BEGIN, _END, _SPACE = "\x01", "\x02", "\xa0"
_PLAIN = str.maketrans({_BEGIN: "⟦", _END: "⟧", _SPACE: " "})
_COLOR = str.maketrans({_BEGIN: "\x1b[2m", _END: "\x1b[0m", _SPACE: " "})


@dataclass(frozen=True, slots=True)
class Token:
    """A position of a row."""

    position: int
    id: int
    text: str  # readable: a piece with its space, or a special token such as <image>
    special: bool
    counted: bool  # the position before has it as its target: the model is asked for it
    target: int | None  # the token the model is asked for from here; None where the loss counts nothing
    target_text: str
    target_follows: bool  # the target is the row's next token, as everywhere but at the end of a row of text


@dataclass(frozen=True)
class Run:
    """Neighboring positions of one kind: "tokens", "image" (the slots of one image) or "padding"."""

    kind: str
    tokens: tuple[Token, ...]
    image: int = -1  # its number in the batch


@dataclass(frozen=True)
class Part:
    """A document, or what of it is in the row; `number` counts from 1, and 0 is padding."""

    number: int
    attention: int  # its document_id: it sees the parts of the row that have the same
    name: str
    runs: tuple[Run, ...]
    whole: tuple[bool, bool]  # begins with <s>, ends with </s>

    @property
    def label(self) -> str:
        if not self.number:
            return "padding"
        begin, end = self.whole
        notes = ([] if begin else ["begins before this row"]) + ([] if end else ["goes on after it"])
        return f"document {self.number}" + (f" ({', '.join(notes)})" if notes else "")


@dataclass(frozen=True)
class Row:
    number: int
    stream: str
    parts: tuple[Part, ...]

    @property
    def documents(self) -> list[Part]:
        return [part for part in self.parts if part.number]

    @property
    def tokens(self) -> list[Token]:
        return [token for part in self.parts for run in part.runs for token in run.tokens]

    @property
    def filled(self) -> int:
        return sum(len(run.tokens) for part in self.documents for run in part.runs)

    @property
    def images(self) -> list[int]:
        return [run.image for part in self.parts for run in part.runs if run.kind == "image"]

    @property
    def counted(self) -> int:
        return sum(token.target is not None for token in self.tokens)

    @property
    def attention(self) -> str:
        """Whether the documents of the row see each other, in words."""
        groups = [part.attention for part in self.documents]
        if len(groups) < 2:
            return "one document" if groups else "no document"
        seen = {1: "which see each other", len(groups): "which do not see each other"}
        return f"{len(groups)} documents, {seen.get(len(set(groups)), f'attention groups {groups}')}"

    @property
    def label(self) -> str:
        filled = f"{self.filled:,} of {len(self.tokens):,} positions"
        images = f"{len(self.images)} image{'' if len(self.images) == 1 else 's'}"
        return f"{self.stream} · {self.attention} · {filled} · {images} · {self.counted:,} counted"


def describe(batch: Batch, vocabulary: Vocabulary, streams: Sequence[str], names: Sequence[dict] = ()) -> list[Row]:
    """The rows of `batch`. `streams` are the streams' names; `names[b]`, if given, {position: the name of what begins
    there} in row b (`names_of`)."""
    tokens, targets = batch["tokens"].tolist(), batch["targets"].tolist()
    slots, ids = batch["image_slots"].numpy(), batch["document_ids"].numpy()
    slots_per_image = int(slots.sum()) // max(len(batch["images"]), 1)
    images = np.where(slots, (slots.cumsum().reshape(slots.shape) - 1) // max(slots_per_image, 1), -1).tolist()
    specials = {vocabulary.bos, vocabulary.pad, vocabulary.eos, vocabulary.unk}
    specials |= set(range(vocabulary.image_slot, vocabulary.image_slot + len(SPECIAL_TOKENS)))

    def text(token: int) -> str:
        return vocabulary.symbol(token) if token in specials else _readable(vocabulary.symbol(token))

    def row_tokens(b: int) -> list[Token]:
        shown, asked_for = [], False
        for i, (token, target) in enumerate(zip(tokens[b], targets[b], strict=True)):
            counts = target != vocabulary.pad
            follows = counts and i + 1 < len(tokens[b]) and tokens[b][i + 1] == target and not slots[b, i + 1]
            special, target_text = token in specials, text(target) if counts else ""
            target = target if counts else None
            shown.append(Token(i, token, text(token), special, asked_for, target, target_text, follows))
            asked_for = follows
        return shown

    def part(number: int, positions: list[int], row: list[Token], b: int) -> Part:
        runs = []
        for image, group in itertools.groupby(positions, lambda i: images[b][i]):
            kind = "padding" if not number else "tokens" if image < 0 else "image"
            runs.append(Run(kind, tuple(row[i] for i in group), image))
        first, last = positions[0], positions[-1]
        whole = (tokens[b][first] == vocabulary.bos, tokens[b][last] == vocabulary.eos)
        return Part(number, int(ids[b, first]), names[b].get(first, "") if names else "", tuple(runs), whole)

    rows = []
    for b, stream in enumerate(batch["streams"].tolist()):
        changes = np.diff(ids[b], prepend=0) != 0
        begins = (ids[b] > 0) & (changes | (np.array(tokens[b]) == vocabulary.bos))
        numbers = np.where(ids[b] > 0, begins.cumsum(), 0).tolist()
        shown = row_tokens(b)
        grouped = itertools.groupby(range(len(numbers)), lambda i, numbers=numbers: numbers[i])
        parts = tuple(part(number, list(positions), shown, b) for number, positions in grouped)
        rows.append(Row(b, streams[stream], parts))
    return rows


def names_of(batch: Batch, packed: Sequence[PackedRow], root: str) -> list[dict[int, str]]:
    """For `describe`: where each sample begins, and its name (relative to the folder `root`).

    A row that lost a sample to a broken image has no names: which sample it was cannot be told from the batch.
    """
    names: list[dict[int, str]] = [{} for _ in batch["tokens"]]
    for row, filled, named in zip(packed, (batch["document_ids"] > 0).sum(dim=1).tolist(), names, strict=False):
        begins = itertools.accumulate((len(sample) for sample in row.samples), initial=0)
        if row.num_tokens == filled:
            named.update(
                (begin, sample.id.removeprefix(root)) for begin, sample in zip(begins, row.samples, strict=False)
            )
    return names


def _readable(piece: str) -> str:
    """A piece as text: `▁` is its space, and what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in piece.replace("▁", " "))


def first_rows_of_each_stream(rows: Sequence[Row], limit: int) -> tuple[list[Row], str]:
    """At most `limit` rows of each stream, and a note on how many are left out."""
    streams: dict[str, list[Row]] = {}
    for row in rows:
        streams.setdefault(row.stream, []).append(row)
    left_out = [f"{len(of) - limit} of {stream}" for stream, of in streams.items() if len(of) > limit]
    most = max(map(len, streams.values()))
    note = f"Rows not shown: {', '.join(left_out)}. --rows {most} shows all." if left_out else ""
    return [row for of in streams.values() for row in of[:limit]], note


def stream_table(mixture: Mixture) -> Table:
    """The streams of a split and their corpora."""
    lines = []
    for stream in mixture.streams:
        config, text = stream.config, stream.config.kind == "text"
        each = f"{config.sequences_per_update:,} {'rows' if text else 'documents'}"
        see = "see each other" if config.cross_document_attention else "apart"
        for i, (name, corpus) in enumerate(zip(stream.names, stream.corpora, strict=True)):
            number = sum(len(part.items) for part in corpus.datasets) if text else len(corpus)
            share = f"{stream.interleaving.counts[i] / BLOCK:.1%}" if stream.shuffle else "in order"
            lines.append((config.name, config.kind, name, f"{number:,}", share, each, see))
        if not stream.corpora:
            lines.append((config.name, config.kind, "none in this split", "0", "", each, see))
    header = ("stream", "kind", "corpus", "documents", "share", "an update takes", "packed documents")
    return Table("Streams", header, lines, f"An epoch is {len(mixture):,} updates.")


def batch_table(rows: Sequence[Row], streams: Sequence[str]) -> Table:
    """The micro-batch in numbers, by stream."""

    def line(name: str, rows: list[Row]) -> tuple[str, ...]:
        filled, positions = sum(row.filled for row in rows), sum(len(row.tokens) for row in rows)
        share = f"{filled / positions:.1%}" if positions else ""
        numbers = (len(row.documents) for row in rows), (len(row.images) for row in rows), (row.counted for row in rows)
        documents, images, counted = (f"{sum(number):,}" for number in numbers)
        return name, f"{len(rows):,}", documents, f"{filled:,}", share, images, counted

    lines = [line(stream, [row for row in rows if row.stream == stream]) for stream in streams]
    header = ("stream", "rows", "documents", "positions", "filled", "images", "counted targets")
    return Table("This micro-batch", header, [*lines, line("all", list(rows))])


@dataclass(frozen=True)
class Report:
    title: str
    where: str  # which split, update, rank and turn
    tables: list[Table]
    rows: list[Row]  # those to show
    images: torch.Tensor  # uint8 [N, 3, S, S], of the whole batch
    note: str = ""  # on what is not shown


def as_text(report: Report, color: bool = False, width: int = 100) -> str:
    """The report for a terminal; with `color`, what the loss does not count is dim."""
    uncounted = f"{_BEGIN}like this{_END}".translate(_COLOR if color else _PLAIN)
    blocks = [f"{report.title}\n{report.where}"]
    blocks += [tables.as_text(table) for table in report.tables]
    blocks.append(
        f"The loss does not count tokens {uncounted} nor folded positions [n × …]; [→ …] is a target that is not the\n"
        f"row's next token; a backslash marks text that spells a special token."
    )
    for row in report.rows:
        lines = [f"Row {row.number} · {row.label}"]
        for part in row.parts:
            if not part.number:
                lines.append(f"  ─ {_flow(part)}".translate(_PLAIN))
                continue
            lines.append("  " + " · ".join(filter(None, (f"─ {part.label}", _readable(part.name)))))
            body = textwrap.wrap(_flow(part), width - 4, break_on_hyphens=False, replace_whitespace=False)
            lines += [f"    {line}".translate(_COLOR if color else _PLAIN) for line in body]
        blocks.append("\n".join(lines))
    return "\n\n".join([*blocks, *filter(None, [report.note])])


def _flow(part: Part) -> str:
    """A part's text in reading order, with folds, and _BEGIN and _END around what does not count."""
    flow = []  # (text, whether to mark it as not counted, whether it is ordinary text)
    for run in part.runs:
        if run.kind != "tokens":
            flow.append((f" {f'[{fold(run)}]'.replace(' ', _SPACE)} ", False, False))
        for token in run.tokens:
            if run.kind == "tokens":
                flow.append((f" {token.text} " if token.special else token.text, not token.counted, not token.special))
            if has_target_apart(token):
                flow.append((f" [→{_SPACE}{token.target_text.strip()}] ", False, False))
    spelled = [
        ("".join(text for text, _, _ in group), *key) for key, group in itertools.groupby(flow, lambda item: item[1:])
    ]
    spelled = [(_SPELLED.sub(r"\\<", text) if is_text else text, marked) for text, marked, is_text in spelled]
    marked = ""
    for mark, group in itertools.groupby(spelled, lambda item: item[1]):
        text = "".join(text for text, _ in group)
        marked += f" {_BEGIN}{text.strip()}{_END} " if mark and text.strip() else text
    return re.sub(" +", " ", marked).strip()


def fold(run: Run) -> str:
    """What stands for an image's slots or for padding."""
    return f"{len(run.tokens)} × {f'image {run.image}' if run.kind == 'image' else 'padding'}"


def has_target_apart(token: Token) -> bool:
    return token.target is not None and not token.target_follows
