"""kosmos-prepare text: raw text → fairseq's binarized datasets, without duplicates and evaluation data (§3.1).

read texts ─ subsets, length, language, evaluation data ─→ documents ─ duplicates ─→ binarize
"""

from pathlib import Path

from kosmos_plugin.atomic import write_text
from kosmos_plugin.curation.dedup.minhash import DUPLICATE, DuplicateFilter, duplicate_stages
from kosmos_plugin.curation.filters.contamination import ContaminationFilter, write_ngrams
from kosmos_plugin.curation.filters.language import EnglishFilter
from kosmos_plugin.curation.filters.text import MinWordsFilter, SubsetFilter
from kosmos_plugin.curation.options import TextOptions
from kosmos_plugin.curation.pipeline.checks import require_valid_share
from kosmos_plugin.curation.pipeline.inputs import check_formats, find_inputs
from kosmos_plugin.curation.pipeline.intermediate import ReadIntermediate, write_intermediate
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import Filter
from kosmos_plugin.curation.readers.text_files import EXTENSIONS, ReadTexts
from kosmos_plugin.curation.writers.binarized_text import Binarize
from kosmos_plugin.vocabulary import DICTIONARY_FILE, Vocabulary


def stages(run: Run[TextOptions]) -> list[Stage]:
    """Make the stages of a run. UserError for wrong options or inputs."""
    options = run.options
    require_valid_share(options.valid_share)
    Vocabulary.load(options.vocabulary)
    check_formats(run.inputs, EXTENSIONS, "Text is")
    reader = ReadTexts(run.inputs, options.text_key, options.separator, run.dropped_writer("invalid"))
    read = [reader, *_filters(run)]
    if not (run.out / DICTIONARY_FILE).is_file():  # training checks that text and vocabulary belong together
        write_text(run.out / DICTIONARY_FILE, (Path(options.vocabulary) / DICTIONARY_FILE).read_text("utf-8"))
    binarize = Binarize(run.out, options.vocabulary, options.valid_share, options.tokens_per_sample)
    if options.duplicates == "none":
        return [Stage("binarize texts", [*read, binarize], reader.tasks)]
    documents, duplicates = run.intermediate / "documents", run.intermediate / "duplicates"
    unique = DuplicateFilter(duplicates, run.dropped_writer("duplicates", DUPLICATE))
    return [
        Stage("read texts", [*read, write_intermediate(documents)], reader.tasks),
        *duplicate_stages(ReadIntermediate(documents), reader.tasks, duplicates, options.duplicates),
        Stage("binarize texts", [ReadIntermediate(documents), unique, binarize], reader.tasks),
    ]


def _filters(run: Run[TextOptions]) -> list[Filter]:
    options = run.options
    filters: list[Filter] = [
        SubsetFilter(options.exclude_subsets, run.dropped_writer("subset")),
        MinWordsFilter(options.min_words, run.dropped_writer("words")),
    ]
    if options.english:
        filters.append(EnglishFilter(run.dropped_writer("language")))
    if options.evaluation:
        ngrams = run.work / "evaluation.npz"
        write_ngrams(find_inputs(options.evaluation), ngrams)
        filters.append(ContaminationFilter(ngrams, run.dropped_writer("evaluation")))
    return filters
