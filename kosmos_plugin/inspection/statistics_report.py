"""The statistics of corpora as tables, for a terminal and in Markdown, as JSON, and as plots."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kosmos_plugin.inspection.corpus_statistics import CorpusStatistics, StreamStatistics
from kosmos_plugin.reporting import tables as text_tables
from kosmos_plugin.reporting.tables import Table

TOTALS = ("tokens", "counted", "images", "words", "characters")
MOST_BARS = 40
PLOTTED = {"tokens": "tokens of a document", "images": "images of a document"}


def _lengths(corpus: CorpusStatistics) -> dict[str, int]:
    """Of a document's tokens: the median, that which 95% do not exceed, and the longest."""
    tokens = corpus.values("tokens")
    if not len(tokens):
        return {"median": 0, "95%": 0, "longest": 0}
    median, most = np.percentile(tokens, [50, 95], method="inverted_cdf")
    return {"median": int(median), "95%": int(most), "longest": int(tokens.max())}


def _images(corpus: CorpusStatistics) -> dict[int, float]:
    """Images of a document → the share of the documents that have so many."""
    numbers, counts = np.unique(corpus.values("images"), return_counts=True)
    return {int(number): count / len(corpus.sample) for number, count in zip(numbers, counts, strict=True)}


def as_json(about: dict, streams: Sequence[StreamStatistics]) -> str:
    """`about` says what was looked at, and how."""
    return json.dumps(
        {
            **about,
            "streams": {
                stream.name: {
                    "kind": stream.kind,
                    "sequences_per_update": stream.sequences_per_update,
                    "rows_per_update": stream.rows_per_update,
                    "filled": stream.filled,
                    "corpora": {corpus.name: _corpus_as_dict(corpus) for corpus in stream.corpora},
                }
                for stream in streams
            },
        },
        indent=2,
        ensure_ascii=False,
    )


def _corpus_as_dict(corpus: CorpusStatistics) -> dict:
    return {
        "documents": corpus.documents,
        "looked_at": corpus.looked_at,
        "unusable": corpus.unusable,
        "totals_are_estimated": corpus.estimated,
        "totals": {name: corpus.total(name) for name in TOTALS},
        "tokens_of_a_document": _lengths(corpus),
        "images_of_a_document": _images(corpus),
        "sources": corpus.sources(),
        "share": corpus.share,
        "epochs": corpus.epochs,
    }


def tables(streams: Sequence[StreamStatistics], updates: int | None) -> list[Table]:
    corpora = [corpus for stream in streams for corpus in stream.corpora]
    totals, documents, sources = [], [], []
    for corpus in corpora:
        names = (corpus.stream, corpus.name)
        how = "estimated" if corpus.estimated else "exact"
        totals.append((*names, f"{corpus.documents:,}", *(f"{corpus.total(name):,}" for name in TOTALS), how))
        each = max(len(corpus.sample), 1)
        images = f"{corpus.values('images').sum() / each:.2f}"
        unusable = f"{sum(corpus.unusable.values()) / corpus.looked_at:.1%}"
        lengths = (f"{length:,}" for length in _lengths(corpus).values())
        documents.append((*names, f"{corpus.looked_at:,}", unusable, *lengths, images))
        sources += [(*names, source, f"{share:.1%}") for source, share in corpus.sources().items()]
    reasons = [(corpus.stream, corpus.name, *item) for corpus in corpora for item in corpus.unusable.items()]
    made = [
        Table(
            "Corpora",
            ("stream", "corpus", "documents", "tokens", "counted targets", "images", "words", "characters", "totals"),
            totals,
            "Estimated: from the documents that were looked at. Tokens of binarized text are always exact."
            if any(corpus.estimated for corpus in corpora)
            else "",
        ),
        Table(
            "Documents",
            ("stream", "corpus", "looked at", "unusable", "median tokens", "95%", "longest", "images each"),
            documents,
        ),
        _update_table(streams, updates),
        Table("Sources", ("stream", "corpus", "source", "share"), sources, "The most frequent of each corpus."),
    ]
    if reasons:
        lines = [(stream, corpus, reason, f"{number:,}") for stream, corpus, reason, number in reasons]
        made.append(Table("Documents that cannot be used", ("stream", "corpus", "why", "documents"), lines))
    return made


def _update_table(streams: Sequence[StreamStatistics], updates: int | None) -> Table:
    header = ("stream", "corpus", "share", "an update takes", "in rows", "filled")
    lines = []
    for stream in streams:
        unit = "rows" if stream.kind == "text" else "documents"
        takes = (f"{stream.sequences_per_update:,} {unit}", f"{stream.rows_per_update:,}", f"{stream.filled:.1%}")
        for corpus in stream.corpora:
            epochs = () if updates is None else (f"{corpus.epochs:.2f}",)
            lines.append((stream.name, corpus.name, f"{corpus.share:.1%}", *takes, *epochs))
    return Table(
        "An update",
        header if updates is None else (*header, f"epochs in {updates:,} updates"),
        lines,
        "Rows, and what of them is filled, are those of the first update.",
    )


def as_text(tables: Sequence[Table]) -> str:
    return "\n\n".join(map(text_tables.as_text, tables))


def as_markdown(about: dict, tables: Sequence[Table]) -> str:
    where = f"{about['split']}, rows of {about['tokens_per_sample']:,} tokens, {about['image_tokens']} tokens an image"
    return "\n\n".join([f"# Statistics of {about['data']}", where, *map(text_tables.as_markdown, tables)]) + "\n"


def plot(corpora: Sequence[CorpusStatistics], file: Path) -> None:
    """For each corpus: how many of its documents have how many tokens, and how many images, as a picture."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a display

    corpora = [corpus for corpus in corpora if corpus.sample]
    figure = Figure(figsize=(10, 0.6 + 2.2 * max(len(corpora), 1)), dpi=110, layout="constrained")
    for i, corpus in enumerate(corpora):
        for j, (name, label) in enumerate(PLOTTED.items()):
            axes = figure.add_subplot(len(corpora), len(PLOTTED), i * len(PLOTTED) + j + 1)
            values = corpus.values(name)
            if name == "images":
                numbers, counts = np.unique(values, return_counts=True)
                axes.bar(numbers, counts / len(values), color="#d48a3a", width=0.8)
                axes.set_xticks(numbers if len(numbers) < 12 else numbers[:: len(numbers) // 12 + 1])
            else:
                step = -(-(int(np.ptp(values)) + 1) // MOST_BARS)  # whole tokens, or some bars would have fewer values
                edges = np.arange(values.min(), values.max() + step + 1, step) - 0.5
                axes.hist(values, bins=edges, weights=np.full(len(values), 1 / len(values)), color="#4c78a8")
            axes.set_title(f"{corpus.stream}: {corpus.name}", fontsize=10, loc="left", parse_math=False)
            axes.set_xlabel(label, fontsize=9)
            axes.yaxis.set_major_formatter("{x:.0%}")
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    temporary = file.with_name(f".{file.name}.part")
    figure.savefig(temporary, format="png", metadata={"Software": None})
    os.replace(temporary, file)
