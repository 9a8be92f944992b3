"""Text → fairseq's binarized datasets, with the names that fairseq's own language modeling expects."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from datatrove.data import Document

from kosmos_plugin.atomic import atomic_path
from kosmos_plugin.curation.filters.text import CORPUS
from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.sampling.hold_out import SPLIT


class Binarize(Step):
    """Tokenizes the documents of task i and writes them to train{i}.bin and .idx (task 0: train.bin), and valid{i}.

    Those of a corpus (`CorpusFilter`) are in its folder. As with fairseq-preprocess, an item is a document's tokens and
    `</s>`; `<s>` is added when it is read. Beside each text, the row starts for training are written.

    Args:
        out: The folder of the files.
        vocabulary: The folder of the vocabulary.
        tokens_per_sample: Tokens of a row.
        first: The number of task 0.
    """

    name = "binarize"

    def __init__(self, out: Path, vocabulary: str, tokens_per_sample: int, first: int = 0):
        super().__init__()
        self.out = out
        self.vocabulary = vocabulary
        self.tokens_per_sample = tokens_per_sample
        self.first = first

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        from kosmos_plugin.data.text import FullSentenceRows
        from kosmos_plugin.vocabulary import Vocabulary

        vocabulary = Vocabulary.load(self.vocabulary)
        add_to: dict[str, Callable[[list[int]], None]] = {}
        prefixes = []
        with contextlib.ExitStack() as stack:
            for document in data:
                split = document.metadata[SPLIT]
                corpus = document.metadata.get(CORPUS)
                part = f"{corpus}/{split}" if corpus else split
                if part not in add_to:
                    prefixes.append(prefix := self.out / f"{part}{self.first + rank or ''}")
                    add_to[part] = stack.enter_context(_binarized_dataset(prefix, len(vocabulary)))
                tokens = [*vocabulary.encode(document.text), vocabulary.eos]
                add_to[part](tokens)
                self.count("kept", f"{part}: documents")
                self.count("kept", f"{part}: tokens", len(tokens))
                yield document
        for prefix in prefixes:
            FullSentenceRows(str(prefix), vocabulary, self.tokens_per_sample)  # writes the row starts


@contextlib.contextmanager
def _binarized_dataset(prefix: Path, vocabulary_size: int) -> Iterator[Callable[[list[int]], None]]:
    """Write PREFIX.bin and PREFIX.idx atomically; yields the function that adds an item."""
    import torch
    from fairseq.data import indexed_dataset

    with atomic_path(f"{prefix}.idx") as index, atomic_path(f"{prefix}.bin") as data:
        builder = indexed_dataset.make_builder(str(data), "mmap", vocab_size=vocabulary_size)
        yield lambda tokens: builder.add_item(torch.tensor(tokens))
        builder.finalize(str(index))
