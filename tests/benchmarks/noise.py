"""Noise with the sizes of real data: time and memory of a training step do not depend on content.

Lengths of captions are those of CC12M, 20.2 ± 16.3 tokens (Changpinyo et al. 2021, table 1), drawn from a log-normal
distribution with that mean and deviation. Text rows are full, as in the paper's full-sentence mode.
"""

import math
from pathlib import Path
from random import Random

import numpy as np
import sentencepiece
import yaml

from kosmos_plugin.data.documents import Document, Image, Text
from kosmos_plugin.data.samples import Sample, SampleBuilder
from kosmos_plugin.vocabulary import Vocabulary, write_dictionary
from tests import tiny

PIECES = 63_997  # with the special tokens 64,007 entries
CONTROL_PIECES = 3  # in SentencePiece's model: <unk>, <s> and </s> have their own ids in the dictionary
CAPTION_TOKENS, CAPTION_DEVIATION = 20.2, 16.3
SHORTEST_CAPTION, LONGEST_CAPTION = 3, 256  # words, CC12M's limits


def write_vocabulary(folder: Path, pieces: int = PIECES) -> Vocabulary:
    """A vocabulary of `pieces` made-up words (`word0`, `word1`, …), one token each."""
    folder.mkdir(parents=True)
    with open(folder / "sentencepiece.model", "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"word{i}" for i in range(pieces)),
            model_writer=model,
            model_type="word",
            vocab_size=pieces + CONTROL_PIECES,
            minloglevel=2,
        )
    write_dictionary(folder)
    return Vocabulary.load(folder)


class Noise:
    """Random samples of each kind, from one seed."""

    def __init__(self, sample_builder: SampleBuilder, image_size: int, seed: int = 1):
        self.sample_builder = sample_builder
        self.image_size = image_size
        self.rng = Random(seed)
        first = sample_builder.vocabulary.dictionary.nspecial
        self.words = range(first, first + sample_builder.vocabulary.processor.get_piece_size() - CONTROL_PIECES)

    def text(self, length: int) -> Sample:
        """A full row of text: `<s>` and `length` − 1 words; every position but the last has a target."""
        vocabulary = self.sample_builder.vocabulary
        words = self.rng.choices(self.words, k=length - 1)
        tokens = np.array([vocabulary.bos, *words], np.int64)
        targets = np.append(tokens[1:], vocabulary.pad)
        return Sample("text", tokens, targets, np.zeros(length, bool))

    def caption(self) -> Sample:
        return self.sample_builder.sample(Document("caption", (self._image(), self._words(self._caption_length()))))

    def page(self, images: int, length: int) -> Sample:
        """An interleaved document of `length` tokens: images, each followed by a piece of text of equal length."""
        words = length - 2 - images * (self.sample_builder.image_tokens + 2)
        pieces = [words // max(images, 1)] * max(images, 1)
        pieces[-1] += words - sum(pieces)
        segments: list[Text | Image] = []
        for piece in pieces:
            segments += [self._image()] * (images > 0)
            segments.append(self._words(piece))
        return self.sample_builder.sample(Document("page", tuple(segments)))

    def captions(self, length: int) -> list[Sample]:
        """Captions in the order they are drawn, until the next one does not fit in `length` tokens."""
        drawn: list[Sample] = []
        while True:
            caption = self.caption()
            if sum(map(len, drawn)) + len(caption) > length:
                return drawn
            drawn.append(caption)

    def _caption_length(self) -> int:
        variance = math.log(1 + (CAPTION_DEVIATION / CAPTION_TOKENS) ** 2)
        length = self.rng.lognormvariate(math.log(CAPTION_TOKENS) - variance / 2, math.sqrt(variance))
        return min(max(round(length), SHORTEST_CAPTION), LONGEST_CAPTION)

    def _words(self, count: int) -> Text:
        return Text(" ".join(f"word{self.rng.randrange(len(self.words))}" for _ in range(count)))

    def _image(self) -> Image:
        data = tiny.png(self.rng, self.image_size)
        return Image(lambda: data)


def write_data(folder: Path, pieces: int = PIECES) -> Path:
    """Write a data YAML of the three streams. Its corpora are placeholders: samples come from `Noise`."""
    vocabulary = write_vocabulary(folder / "vocabulary", pieces)
    tiny.write_text(folder / "text", [[vocabulary.unk + 1]], vocabulary.eos)
    tiny.write_tar(folder / "images.tar", [])
    corpora = {"text": "text", "captions": "images.tar", "interleaved": "images.tar"}
    streams = {
        kind: {"kind": kind, "sequences_per_update": 1, "corpora": [{"name": "noise", "train": path}]}
        for kind, path in corpora.items()
    }
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"vocabulary": "vocabulary", "streams": streams}))
    return path
