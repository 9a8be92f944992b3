"""Tables about a mixture's streams and about a micro-batch."""

from collections.abc import Sequence

from kosmos_plugin.data.mixture import ConcatenatedRows, Mixture
from kosmos_plugin.data.order import BLOCK
from kosmos_plugin.inspection.micro_batch import Row
from kosmos_plugin.reporting.tables import Table


def stream_table(mixture: Mixture) -> Table:
    """The streams of a split and their corpora."""
    lines = []
    for stream in mixture.streams:
        config = stream.config
        per_update = sequences_per_update(config.kind, config.sequences_per_update)
        attention = "see each other" if config.cross_document_attention else "separate"
        for i, (name, corpus) in enumerate(zip(stream.names, stream.corpora, strict=True)):
            documents = len(corpus)
            if isinstance(corpus, ConcatenatedRows):  # whose length is that in rows
                documents = sum(len(text.items) for text in corpus.texts)
            share = f"{stream.interleaving.counts[i] / BLOCK:.1%}" if stream.shuffle else "in order"
            lines.append((config.name, config.kind, name, f"{documents:,}", share, per_update, attention))
        if not stream.corpora:
            lines.append((config.name, config.kind, "none in this split", "0", "", per_update, attention))
    header = ("stream", "kind", "corpus", "documents", "share", "per update", "documents in a row")
    return Table("Streams", header, lines, f"An epoch is {len(mixture):,} updates.")


def sequences_per_update(kind: str, number: int) -> str:
    """The number of rows (of text) or documents per update, in words."""
    return f"{number:,} {'row' if kind == 'text' else 'document'}{'' if number == 1 else 's'}"


def batch_table(rows: Sequence[Row], streams: Sequence[str], title: str, packed: bool = True) -> Table:
    """Counts of rows, by stream and in total.

    Args:
        rows: The rows.
        streams: The streams' names.
        title: The table's title.
        packed: Whether the rows have their padding, so that packing efficiency is worth a column.
    """

    def line(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
        filled, positions = sum(row.filled for row in rows), sum(len(row.tokens) for row in rows)
        documents, images = sum(len(row.documents) for row in rows), sum(len(row.images) for row in rows)
        in_loss = sum(row.in_loss for row in rows)
        efficiency = [f"{filled / positions:.1%}" if positions else ""] if packed else []
        return name, f"{len(rows):,}", f"{documents:,}", f"{filled:,}", *efficiency, f"{images:,}", f"{in_loss:,}"

    lines = [line(stream, [row for row in rows if row.stream == stream]) for stream in streams]
    efficiency = ["packing efficiency"] if packed else []
    header = ("stream", "rows", "documents", "tokens", *efficiency, "images", "tokens in the loss")
    return Table(title, header, [*lines, line("all", rows)])
