"""kosmos-prepare tokenizer: trains a SentencePiece model on a sample of text → a vocabulary of --size pieces.

    OUT/sentencepiece.model, OUT/dict.txt    what --vocabulary and the data YAML take (`kosmos_plugin.vocabulary`)

64,000 pieces, three of which are control symbols and `<unk>`, make the paper's vocabulary of 64,007 tokens.

read texts ─→ choose sample ─→ train tokenizer, in one process
"""

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from datatrove.data import Document

from kosmos_plugin.curation.pipeline.checks import require
from kosmos_plugin.curation.pipeline.inputs import check_formats
from kosmos_plugin.curation.pipeline.runner import Run, Stage
from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.readers.texts import FORMATS, MAX_BYTES, ReadTexts
from kosmos_plugin.curation.sampling.sample import ReadSample, sample_stages
from kosmos_plugin.errors import UserError
from kosmos_plugin.options import option

SAMPLE_MEGABYTES = 200  # the unigram trainer takes more than ten times as much memory
# The trainer adds numbers up thread by thread, so another number of threads would give other bytes: always as many.
THREADS = 16


@dataclass(frozen=True)
class TokenizerOptions:
    size: int = option(64_000, "pieces of the vocabulary, with <unk>, <s> and </s>")
    model_type: str = option("unigram", "unigram, as of the public 64k model, or bpe", ("unigram", "bpe"))
    character_coverage: float = option(0.9995, "share of the text's characters that get pieces; the rarest do not")
    byte_fallback: bool = option(False, "spell characters without pieces by their bytes; else they are <unk>")
    documents: int | None = option(None, "train on so many documents, chosen by a hash")
    megabytes: int | None = option(
        None, f"train on documents of so many MB of text, chosen by a hash (default: {SAMPLE_MEGABYTES})"
    )
    text_key: str = option("text", "the field of JSON lines and Parquet that is the text")
    separator: str | None = option(None, 'plain text: the line between documents, "" for empty lines; else one a file')


def tokenizer_stages(run: Run) -> list[Stage]:
    """The stages of a run; what is wrong with its options or inputs is a UserError."""
    options: TokenizerOptions = run.options
    for name in ("size", "documents", "megabytes"):
        value = getattr(options, name)
        require(value is None or value > 0, f"--{name} must be at least 1, not {value}.")
    require(options.documents is None or options.megabytes is None, "Give either --documents or --megabytes.")
    coverage = options.character_coverage
    require(0.98 <= coverage <= 1, f"--character-coverage must be 0.98 … 1, not {coverage}.")
    check_formats(run.inputs, FORMATS, "Text is")

    tasks, sample = len(run.inputs), run.parts / "sample"
    read = [ReadTexts(run.inputs, options.text_key, options.separator)]
    limit, unit = (options.megabytes or SAMPLE_MEGABYTES) * 1_000_000, "bytes"
    if options.documents is not None:
        limit, unit = options.documents, "documents"
    return [
        *sample_stages("read texts", read, tasks, sample, limit, unit),
        Stage("train tokenizer", [ReadSample(sample, tasks), TrainTokenizer(run.out, run.parts, options)], 1),
    ]


class TrainTokenizer(Step):
    """Trains on the documents, and writes the model and its dictionary. UserError if the size does not fit the text."""

    name = "train"

    def __init__(self, out: Path, parts: Path, options: TokenizerOptions):
        super().__init__()
        self.out = out
        self.parts = parts
        self.options = options

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        from kosmos_plugin.vocabulary import DICTIONARY_FILE, MODEL_FILE, write_dictionary

        made = self.parts / "vocabulary"
        made.mkdir(parents=True, exist_ok=True)
        (made / MODEL_FILE).write_bytes(self._train(self._lines(data)))
        pieces = len(write_dictionary(made).read_text(encoding="utf-8").splitlines())
        for name in (MODEL_FILE, DICTIONARY_FILE):
            os.replace(made / name, self.out / name)
        self.count("kept", "pieces of text", pieces)
        yield from ()

    def _lines(self, documents: Iterable[Document]) -> Iterator[str]:
        """SentencePiece's sentences; it is told to take them however long they are."""
        for document in documents:
            self.count("kept", "documents trained on")
            self.count("kept", "bytes trained on", len(document.text.encode("utf-8")))
            yield from filter(None, map(str.strip, document.text.splitlines()))

    def _train(self, lines: Iterator[str]) -> bytes:
        import sentencepiece

        first = next(lines, None)
        require(first is not None, "There is no text to train on in the input files.")
        model = io.BytesIO()  # a model file's own path would be written into it
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_with_first(first, lines),
                model_writer=model,
                vocab_size=self.options.size,
                model_type=self.options.model_type,
                character_coverage=self.options.character_coverage,
                byte_fallback=self.options.byte_fallback,
                max_sentence_length=MAX_BYTES,
                num_threads=THREADS,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).rpartition("] ")[2].rstrip(".")  # before it, a line of SentencePiece's source
            raise UserError(
                f"--size {self.options.size}: SentencePiece makes no such vocabulary of this text ({reason}). "
                "Give another --size, or more text, with another --out."
            ) from None
        return model.getvalue()


def _with_first(first: str, others: Iterator[str]) -> Iterator[str]:
    yield first
    yield from others
