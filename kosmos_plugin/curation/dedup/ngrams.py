"""Words and n-grams for comparing texts: in lower case, without punctuation and accents."""

import numpy as np
import xxhash
from datatrove.utils.text import TextNormConfig, simplify_text
from datatrove.utils.word_tokenizers import WordTokenizer

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication modulo 2^64 is a bijection


class WhitespaceTokenizer(WordTokenizer):
    """Splits at whitespace. datatrove's own tokenizer for English needs spaCy and is many times slower."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError("texts are compared by words")

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError("texts are compared by words")


# Numbers are kept: "Chapter 1" and "Chapter 2" are two texts.
_NORMALIZATION = TextNormConfig(norm_numbers=False)
_ASCII_NORMALIZATION = TextNormConfig(norm_numbers=False, norm_unicode_diacritics=False)  # no accents to search for


def normalized_words(text: str) -> list[str]:
    """The words of `text`, normalized as datatrove's deduplication does."""
    return simplify_text(text, _ASCII_NORMALIZATION if text.isascii() else _NORMALIZATION).split()


def text_hash(words: list[str]) -> np.ndarray:
    """One 64-bit hash of all words: uint64 [1]."""
    return np.array([xxhash.xxh3_64_intdigest(" ".join(words).encode())], np.uint64)


def ngram_hashes(words: list[str], n: int) -> np.ndarray:
    """A 64-bit hash of every `n` consecutive words, in order: uint64 [max(0, len(words) - n + 1)]."""
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(word.encode()) for word in words), np.uint64, len(words))
    count = max(0, len(words) - n + 1)
    combined = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        for position in range(n):
            combined = (combined ^ hashes[position : position + count]) * _FACTOR
            combined ^= combined >> np.uint64(32)
    return combined
