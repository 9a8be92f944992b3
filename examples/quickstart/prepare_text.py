"""Text as fairseq's binarized data, and the SentencePiece vocabulary."""

import io
from pathlib import Path

from corpora import progress


def write_text(prefix: Path, documents: list[str], vocabulary) -> None:
    """Write fairseq's binarized text: one item per document, ending in `</s>`."""
    import torch
    from fairseq.data import indexed_dataset

    builder = indexed_dataset.make_builder(f"{prefix}.bin", "mmap", vocab_size=len(vocabulary))
    for document in progress(documents, prefix):
        builder.add_item(torch.tensor([*vocabulary.encode(document), vocabulary.eos]))
    builder.finalize(f"{prefix}.idx")


def write_vocabulary(folder: Path, texts: list[str], size: int) -> None:
    """Train SentencePiece on `texts`.

    It uses byte-pair encoding: the unigram trainer makes no piece for a string that occurs in only one distinct word,
    however frequent that word is, so "Question" and "color" would be two pieces each.
    """
    import sentencepiece

    from kosmos_plugin.vocabulary import MODEL_FILE, write_dictionary, write_encoding

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(progress(texts, folder)),
        model_writer=model,  # a path would be written into the model
        model_type="bpe",
        vocab_size=size,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    (folder / MODEL_FILE).write_bytes(model.getvalue())
    write_dictionary(folder)
    write_encoding(folder)
