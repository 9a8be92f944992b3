"""Filters of text documents: invalid text, subsets of The Pile, and length."""

from collections.abc import Collection, Mapping

from datatrove.data import Document
from datatrove.pipeline.writers.disk_base import DiskWriter

from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.steps import Filter

# A field of The Pile's records: {"text": …, "meta": {"pile_set_name": "Pile-CC"}}.
PILE_SUBSET = "pile_set_name"
INPUT_FOLDER = "input_folder"  # metadata of documents of other sources: the name of the folder that their file is in

CORPUS = "corpus"  # metadata: the folder, below the run's, of the corpus that a document belongs to


def check_text(text: object) -> None:
    """Raise Dropped if a value is not a text that can be trained on."""
    if not isinstance(text, str):
        raise Dropped("no text, or not valid UTF-8")
    if not text.strip():
        raise Dropped("empty text")
    if "\0" in text:
        raise Dropped("NUL bytes")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # JSON can spell it: "\ud83d"
        raise Dropped("half a surrogate pair") from None


class ValidTextFilter(Filter):
    """Drops documents whose text is empty or broken."""

    name = "valid text"

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        try:
            check_text(document.text)
        except Dropped as error:
            return False, error.reason
        return True


class SubsetFilter(Filter):
    """Drops documents of the subsets `excluded` of The Pile."""

    name = "subset"

    def __init__(self, excluded: Collection[str], exclusion_writer: DiskWriter | None = None):
        super().__init__(exclusion_writer)
        self.excluded = excluded

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        subset = document.metadata.get(PILE_SUBSET)
        return (False, f"subset {subset}") if subset in self.excluded else True


class CorpusFilter(Filter):
    """Drops documents of other subsets than those of `corpora`, and gives the others their corpus.

    Args:
        corpora: Subset → the corpus, a folder. A document that is not of The Pile has the folder of its file as subset.
        exclusion_writer: Writes the dropped documents.
    """

    name = "corpus"

    def __init__(self, corpora: Mapping[str, str], exclusion_writer: DiskWriter | None = None):
        super().__init__(exclusion_writer)
        self.corpora = corpora

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        subset = document.metadata.get(PILE_SUBSET) or document.metadata.get(INPUT_FOLDER)
        if subset not in self.corpora:
            return False, f"subset {subset}"
        document.metadata[CORPUS] = self.corpora[subset]
        return True


class MinWordsFilter(Filter):
    """Drops documents of fewer than `min_words` words."""

    name = "words"

    def __init__(self, min_words: int, exclusion_writer: DiskWriter | None = None):
        super().__init__(exclusion_writer)
        self.min_words = min_words

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        if len(document.text.split()) >= self.min_words:
            return True
        return False, f"fewer than {self.min_words} words"
