"""Text ⇄ token ids: SentencePiece, fairseq's `Dictionary` and the special tokens, in one place.

The ids are the public KOSMOS dictionary's: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, then the SentencePiece pieces in
the model's order, then `<mask>`, `</doc>`, `<image>`, `</image>`, `</chunk>`, `</line>`. With the public model's 63,997
pieces that is the paper's vocabulary of 64,007.

A vocabulary is a folder with two files: `sentencepiece.model`, and `dict.txt` (fairseq's format, the pieces alone).
A third, `special_tokens.txt`, may name further special tokens, one a line, whose ids follow: KOSMOS-2 has 1,030, for
places in an image.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import sentencepiece

from kosmos_plugin.errors import UserError

if TYPE_CHECKING:
    from fairseq.data import Dictionary

SPECIAL_TOKENS = ("<mask>", "</doc>", "<image>", "</image>", "</chunk>", "</line>")
MODEL_FILE = "sentencepiece.model"
DICTIONARY_FILE = "dict.txt"
FURTHER_TOKENS_FILE = "special_tokens.txt"


class Vocabulary:
    """Encodes and decodes text, and knows the special tokens' ids.

    Text that happens to spell a special token stays text: pieces are looked up by their place in the SentencePiece
    model, and SentencePiece never makes a control symbol out of text.
    """

    def __init__(
        self,
        processor: sentencepiece.SentencePieceProcessor,
        dictionary: "Dictionary",
        further_tokens: Sequence[str] = (),
    ):
        special_tokens = (*SPECIAL_TOKENS, *further_tokens)
        self.processor = processor
        self.dictionary = dictionary
        self._id_of_piece = np.array(
            [dictionary.index(processor.id_to_piece(i)) for i in range(processor.get_piece_size())], dtype=np.int64
        )
        # Control symbols, and pieces that dict.txt lacks but that are spelled like one of fairseq's own symbols.
        self._id_of_piece[self._id_of_piece < dictionary.nspecial] = dictionary.unk()
        self._piece_of_id = np.full(len(dictionary) + len(special_tokens), processor.unk_id(), dtype=np.int64)
        self._is_text = np.zeros(len(self._piece_of_id), dtype=bool)
        for piece, token in enumerate(self._id_of_piece):
            if token != dictionary.unk():
                self._piece_of_id[token] = piece
                self._is_text[token] = True
        self._is_text[dictionary.unk()] = True
        # `overwrite` gives each special token an id of its own even where a piece is spelled the same.
        self._special = {symbol: dictionary.add_symbol(symbol, overwrite=True) for symbol in special_tokens}

    @classmethod
    def load(cls, folder: str | Path) -> "Vocabulary":
        """Read `sentencepiece.model`, `dict.txt` and, if it is there, `special_tokens.txt` from `folder`."""
        from fairseq.data import Dictionary  # here, since importing fairseq imports this module

        folder = Path(folder)
        for name in (MODEL_FILE, DICTIONARY_FILE):
            if not (folder / name).is_file():
                raise UserError(
                    f"The vocabulary folder {folder} has no {name}; it needs {MODEL_FILE} and {DICTIONARY_FILE}."
                )
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.Load(str(folder / MODEL_FILE))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{folder / MODEL_FILE} is not a SentencePiece model: {error}") from None
        try:
            dictionary = Dictionary.load(str(folder / DICTIONARY_FILE))
        except Exception as error:  # fairseq raises anything from ValueError to bare Exception
            raise UserError(f"{folder / DICTIONARY_FILE} is not a dictionary of fairseq: {error}") from None
        pieces = [processor.id_to_piece(i) for i in _text_pieces(processor)]
        missing = sum(piece not in dictionary for piece in pieces)
        if missing > len(pieces) // 2:
            raise UserError(
                f"{folder / DICTIONARY_FILE} lacks {missing:,} of the {len(pieces):,} pieces of {folder / MODEL_FILE}: "
                "they do not belong together."
            )
        return cls(processor, dictionary, _further_tokens(folder / FURTHER_TOKENS_FILE))

    def __len__(self) -> int:
        return len(self.dictionary)

    @property
    def bos(self) -> int:
        """`<s>`, the start of every sequence."""
        return self.dictionary.bos()

    @property
    def pad(self) -> int:
        return self.dictionary.pad()

    @property
    def eos(self) -> int:
        """`</s>`, the end of every sequence."""
        return self.dictionary.eos()

    @property
    def unk(self) -> int:
        return self.dictionary.unk()

    @property
    def image_begin(self) -> int:
        """`<image>`, before an image's embeddings."""
        return self._special["<image>"]

    @property
    def image_end(self) -> int:
        """`</image>`, after an image's embeddings."""
        return self._special["</image>"]

    @property
    def image_slot(self) -> int:
        """The id written where an image embedding takes the place of a token (`<mask>`; its value never matters)."""
        return self._special["<mask>"]

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without `<s>` and `</s>`."""
        return self._id_of_piece[self.processor.encode(text)].tolist()

    def decode(self, tokens) -> str:
        """The text of `tokens` (any iterable of ids); special tokens are left out."""
        tokens = np.asarray([int(token) for token in tokens], dtype=np.int64)
        return self.processor.decode(self._piece_of_id[tokens[self._is_text[tokens]]].tolist())

    def symbol(self, token: int) -> str:
        """The token as it stands in the dictionary: a piece such as `▁the`, or a special token such as `<image>`."""
        return self.dictionary[int(token)]


def write_dictionary(folder: str | Path) -> Path:
    """Write `folder/dict.txt` for `folder/sentencepiece.model`: its pieces in order, without control symbols.

    A piece spelled like one of fairseq's own symbols (`<pad>`) is marked, so that it gets an id of its own.
    """
    from fairseq.data import Dictionary

    folder = Path(folder)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / MODEL_FILE))
    own = set(Dictionary().symbols)
    pieces = [processor.id_to_piece(i) for i in _text_pieces(processor)]
    lines = [f"{piece} 1 #fairseq:overwrite\n" if piece in own else f"{piece} 1\n" for piece in pieces]
    path = folder / DICTIONARY_FILE
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _further_tokens(path: Path) -> list[str]:
    tokens = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if len({*tokens, *SPECIAL_TOKENS, ""}) != len(tokens) + len(SPECIAL_TOKENS) + 1:
        raise UserError(f"{path} must name one new special token a line, each once.")
    return tokens


def _text_pieces(processor: sentencepiece.SentencePieceProcessor) -> list[int]:
    """The model's ids that stand for text: neither control symbols nor `<unk>`."""
    ids = range(processor.get_piece_size())
    return [i for i in ids if not (processor.is_control(i) or processor.is_unknown(i))]
