"""The statistics of a mixture's corpora as tables (terminal, Markdown, HTML page), as JSON and as plots."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kosmos_plugin import atomic
from kosmos_plugin.inspection.corpus_statistics import CorpusStatistics, StreamStatistics
from kosmos_plugin.inspection.tables import sequences_per_update
from kosmos_plugin.reporting import tables
from kosmos_plugin.reporting.html import data_uri, render
from kosmos_plugin.reporting.tables import Table

TEMPLATE = Path(__file__).parent / "templates" / "statistics.html"
TOTALS = {
    "tokens": "tokens",
    "in_loss": "tokens in the loss",
    "images": "images",
    "words": "words",
    "characters": "characters",
}
PLOTTED = {"tokens": "tokens per document", "images": "images per document"}
MAX_BARS = 40


@dataclass(frozen=True)
class StatisticsReport:
    """Statistics, and the settings that they depend on."""

    data: str  # path of the data YAML
    split: str
    tokens_per_sample: int
    image_tokens: int
    updates: int | None  # for which epochs are reported
    streams: Sequence[StreamStatistics]

    @property
    def corpora(self) -> list[CorpusStatistics]:
        return [corpus for stream in self.streams for corpus in stream.corpora]

    @property
    def subtitle(self) -> str:
        return f"{self.split}, rows of {self.tokens_per_sample:,} tokens, {self.image_tokens} tokens per image"

    def tables(self) -> list[Table]:
        """The statistics as tables."""
        found = [
            _totals_table(self.corpora),
            _documents_table(self.corpora),
            _update_table(self.streams, self.updates),
            _sources_table(self.corpora),
        ]
        reasons = [
            (corpus.stream, corpus.name, reason, f"{number:,}")
            for corpus in self.corpora
            for reason, number in corpus.unusable.items()
        ]
        if reasons:
            found.append(Table("Unusable documents", ("stream", "corpus", "reason", "documents"), reasons))
        return found

    def as_text(self) -> str:
        return "\n\n".join(map(tables.as_text, self.tables()))

    def as_markdown(self) -> str:
        title = f"# Statistics of {self.data}"
        return "\n\n".join([title, self.subtitle, *map(tables.as_markdown, self.tables())]) + "\n"

    def as_html(self, plots: bytes) -> str:
        """One self-contained page, with the plots (PNG) inside."""
        return render(TEMPLATE, report=self, tables_shown=self.tables(), plots=data_uri(plots, "image/png"))

    def as_json(self) -> str:
        streams = {
            stream.name: {
                "kind": stream.kind,
                "sequences_per_update": stream.sequences_per_update,
                "rows_per_update": stream.rows_per_update,
                "packing_efficiency": stream.packing_efficiency,
                "corpora": {corpus.name: _corpus_as_dict(corpus) for corpus in stream.corpora},
            }
            for stream in self.streams
        }
        settings = {
            "data": self.data,
            "split": self.split,
            "tokens_per_sample": self.tokens_per_sample,
            "image_tokens": self.image_tokens,
            "updates": self.updates,
        }
        return json.dumps({**settings, "streams": streams}, indent=2, ensure_ascii=False)

    def write(self, folder: Path) -> None:
        """Write statistics.json, .md, .png and .html to `folder`. Raises OSError if that is not possible."""
        folder.mkdir(parents=True, exist_ok=True)
        plots = plot(self.corpora)
        atomic.write_text(folder / "statistics.json", self.as_json())
        atomic.write_text(folder / "statistics.md", self.as_markdown())
        atomic.write_text(folder / "statistics.html", self.as_html(plots))
        with atomic.atomic_path(folder / "statistics.png") as path:
            path.write_bytes(plots)


def _corpus_as_dict(corpus: CorpusStatistics) -> dict[str, Any]:
    return {
        "documents": corpus.documents,
        "examined": corpus.examined,
        "unusable": corpus.unusable,
        "totals_are_estimated": corpus.estimated,
        "totals": {name: corpus.total(name) for name in TOTALS},
        "tokens_per_document": _lengths(corpus),
        "images_per_document": _images(corpus),
        "sources": corpus.sources(),
        "share": corpus.share,
        "epochs": corpus.epochs,
    }


def _lengths(corpus: CorpusStatistics) -> dict[str, int]:
    """Percentiles of the documents' tokens: the median, the 95th and the longest."""
    tokens = corpus.values("tokens")
    if not len(tokens):
        return {"median": 0, "95%": 0, "longest": 0}
    median, percentile = np.percentile(tokens, [50, 95], method="inverted_cdf")
    return {"median": int(median), "95%": int(percentile), "longest": int(tokens.max())}


def _images(corpus: CorpusStatistics) -> dict[int, float]:
    """Number of images → share of the documents with that number."""
    numbers, counts = np.unique(corpus.values("images"), return_counts=True)
    return {int(number): count / len(corpus.sample) for number, count in zip(numbers, counts, strict=True)}


def _totals_table(corpora: Sequence[CorpusStatistics]) -> Table:
    lines = []
    for corpus in corpora:
        totals = (f"{corpus.total(name):,}" for name in TOTALS)
        how = "estimated" if corpus.estimated else "exact"
        lines.append((corpus.stream, corpus.name, f"{corpus.documents:,}", *totals, how))
    note = "Estimated: from the documents examined. Tokens of binarized text are always exact."
    header = ("stream", "corpus", "documents", *TOTALS.values(), "totals")
    return Table("Corpora", header, lines, note if any(corpus.estimated for corpus in corpora) else "")


def _documents_table(corpora: Sequence[CorpusStatistics]) -> Table:
    lines = []
    for corpus in corpora:
        unusable = f"{sum(corpus.unusable.values()) / corpus.examined:.1%}"
        lengths = (f"{length:,}" for length in _lengths(corpus).values())
        images = f"{corpus.values('images').sum() / max(len(corpus.sample), 1):.2f}"
        lines.append((corpus.stream, corpus.name, f"{corpus.examined:,}", unusable, *lengths, images))
    header = ("stream", "corpus", "examined", "unusable", "median tokens", "95th percentile", "longest", "mean images")
    return Table("Documents", header, lines)


def _update_table(streams: Sequence[StreamStatistics], updates: int | None) -> Table:
    header = ("stream", "corpus", "share", "per update", "rows", "packing efficiency")
    lines = []
    for stream in streams:
        per_update = sequences_per_update(stream.kind, stream.sequences_per_update)
        packed = (f"{stream.rows_per_update:,}", f"{stream.packing_efficiency:.1%}")
        for corpus in stream.corpora:
            epochs = () if updates is None else (f"{corpus.epochs:.2f}",)
            lines.append((stream.name, corpus.name, f"{corpus.share:.1%}", per_update, *packed, *epochs))
    return Table(
        "An update",
        header if updates is None else (*header, f"epochs in {updates:,} updates"),
        lines,
        "Rows and packing efficiency are those of the first update.",
    )


def _sources_table(corpora: Sequence[CorpusStatistics]) -> Table:
    lines = [
        (corpus.stream, corpus.name, source, f"{share:.1%}")
        for corpus in corpora
        for source, share in corpus.sources().items()
    ]
    return Table("Sources", ("stream", "corpus", "source", "share"), lines, "The most frequent of each corpus.")


def plot(corpora: Sequence[CorpusStatistics]) -> bytes:
    """Histograms of the tokens and images per document of each corpus, as a PNG."""
    from matplotlib.figure import Figure  # without pyplot, which would look for a display
    from matplotlib.ticker import MaxNLocator

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
                step = -(-(int(np.ptp(values)) + 1) // MAX_BARS)  # whole tokens, or some bars would have fewer values
                edges = np.arange(values.min(), values.max() + step + 1, step) - 0.5
                axes.hist(values, bins=edges.tolist(), weights=np.full(len(values), 1 / len(values)), color="#4c78a8")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_title(f"{corpus.stream}: {corpus.name}", fontsize=10, loc="left", parse_math=False)
            axes.set_xlabel(label, fontsize=9)
            axes.yaxis.set_major_formatter("{x:.0%}")
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    png = io.BytesIO()
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()
