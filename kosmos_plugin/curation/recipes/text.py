"""kosmos-prepare text: raw text → fairseq's binarized datasets, without duplicates and evaluation data (§3.1).

read texts ─ subsets, length, language, evaluation data ─→ parts ─ duplicates ─→ binarize
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datatrove.data import Document

from kosmos_plugin.curation.dedup.minhash import KINDS, DropDuplicates, duplicate_stages
from kosmos_plugin.curation.filters import language
from kosmos_plugin.curation.filters.contamination import EvaluationTexts
from kosmos_plugin.curation.pipeline.checks import require, require_valid_share
from kosmos_plugin.curation.pipeline.inputs import check_formats, find_inputs
from kosmos_plugin.curation.pipeline.intermediate import ReadPart, write_parts
from kosmos_plugin.curation.pipeline.runner import Run, Stage, write_atomically
from kosmos_plugin.curation.pipeline.steps import Rules
from kosmos_plugin.curation.readers.texts import FORMATS, PILE_SUBSET, ReadTexts
from kosmos_plugin.curation.writers.binarized_text import Binarize
from kosmos_plugin.options import option
from kosmos_plugin.vocabulary import DICTIONARY_FILE, Vocabulary

# §3.1: "We exclude data splits from GitHub, arXiv, Stack Exchange, and PubMed Central", by The Pile's names.
EXCLUDED_SUBSETS = ("Github", "ArXiv", "StackExchange", "PubMed Central")


@dataclass(frozen=True)
class TextOptions:
    vocabulary: str | None = option(None, "folder of sentencepiece.model and dict.txt (kosmos-prepare tokenizer)")
    text_key: str = option("text", "the field of JSON lines and Parquet that is the text")
    separator: str | None = option(None, 'plain text: the line between documents, "" for empty lines; else one a file')
    exclude_subsets: tuple[str, ...] = option(EXCLUDED_SUBSETS, "subsets of The Pile that are left out")
    english: bool = option(False, "keep English documents alone")
    min_words: int = option(1, "fewest words of a document")
    evaluation: tuple[str, ...] = option((), "evaluation files whose text must not be trained on (JSON, JSONL, text)")
    duplicates: str = option("near", "which duplicates to drop: near (exact ones too), exact or none", KINDS)
    valid_share: float = option(0.001, "share of the documents that is held out for validation")


def text_stages(run: Run) -> list[Stage]:
    """The stages of a run; what is wrong with its options or inputs is a UserError."""
    options: TextOptions = run.options
    require(options.vocabulary is not None, "Give --vocabulary, a folder that kosmos-prepare tokenizer makes.")
    require_valid_share(options.valid_share)
    Vocabulary.load(options.vocabulary)
    check_formats(run.inputs, FORMATS, "Text is")
    tasks, parts, duplicates = len(run.inputs), run.parts / "texts", run.parts / "duplicates"
    read = [ReadTexts(run.inputs, options.text_key, options.separator), Rules(_rules(run))]
    if not (run.out / DICTIONARY_FILE).is_file():  # by which training knows that the text is of its vocabulary
        write_atomically(run.out / DICTIONARY_FILE, (Path(options.vocabulary) / DICTIONARY_FILE).read_text("utf-8"))
    binarize = Binarize(run.out, options.vocabulary, options.valid_share)
    if options.duplicates == "none":
        return [Stage("binarize texts", [*read, binarize], tasks)]
    return [
        Stage("read texts", [*read, write_parts(parts)], tasks),
        *duplicate_stages(ReadPart(parts), tasks, duplicates, options.duplicates),
        Stage("binarize texts", [ReadPart(parts), DropDuplicates(duplicates), binarize], tasks),
    ]


def _rules(run: Run) -> list[Callable[[Document], str | None]]:
    options: TextOptions = run.options
    rules = [NotOfSubset(options.exclude_subsets), AtLeastWords(options.min_words)]
    if options.english:
        rules.append(language.not_english)
    if options.evaluation:
        rules.append(EvaluationTexts.build(find_inputs(options.evaluation), run.work / "evaluation.npz"))
    return rules


@dataclass(frozen=True)
class NotOfSubset:
    """Against documents of the subsets that are left out, as The Pile's records name theirs."""

    excluded: tuple[str, ...]

    def __call__(self, document: Document) -> str | None:
        subset = document.metadata.get(PILE_SUBSET)
        return f"subset {subset}" if subset in self.excluded else None


@dataclass(frozen=True)
class AtLeastWords:
    """Against documents of fewer than `least` words."""

    least: int

    def __call__(self, document: Document) -> str | None:
        return None if len(document.text.split()) >= self.least else f"fewer than {self.least} words"
