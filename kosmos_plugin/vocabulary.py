"""Text ⇄ token ids: SentencePiece, fairseq's `Dictionary` and the special tokens.

The ids are the public KOSMOS dictionary's: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, then the SentencePiece pieces in
the model's order, then `<mask>`, `</doc>`, `<image>`, `</image>`, `</chunk>`, `</line>`. The public model has 63,997
pieces, which makes the paper's vocabulary of 64,007.

A vocabulary is a folder with two files: `sentencepiece.model`, and `dict.txt` (fairseq's format, only the pieces).
A third, `special_tokens.txt`, may name further special tokens, one per line, whose ids follow: KOSMOS-2 has 1,030, for
image locations and tags. A fourth, `encoding.json`, records that newlines are encoded: {"newline": "</line>"}. Without
it SentencePiece normalizes them, by default to a space.
"""

import functools
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, SupportsInt

import numpy as np
import sentencepiece

from kosmos_plugin.compat.quiet_import import import_fairseq
from kosmos_plugin.errors import UserError

if TYPE_CHECKING:
    from fairseq.data import Dictionary

SPECIAL_TOKENS = ("<mask>", "</doc>", "<image>", "</image>", "</chunk>", "</line>")
MODEL_FILE = "sentencepiece.model"
DICTIONARY_FILE = "dict.txt"
FURTHER_TOKENS_FILE = "special_tokens.txt"
ENCODING_FILE = "encoding.json"
FILES = (MODEL_FILE, DICTIONARY_FILE, FURTHER_TOKENS_FILE, ENCODING_FILE)

LINE_END = "</line>"
_NEWLINE = re.compile("\r\n|\r|\n")
_SPACE = "▁"  # how SentencePiece writes one


class Vocabulary:
    """Encodes and decodes text, and knows the ids of special tokens.

    Text that happens to spell a special token stays text: pieces are looked up by their index in the SentencePiece
    model, and SentencePiece never turns text into a control symbol.

    Args:
        processor: The SentencePiece model.
        dictionary: Its pieces in fairseq's format. The special tokens are added to it.
        further_tokens: Special tokens beyond SPECIAL_TOKENS.
        newlines: Whether newlines are encoded, as `</line>`.
    """

    def __init__(
        self,
        processor: sentencepiece.SentencePieceProcessor,
        dictionary: "Dictionary",
        further_tokens: Sequence[str] = (),
        newlines: bool = False,
    ):
        self.files: dict[str, bytes] = {}  # what `load` has read, by name
        special_tokens = (*SPECIAL_TOKENS, *further_tokens)
        self.newlines = newlines
        self.processor = processor
        self.dictionary = dictionary
        self._id_of_piece = np.array(
            [dictionary.index(processor.id_to_piece(i)) for i in range(processor.get_piece_size())], dtype=np.int64
        )
        # Unknown: control symbols, and pieces that dict.txt lacks but that are spelled like one of fairseq's symbols.
        self._id_of_piece[self._id_of_piece < dictionary.nspecial] = dictionary.unk()
        self._piece_of_id = np.full(len(dictionary) + len(special_tokens), processor.unk_id(), dtype=np.int64)
        self._is_text = np.zeros(len(self._piece_of_id), dtype=bool)
        for piece, token in enumerate(self._id_of_piece):
            if token != dictionary.unk():
                self._piece_of_id[token] = piece
                self._is_text[token] = True
        self._is_text[dictionary.unk()] = True
        # `overwrite` gives each special token its own id even if a piece is spelled the same.
        self._special = {symbol: dictionary.add_symbol(symbol, overwrite=True) for symbol in special_tokens}

    @classmethod
    def load(cls, folder: str | Path) -> "Vocabulary":
        """Read `sentencepiece.model` and `dict.txt` and, if they exist, the other files from `folder`.

        Raises:
            UserError: A file is missing or broken, or they do not belong together.
        """
        folder = Path(folder)
        for name in (MODEL_FILE, DICTIONARY_FILE):
            if not (folder / name).is_file():
                raise UserError(
                    f"The vocabulary folder {folder} has no {name}; it needs {MODEL_FILE} and {DICTIONARY_FILE}."
                )
        paths = [folder / name for name in FILES]
        return cls.from_files({path.name: path.read_bytes() for path in paths if path.is_file()}, folder)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], folder: str | Path) -> "Vocabulary":
        """Make a vocabulary of its files' contents, by name.

        Args:
            files: The contents.
            folder: Where they are from, for error messages.

        Raises:
            UserError: A file is missing or broken, or they do not belong together.
        """
        import_fairseq()  # here, since importing fairseq imports this module
        from fairseq.data import Dictionary

        folder = Path(folder)
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(files[MODEL_FILE])
        except (KeyError, OSError, RuntimeError) as error:
            raise UserError(f"{folder / MODEL_FILE} is not a SentencePiece model: {error}") from None
        dictionary = Dictionary()
        try:
            dictionary.add_from_file(io.TextIOWrapper(io.BytesIO(files[DICTIONARY_FILE]), encoding="utf-8"))
        except Exception as error:  # fairseq raises anything from ValueError to bare Exception
            raise UserError(f"{folder / DICTIONARY_FILE} is not a dictionary of fairseq: {error}") from None
        pieces = [processor.id_to_piece(i) for i in _text_pieces(processor)]
        missing = sum(piece not in dictionary for piece in pieces)
        if missing > len(pieces) // 2:
            raise UserError(
                f"{folder / DICTIONARY_FILE} lacks {missing:,} of the {len(pieces):,} pieces of {folder / MODEL_FILE}: "
                "they do not belong together."
            )
        further_tokens = _further_tokens(files.get(FURTHER_TOKENS_FILE), folder / FURTHER_TOKENS_FILE)
        newlines = _encodes_newlines(files.get(ENCODING_FILE), folder / ENCODING_FILE)
        vocabulary = cls(processor, dictionary, further_tokens, newlines)
        vocabulary.files = {name: files[name] for name in FILES if name in files}
        return vocabulary

    def save(self, folder: str | Path) -> None:
        """Write the files that `load` reads into `folder`, which is made if it is missing."""
        folder = Path(folder)
        folder.mkdir(exist_ok=True)
        for name in self.files.keys() - {ENCODING_FILE}:
            (folder / name).write_bytes(self.files[name])
        if self.newlines:  # as the checkpoint says, which knows better than the folder it was trained with
            write_encoding(folder)

    def __len__(self) -> int:
        return len(self.dictionary)

    @property
    def bos(self) -> int:
        """`<s>`, the start of every sequence."""
        return self.dictionary.bos()

    @property
    def pad(self) -> int:
        """`<pad>`, which fills rows and marks targets that are not in the loss."""
        return self.dictionary.pad()

    @property
    def eos(self) -> int:
        """`</s>`, the end of every sequence."""
        return self.dictionary.eos()

    @property
    def unk(self) -> int:
        """`<unk>`, for text that no piece covers."""
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
        """The id at positions of image embeddings (`<mask>`; its value never matters)."""
        return self._special["<mask>"]

    @property
    def line_end(self) -> int:
        """`</line>`, the end of a line within a text."""
        return self._special[LINE_END]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits that differ between vocabularies whose ids have different meanings."""
        symbols = "\n".join(self.dictionary.symbols)
        return hashlib.blake2b(symbols.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()

    @property
    def encoding_fingerprint(self) -> str:
        """Eight hexadecimal digits that differ between vocabularies that may encode a text as other tokens."""
        digest = hashlib.blake2b(self._model_digest, digest_size=4)
        digest.update(f"{self.fingerprint} {self.newlines}".encode())
        return digest.hexdigest()

    @functools.cached_property
    def _model_digest(self) -> bytes:
        return hashlib.blake2b(self.processor.serialized_model_proto(), digest_size=16).digest()

    def encode(self, text: str) -> list[int]:
        r"""Encode `text` as token ids, without `<s>` and `</s>`.

        If newlines are encoded, `</line>` stands between the lines of the text. Lines end with \r\n, \r or \n; empty
        ones are left out.
        """
        lines = self._lines(text)
        if len(lines) == 1:
            return self._id_of_piece[self.processor.encode(lines[0])].tolist()
        tokens: list[int] = []
        for pieces in filter(None, self.processor.encode(lines)):
            tokens += [self.line_end] * bool(tokens) + self._id_of_piece[pieces].tolist()
        return tokens

    def encode_parts(self, text: str) -> tuple[list[int], list[str]]:
        """Encode `text` as `encode` does, and give the part of it that each token stands for.

        The parts together are the text, with its spaces and newlines. Of several tokens that make one character, one
        has it, and the others have "".
        """
        tokens: list[int] = []
        begins: list[int] = []  # of each token's part
        end = 0  # of the last line
        for line in self._lines(text):
            pieces = self.processor.encode(line, out_type="immutable_proto").pieces
            if not pieces:
                continue
            if tokens:
                tokens.append(self.line_end)
                begins.append(end)
            start = text.index(line, end)
            tokens += self._id_of_piece[[piece.id for piece in pieces]].tolist()
            begins += [start + piece.begin for piece in pieces]
            end = start + len(line)
        bounds = [0, *begins[1:], len(text)]
        return tokens, [text[begin:end] for begin, end in itertools.pairwise(bounds)] if tokens else []

    def _lines(self, text: str) -> list[str]:
        """What is encoded by itself: the lines of a text or, if newlines are not encoded, all of it."""
        if not self.newlines or ("\n" not in text and "\r" not in text):
            return [text]
        return [line for line in _NEWLINE.split(text) if line.strip()]

    def decode(self, tokens: Iterable[SupportsInt]) -> str:
        """Decode token ids as text, without special tokens except, if newlines are encoded, `</line>`."""
        ids = np.asarray([int(token) for token in tokens], dtype=np.int64)
        ends = np.flatnonzero((ids == self.line_end) & self.newlines)
        lines = [self._piece_of_id[line[self._is_text[line]]].tolist() for line in np.split(ids, ends)]
        return "\n".join(map(self.processor.decode, lines))

    def text_bytes(self, token: int) -> bytes:
        r"""The bytes that a token adds to a text, in UTF-8: several tokens may make one character.

        Special tokens add none, except, if newlines are encoded, `</line>`: a \n.
        """
        if token == self.line_end and self.newlines:
            return b"\n"
        if not self._is_text[token]:
            return b""
        piece = int(self._piece_of_id[token])
        if self.is_byte(token):
            return bytes([int(self.processor.id_to_piece(piece)[1:-1], 16)])  # <0xE2>
        if token == self.unk:
            return self.processor.decode([piece]).encode()
        return self.processor.id_to_piece(piece).replace(_SPACE, " ").encode()

    def is_byte(self, token: int) -> bool:
        """Whether a token is a single byte of a character that no piece covers."""
        return bool(self._is_text[token]) and self.processor.is_byte(int(self._piece_of_id[token]))

    def as_decoded(self, text: str) -> str:
        r"""Write newlines as `decode` does: a run of them is one \n, if newlines are encoded."""
        return re.sub(r"[\r\n]+", "\n", text) if self.newlines else text

    def index(self, symbol: str) -> int | None:
        """The id of a token by how the dictionary spells it; None if it has no such token."""
        return self.dictionary.indices.get(symbol)

    def symbol(self, token: int) -> str:
        """The token as the dictionary spells it, e.g. `▁the` or `<image>`."""
        return self.dictionary[int(token)]


def write_dictionary(folder: str | Path) -> Path:
    """Write `folder/dict.txt` for `folder/sentencepiece.model`: its pieces in order, without control symbols.

    A piece that is spelled like one of fairseq's symbols (`<pad>`) is marked, so that it gets its own id.

    Returns:
        The path of the dict.txt.
    """
    import_fairseq()
    from fairseq.data import Dictionary

    folder = Path(folder)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / MODEL_FILE))
    fairseqs = set(Dictionary().symbols)
    pieces = [processor.id_to_piece(i) for i in _text_pieces(processor)]
    lines = [f"{piece} 1 #fairseq:overwrite\n" if piece in fairseqs else f"{piece} 1\n" for piece in pieces]
    path = folder / DICTIONARY_FILE
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_encoding(folder: str | Path) -> Path:
    """Record in `folder` that newlines are encoded, and return the path of the encoding.json."""
    path = Path(folder) / ENCODING_FILE
    path.write_text(json.dumps({"newline": LINE_END}) + "\n", encoding="utf-8")
    return path


def _further_tokens(data: bytes | None, path: Path) -> list[str]:
    tokens = _text(data or b"", path).splitlines()
    if len({*tokens, *SPECIAL_TOKENS, ""}) != len(tokens) + len(SPECIAL_TOKENS) + 1:
        raise UserError(f"{path} must hold one new special token per line, each only once.")
    return tokens


def _encodes_newlines(data: bytes | None, path: Path) -> bool:
    if data is None:
        return False
    try:
        encoding = json.loads(_text(data, path))
    except ValueError:
        encoding = None
    if encoding not in ({"newline": LINE_END}, {"newline": None}):
        raise UserError(f'{path} must hold {{"newline": "{LINE_END}"}}, or null for newlines that are not encoded.')
    return encoding["newline"] is not None


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}.") from None


def _text_pieces(processor: sentencepiece.SentencePieceProcessor) -> list[int]:
    """Ids in the SentencePiece model of all pieces but control symbols and `<unk>`."""
    ids = range(processor.get_piece_size())
    return [i for i in ids if not (processor.is_control(i) or processor.is_unknown(i))]
