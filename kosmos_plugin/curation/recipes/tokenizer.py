"""kosmos-prepare tokenizer: a sample of text → a SentencePiece vocabulary of --size pieces.

    OUT/sentencepiece.model, OUT/dict.txt    the files that --vocabulary and the data YAML refer to
    OUT/encoding.json                        records that newlines are encoded, as </line>

64,000 pieces, three of which are control symbols and `<unk>`, make the paper's vocabulary of 64,007 tokens.

read texts ─→ choose sample ─→ train tokenizer, in one process
"""

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from datatrove.data import Document

from kosmos_plugin.curation.options import SAMPLE_MEGABYTES, TokenizerOptions
from kosmos_plugin.curation.pipeline.checks import require
from kosmos_plugin.curation.pipeline.inputs import check_formats
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.readers.json_values import MAX_BYTES
from kosmos_plugin.curation.readers.text_files import EXTENSIONS, ReadTexts
from kosmos_plugin.curation.sampling.sample import ReadSample, sample_stages
from kosmos_plugin.errors import UserError

# The trainer adds up numbers thread by thread, so its result depends on the number of threads, which is fixed here.
THREADS = 16


def stages(run: Run[TokenizerOptions]) -> list[Stage]:
    """Make the stages of a run. UserError for wrong options or inputs."""
    options = run.options
    require(options.documents is None or options.megabytes is None, "Give either --documents or --megabytes.")
    coverage = options.character_coverage
    require(0.98 <= coverage <= 1, f"--character-coverage must be 0.98 … 1, not {coverage}.")
    check_formats(run.inputs, EXTENSIONS, "Text is")

    reader = ReadTexts(run.inputs, options.text_key, options.separator, run.dropped_writer("invalid"))
    sample = run.intermediate / "sample"
    limit, unit = (options.megabytes or SAMPLE_MEGABYTES) * 1_000_000, "bytes"
    if options.documents is not None:
        limit, unit = options.documents, "documents"
    train = TrainTokenizer(run.out, run.intermediate / "vocabulary", options)
    return [
        *sample_stages("read texts", [reader], reader.tasks, sample, limit, unit),
        Stage("train tokenizer", [ReadSample(sample, reader.tasks), train], 1),
    ]


class TrainTokenizer(Step):
    """Trains on the documents, and writes the model and its dictionary.

    Args:
        out: The folder of both files.
        work: The folder they are in until they are complete.
        options: Size and type of the model.

    Raises:
        UserError: SentencePiece cannot make a vocabulary of this size from the text.
    """

    name = "train"

    def __init__(self, out: Path, work: Path, options: TokenizerOptions):
        super().__init__()
        self.out = out
        self.work = work
        self.options = options

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        from kosmos_plugin.vocabulary import MODEL_FILE, write_dictionary, write_encoding

        self.work.mkdir(parents=True, exist_ok=True)
        model = self.work / MODEL_FILE
        model.write_bytes(self._train(self._lines(data)))
        dictionary = write_dictionary(self.work)
        pieces = len(dictionary.read_text(encoding="utf-8").splitlines())
        for path in (model, dictionary, write_encoding(self.work)):
            os.replace(path, self.out / path.name)
        self.count("kept", "pieces of text", pieces)
        yield from ()

    def _lines(self, documents: Iterable[Document]) -> Iterator[str]:
        """The training sentences: the lines of the documents, however long."""
        for document in documents:
            self.count("kept", "documents trained on")
            self.count("kept", "bytes trained on", len(document.text.encode("utf-8")))
            yield from filter(None, map(str.strip, document.text.splitlines()))

    def _train(self, lines: Iterator[str]) -> bytes:
        import sentencepiece

        first = next(lines, None)
        require(first is not None, "There is no text to train on in the input files.")
        model = io.BytesIO()  # a file's path would be written into the model
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=itertools.chain([first], lines),
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
            reason = str(error).rpartition("] ")[2].rstrip(".")  # after a line of SentencePiece's source
            raise UserError(
                f"--size {self.options.size}: SentencePiece cannot make a vocabulary of this size from the text "
                f"({reason}). Give another --size, or more text, with another --out."
            ) from None
        return model.getvalue()
