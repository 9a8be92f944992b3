"""The quickstart's text, the standard library's help pages, as one stream of tokens for each split."""

import io
import sys
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import NamedTuple

import torch

from kosmos_plugin.vocabulary import Vocabulary

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "quickstart"))

from corpora import split, topics
from prepare import write_vocabulary


class Text(NamedTuple):
    """Token streams `<s> topic </s> <s> topic </s> …`, int64 [L]."""

    train: torch.Tensor
    valid: torch.Tensor
    vocabulary_size: int
    pad: int


def quickstart_text(pieces: int, held_out: float) -> Text:
    """The text in a vocabulary of `pieces`, trained on its training split; `held_out` is the share of valid."""
    pages = split(topics(), held_out, group=lambda page: page[0], size=lambda page: len(page[1]))
    lines = [line for _, page in pages["train"] for line in page.splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stderr(io.StringIO()):  # a progress bar
            write_vocabulary(Path(folder), lines, pieces)
        vocabulary = Vocabulary.load(folder)

    def stream(name: str) -> torch.Tensor:
        tokens = []
        for _, page in pages[name]:
            tokens += [vocabulary.bos, *vocabulary.encode(page), vocabulary.eos]
        return torch.tensor(tokens)

    return Text(stream("train"), stream("valid"), len(vocabulary), vocabulary.pad)
