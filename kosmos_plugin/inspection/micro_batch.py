"""A micro-batch as its rows, documents and tokens: what the model reads and what it is trained to predict.

    Batch ─ describe ─→ rows ─→ parts (documents, padding) ─→ runs (tokens, slots of one image, padding) ─→ tokens
                         └─ Report (with tables of the streams and of the batch) ─→ text.as_text | page.as_html

Rows are described from the Batch's tensors only, so a mistake made on the way to the tensors is visible.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kosmos_plugin.data.batch import Batch
from kosmos_plugin.data.packing import PackedRow
from kosmos_plugin.reporting.tables import Table
from kosmos_plugin.vocabulary import SPECIAL_TOKENS, Vocabulary


@dataclass(frozen=True, slots=True)
class Token:
    """A position of a row."""

    position: int
    id: int
    text: str  # readable: a piece with its space, or a special token such as <image>
    special: bool
    in_loss: bool  # it is the target of the position before
    target: int | None  # the token to predict from here; None: no target
    target_text: str
    target_is_next: bool  # the target is the row's next token, as everywhere but at the end of a continuous text row

    @property
    def has_other_target(self) -> bool:
        """Whether it has a target that is not the row's next token."""
        return self.target is not None and not self.target_is_next


@dataclass(frozen=True)
class Run:
    """Consecutive positions of one kind."""

    kind: str  # "tokens", "image" (the slots of one image) or "padding"
    tokens: tuple[Token, ...]
    image: int = -1  # the image's index in the batch

    @property
    def summary(self) -> str:
        """What is shown instead of an image's slots, or of padding."""
        return f"{len(self.tokens)} × {f'image {self.image}' if self.kind == 'image' else 'padding'}"


@dataclass(frozen=True)
class Part:
    """The part of a document that is in the row, or padding."""

    number: int  # of the document within the row, from 1; 0: padding
    document_id: int  # parts with the same id attend to each other
    name: str  # the document's origin, or ""
    runs: tuple[Run, ...]
    starts_here: bool  # has its <s>, or follows another document's </s>
    ends_here: bool  # has its </s>

    @property
    def label(self) -> str:
        if not self.number:
            return "padding"
        notes = ([] if self.starts_here else ["begins before this row"]) + (
            [] if self.ends_here else ["continues after it"]
        )
        return f"document {self.number}" + (f" ({', '.join(notes)})" if notes else "")


@dataclass(frozen=True)
class Row:
    """A row of the batch."""

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
        """Number of positions that are not padding."""
        return sum(len(run.tokens) for part in self.documents for run in part.runs)

    @property
    def images(self) -> list[int]:
        return [run.image for part in self.parts for run in part.runs if run.kind == "image"]

    @property
    def in_loss(self) -> int:
        """Number of tokens in the loss."""
        return sum(token.target is not None for token in self.tokens)

    @property
    def attention(self) -> str:
        """Whether the row's documents see each other, in words."""
        groups = [part.document_id for part in self.documents]
        if len(groups) < 2:
            return "one document" if groups else "no document"
        seen = {1: "which see each other", len(groups): "which do not see each other"}
        return f"{len(groups)} documents, {seen.get(len(set(groups)), f'attention groups {groups}')}"

    @property
    def label(self) -> str:
        filled = f"{self.filled:,} of {len(self.tokens):,} positions"
        images = f"{len(self.images)} image{'' if len(self.images) == 1 else 's'}"
        return f"{self.stream} · {self.attention} · {filled} · {images} · {self.in_loss:,} in the loss"


@dataclass(frozen=True)
class Report:
    """The report on a batch, to be printed or written as a page."""

    title: str
    where: str  # split, update, rank and accumulation step
    tables: list[Table]
    rows: list[Row]  # those to show
    images: torch.Tensor  # uint8 [N, 3, S, S], all of the batch's
    note: str = ""  # about what is not shown


def describe(
    batch: Batch, vocabulary: Vocabulary, streams: Sequence[str], names: Sequence[dict[int, str]] = ()
) -> list[Row]:
    """Describe the rows of a batch.

    Args:
        batch: The batch.
        vocabulary: The vocabulary of its tokens.
        streams: The streams' names, in the order of the data YAML.
        names: For each row, position → name of the document that starts there (`sample_names`); optional.
    """
    reader = _BatchReader(batch, vocabulary)
    return [
        Row(b, streams[stream], reader.parts(b, names[b] if names else {}))
        for b, stream in enumerate(batch["streams"].tolist())
    ]


class _BatchReader:
    """A batch's tensors as lists, with the meaning of their ids."""

    def __init__(self, batch: Batch, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.tokens, self.targets = batch["tokens"].tolist(), batch["targets"].tolist()
        self.document_ids = batch["document_ids"].numpy()
        self.slots = slots = batch["image_slots"].numpy()
        slots_per_image = max(int(slots.sum()) // max(len(batch["images"]), 1), 1)
        # the image that a slot belongs to; -1: not a slot
        self.images = np.where(slots, (slots.cumsum().reshape(slots.shape) - 1) // slots_per_image, -1).tolist()
        self.special = {vocabulary.bos, vocabulary.pad, vocabulary.eos, vocabulary.unk}
        self.special |= set(range(vocabulary.image_slot, vocabulary.image_slot + len(SPECIAL_TOKENS)))

    def parts(self, b: int, names: dict[int, str]) -> tuple[Part, ...]:
        """The documents of row `b`, each up to its </s> or to where the document id changes, and its padding."""
        ids, row, tokens = self.document_ids[b], self._row_tokens(b), np.array(self.tokens[b])
        follows_end = np.append(False, tokens[:-1] == self.vocabulary.eos)
        starts = (ids > 0) & ((np.diff(ids, prepend=0) != 0) | follows_end)
        numbers = np.where(ids > 0, starts.cumsum(), 0).tolist()
        parts = []
        for number, positions in itertools.groupby(range(len(row)), numbers.__getitem__):
            runs = []
            part = [row[i] for i in positions]
            first, last = part[0], part[-1]
            for image, run in itertools.groupby(part, lambda token: self.images[b][token.position]):
                kind = "padding" if not number else "tokens" if image < 0 else "image"
                runs.append(Run(kind, tuple(run), image))
            starts_here = first.id == self.vocabulary.bos or bool(follows_end[first.position])
            ends_here = last.id == self.vocabulary.eos
            name = names.get(first.position, "")
            parts.append(Part(number, int(ids[first.position]), name, tuple(runs), starts_here, ends_here))
        return tuple(parts)

    def _row_tokens(self, b: int) -> list[Token]:
        tokens, row, in_loss = self.tokens[b], [], False
        for i, (token, target) in enumerate(zip(tokens, self.targets[b], strict=True)):
            has_target = target != self.vocabulary.pad
            is_next = has_target and i + 1 < len(tokens) and tokens[i + 1] == target and not self.slots[b, i + 1]
            target_text = self._text(target) if has_target else ""
            target = target if has_target else None
            row.append(Token(i, token, self._text(token), token in self.special, in_loss, target, target_text, is_next))
            in_loss = is_next
        return row

    def _text(self, token: int) -> str:
        symbol = self.vocabulary.symbol(token)
        return symbol if token in self.special else readable(symbol)


def sample_names(batch: Batch, packed: Sequence[PackedRow], root: str) -> list[dict[int, str]]:
    """For each row of `batch`, position → name of the sample that starts there.

    A row that lost a sample to a broken image has no names: the batch does not tell which sample it was.

    Args:
        batch: The batch.
        packed: The rows it was made of.
        root: Folder to which the names are made relative.
    """
    names: list[dict[int, str]] = [{} for _ in batch["tokens"]]
    for row, filled, named in zip(packed, (batch["document_ids"] > 0).sum(dim=1).tolist(), names, strict=False):
        starts = itertools.accumulate((len(sample) for sample in row.samples), initial=0)
        if row.num_tokens == filled:
            named.update(
                (start, sample.id.removeprefix(root)) for start, sample in zip(starts, row.samples, strict=False)
            )
    return names


def first_rows_of_each_stream(rows: Sequence[Row], limit: int) -> tuple[list[Row], str]:
    """At most `limit` rows of each stream, and a note that counts the rows left out."""
    streams: dict[str, list[Row]] = {}
    for row in rows:
        streams.setdefault(row.stream, []).append(row)
    left_out = [f"{len(group) - limit} of {stream}" for stream, group in streams.items() if len(group) > limit]
    most = max(map(len, streams.values()))
    note = f"Rows not shown: {', '.join(left_out)}. --rows {most} shows all." if left_out else ""
    return [row for group in streams.values() for row in group[:limit]], note


def readable(piece: str) -> str:
    """A piece of the vocabulary as text: `▁` is its space, and unprintable characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in piece.replace("▁", " "))
