"""kosmos-prepare text: raw text → fairseq's binarized datasets, without duplicates and evaluation data (§3.1).

read texts ─ subsets, length, language, evaluation data ─→ documents ─ duplicates ─→ binarize
"""

import functools
from pathlib import Path, PurePosixPath

from kosmos_plugin.atomic import write_text
from kosmos_plugin.curation.dedup.minhash import DUPLICATE, DuplicateFilter, duplicate_stages
from kosmos_plugin.curation.filters.contamination import ContaminationFilter
from kosmos_plugin.curation.filters.language import EnglishFilter
from kosmos_plugin.curation.filters.text import CorpusFilter, MinWordsFilter, SubsetFilter
from kosmos_plugin.curation.options import PAPER_CORPORA, TextOptions
from kosmos_plugin.curation.pipeline.checks import require
from kosmos_plugin.curation.pipeline.inputs import check_formats, find_inputs
from kosmos_plugin.curation.pipeline.intermediate import ReadIntermediate, write_intermediate
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import Filter
from kosmos_plugin.curation.readers.evaluation_files import write_ngrams
from kosmos_plugin.curation.readers.text_files import EXTENSIONS, ReadTexts
from kosmos_plugin.curation.sampling.hold_out import Held, write_stages
from kosmos_plugin.curation.writers.binarized_text import Binarize
from kosmos_plugin.vocabulary import DICTIONARY_FILE, Vocabulary


def stages(run: Run[TextOptions]) -> list[Stage]:
    """Make the stages of a run. UserError for wrong options or inputs."""
    options = run.options
    Vocabulary.load(options.vocabulary)
    check_formats(run.inputs, EXTENSIONS, "Text is")
    reader = ReadTexts(run.inputs, options.text_key, options.separator, run.dropped_writer("invalid"))
    held = Held.of_options(options.valid_share, options.valid_documents, reader.tasks)
    read = [reader, *_filters(run)]
    for folder in {run.out / corpus for corpus in _corpora(options).values()} or {run.out}:
        if not (folder / DICTIONARY_FILE).is_file():  # training checks that text and vocabulary belong together
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / DICTIONARY_FILE, (Path(options.vocabulary) / DICTIONARY_FILE).read_text("utf-8"))
    write = functools.partial(Binarize, run.out, options.vocabulary, options.tokens_per_sample)
    binarize = functools.partial(
        write_stages, "binarize texts", write=write, tasks=reader.tasks, folder=run.intermediate / "held", held=held
    )
    if options.duplicates == "none":
        return binarize(read=read)
    documents, duplicates = run.intermediate / "documents", run.intermediate / "duplicates"
    unique = DuplicateFilter(duplicates, run.dropped_writer("duplicates", DUPLICATE))
    return [
        Stage("read texts", [*read, write_intermediate(documents)], reader.tasks),
        *duplicate_stages(ReadIntermediate(documents), reader.tasks, duplicates, options.duplicates),
        *binarize(read=[ReadIntermediate(documents), unique]),
    ]


def _corpora(options: TextOptions) -> dict[str, str]:
    """Subset → folder, of --split-subsets. UserError for another value or a folder that is not below --out."""
    values = [v for value in options.split_subsets for v in (PAPER_CORPORA if value == "paper" else (value,))]
    for value in values:
        subset, _, folder = value.partition("=")
        parts = PurePosixPath(folder).parts
        good = bool(subset and parts) and ".." not in parts and not PurePosixPath(folder).is_absolute()
        require(good and parts[0] != "work", f"--split-subsets {value} must be `paper` or SUBSET=FOLDER, in --out.")
    return dict(value.split("=", 1) for value in values)


def _filters(run: Run[TextOptions]) -> list[Filter]:
    options = run.options
    corpora = _corpora(options)
    filters: list[Filter] = [
        CorpusFilter(corpora, run.dropped_writer("subset"))
        if corpora
        else SubsetFilter(options.exclude_subsets, run.dropped_writer("subset")),
        MinWordsFilter(options.min_words, run.dropped_writer("words")),
    ]
    if options.english:
        filters.append(EnglishFilter(run.dropped_writer("language")))
    if options.evaluation:
        ngrams = run.work / "evaluation.npz"
        write_ngrams(find_inputs(options.evaluation), ngrams)
        filters.append(ContaminationFilter(ngrams, run.dropped_writer("evaluation")))
    return filters
