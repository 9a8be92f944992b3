"""Words and n-grams as the comparison of texts sees them: lower case, without punctuation and accents."""

import numpy as np
import xxhash
from datatrove.utils.text import TextNormConfig, simplify_text
from datatrove.utils.word_tokenizers import WordTokenizer

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing of a hash


class Words(WordTokenizer):
    """datatrove's interface to words: split at blanks. Its own for English needs spaCy and is many times slower."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError("texts are compared by words")

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError("texts are compared by words")


# Numbers stay as they are: "Chapter 1" and "Chapter 2" are two texts.
_NORMALIZATION = TextNormConfig(norm_numbers=False)
_OF_ASCII = TextNormConfig(norm_numbers=False, norm_unicode_diacritics=False)  # it has no accents; looking takes long


def words(text: str) -> list[str]:
    """The words of `text`, simplified as datatrove's deduplication simplifies them."""
    return simplify_text(text, _OF_ASCII if text.isascii() else _NORMALIZATION).split()


def text_hash(of: list[str]) -> np.ndarray:
    """A 64-bit hash of all words together: uint64 [1]."""
    return np.array([xxhash.xxh3_64_intdigest(" ".join(of).encode())], np.uint64)


def ngram_hashes(of: list[str], n: int) -> np.ndarray:
    """A 64-bit hash of every `n` consecutive words, in order: uint64 [max(0, len(of) - n + 1)]."""
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(word.encode()) for word in of), np.uint64, len(of))
    count = max(0, len(of) - n + 1)
    combined = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):  # modulo 2^64 is meant
        for place in range(n):
            combined = (combined ^ hashes[place : place + count]) * _FACTOR
            combined ^= combined >> np.uint64(32)
    return combined
