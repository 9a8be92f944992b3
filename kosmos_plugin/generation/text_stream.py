"""A text as its tokens come: what is shown is never half a character, nor part of a stop text."""

import codecs
from collections.abc import Iterable, Sequence

import regex

from kosmos_plugin.vocabulary import Vocabulary

_CHARACTER = regex.compile(r"\X")  # what a reader takes for one: a letter with its accents, an emoji of several


class TextStream:
    """The text of one sequence. What `add` and `end` return, one after the other, is the text.

    Left out are whitespace at both ends, and a character of which bytes are missing at the end.

    Args:
        vocabulary: The vocabulary.
        stop: Texts that end it; they and what follows are left out.

    Attributes:
        stopped_by: The stop text that has ended it, if one has.
    """

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str] = ()):
        self.vocabulary = vocabulary
        self.stop = {vocabulary.as_decoded(text): text for text in stop}
        self.stopped_by: str | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._line_begin: list[int] | None = []  # the tokens of a line that has no text yet; None: it has
        self._pending = ""  # decoded, but not shown
        self._shown = False  # whether anything is

    def add(self, token: int) -> str:
        """Append a token.

        Returns:
            What more can be shown, often nothing: the last character may still get an accent.
        """
        if self.stopped_by is not None:
            return ""
        self._pending += self._utf8.decode(self._bytes_of(token))
        starts = {self._pending.find(text): text for text in self.stop if text in self._pending}
        if starts:
            start = min(starts)
            self._pending, self.stopped_by = self._pending[:start], self.stop[starts[start]]
            return self.end()
        if not self._pending or self._pending.isspace():
            return ""
        limit = len(self._pending) - max((_overlap(self._pending, text) for text in self.stop), default=0)
        return self._show(max(start for one in _CHARACTER.finditer(self._pending) if (start := one.start()) <= limit))

    def end(self) -> str:
        """What is still to be shown if no token follows."""
        return self._show(len(self._pending))

    def _show(self, length: int) -> str:
        text = self._pending[:length].rstrip()
        self._pending = self._pending[len(text) :]
        if not self._shown:
            text = text.lstrip()
            self._shown = bool(text)
        return text

    def _bytes_of(self, token: int) -> bytes:
        """The bytes that a token adds. SentencePiece writes a space at the begin of a line, which is not one."""
        added = self.vocabulary.text_bytes(token)
        if token == self.vocabulary.line_end:
            self._line_begin = []
        elif self._line_begin is not None:
            self._line_begin.append(token)
            if self.vocabulary.is_byte(token):
                self._line_begin = None
            else:
                added = self.vocabulary.decode(self._line_begin).encode()
                self._line_begin = None if added else self._line_begin
        return added


def text_of(vocabulary: Vocabulary, tokens: Iterable[int], stop: Sequence[str] = ()) -> str:
    """The text of a whole sequence, up to the first of the `stop` texts."""
    stream = TextStream(vocabulary, stop)
    return "".join([*map(stream.add, tokens), stream.end()])


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters may be the begin of a stop text."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
