"""Text → fairseq's binarized datasets, with the names that fairseq's own language modeling expects."""

import os
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document

from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.sampling.hashing import split_of


class Binarize(Step):
    """Tokenizes documents and writes task i's to train{i}.bin and .idx (of the first: train.bin), and valid{i}.

    One item a document, its tokens and `</s>`, as of fairseq-preprocess; `<s>` is put before it when it is read.
    """

    name = "binarize"

    def __init__(self, out: Path, vocabulary: str, valid_share: float):
        super().__init__()
        self.out = str(out)
        self.vocabulary = vocabulary
        self.valid_share = valid_share

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        from kosmos_plugin.vocabulary import Vocabulary

        vocabulary = Vocabulary.load(self.vocabulary)
        writers: dict[str, _Writer] = {}
        for document in data:
            split = split_of(document.text, self.valid_share)
            if split not in writers:
                writers[split] = _Writer(os.path.join(self.out, f"{split}{rank or ''}"), len(vocabulary))
            tokens = [*vocabulary.encode(document.text), vocabulary.eos]
            writers[split].add(tokens)
            self.count("kept", f"{split}: documents")
            self.count("kept", f"{split}: tokens", len(tokens))
            yield document
        for writer in writers.values():
            writer.close()


class _Writer:
    """A .bin and an .idx, which have their names when they are whole."""

    def __init__(self, prefix: str, vocabulary_size: int):
        from fairseq.data import indexed_dataset

        self.prefix = prefix
        self.builder = indexed_dataset.make_builder(f"{prefix}.bin.part", "mmap", vocab_size=vocabulary_size)

    def add(self, tokens: list[int]) -> None:
        import torch

        self.builder.add_item(torch.tensor(tokens))

    def close(self) -> None:
        self.builder.finalize(f"{self.prefix}.idx.part")
        for ending in ("bin", "idx"):
            os.replace(f"{self.prefix}.{ending}.part", f"{self.prefix}.{ending}")
