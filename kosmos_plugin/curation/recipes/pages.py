"""kosmos-prepare pages: web pages → shards of interleaved documents, by the paper's rules (§3.1, §B.1.3).

    list images ─→ sort images                       an index of the images in WARC files and tars
    read pages ─ gibberish, language ─→ documents ─ duplicates ─→ write pages ─ images, one image, rows ─→ shards

The input is WARC files, HTML, or the releases of MMC4 or OBELICS. Images are in the WARC files, beside the HTML, or
where --images says. Pages are filtered by their texts first: the bytes of images are read only in the last stage.
"""

import functools

from datatrove.pipeline.base import PipelineStep

from kosmos_plugin.curation.dedup.minhash import DUPLICATE, DuplicateFilter, duplicate_stages
from kosmos_plugin.curation.filters.language import EnglishFilter
from kosmos_plugin.curation.filters.pages import HasImageFilter, OneImageFilter
from kosmos_plugin.curation.filters.text import ValidTextFilter
from kosmos_plugin.curation.formatters.clean_text import CleanText
from kosmos_plugin.curation.formatters.fit_rows import FitRows
from kosmos_plugin.curation.formatters.use_images import UseImages
from kosmos_plugin.curation.options import PageOptions
from kosmos_plugin.curation.pipeline.checks import require
from kosmos_plugin.curation.pipeline.inputs import InputFile, files_of_format
from kosmos_plugin.curation.pipeline.intermediate import ReadIntermediate, write_intermediate
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import Reader
from kosmos_plugin.curation.readers.image_index import index_stages
from kosmos_plugin.curation.readers.image_stores import ImageStores, image_sources
from kosmos_plugin.curation.readers.releases import ReadMmc4, ReadObelics, holds_images
from kosmos_plugin.curation.readers.web_pages import FORMAT_GROUPS, FORMATS, ReadHtml, ReadWarc, folder_of
from kosmos_plugin.curation.sampling.hold_out import Held, write_stages
from kosmos_plugin.curation.writers.shards import WriteShards, interleaved_record
from kosmos_plugin.vocabulary import Vocabulary


def stages(run: Run[PageOptions]) -> list[Stage]:
    """Make the stages of a run. UserError for wrong options or inputs."""
    options = run.options
    _check_options(options)
    format, files = files_of_format(run.inputs, options.format, FORMATS, FORMAT_GROUPS)
    archives, folders = image_sources(options.images)
    if format == "warc":
        archives = [*files, *archives]
    require(
        format in ("warc", "html") or bool(archives or folders) or (format == "obelics" and holds_images(files[0])),
        "Give --images: img2dataset's tars, or a folder, with the release's downloaded images.",
    )
    root = folder_of(files) if format == "html" else None
    index, documents = run.intermediate / "images", run.intermediate / "documents"
    reader = _reader(format, files, run, root)
    read: list[PipelineStep] = [
        reader,
        CleanText(options.max_gibberish),
        ValidTextFilter(run.dropped_writer("invalid")),
        HasImageFilter(run.dropped_writer("no-image")),
    ]
    if options.english:
        read.append(EnglishFilter(run.dropped_writer("language")))
    read.append(write_intermediate(documents))
    find_duplicates, drop_duplicates = _duplicates(run, ReadIntermediate(documents), reader.tasks)
    write: list[PipelineStep] = [
        ReadIntermediate(documents),
        *drop_duplicates,
        UseImages(ImageStores(archives, index, folders, root), options.max_images, options.min_side, options.one_color),
        HasImageFilter(run.dropped_writer("no-usable-image")),
        OneImageFilter(options.drop_one_image, run.dropped_writer("one-image")),
    ]
    if options.vocabulary is not None:
        write.append(FitRows(options.vocabulary, options.tokens_per_sample, options.image_tokens))
    held = Held.of_options(options.valid_share, options.valid_documents, reader.tasks)
    shards = functools.partial(WriteShards, run.out, interleaved_record)
    return [
        *(index_stages(archives, index) if archives else []),
        Stage("read pages", read, reader.tasks),
        *find_duplicates,
        *write_stages("write pages", write, shards, reader.tasks, run.intermediate / "held", held),
    ]


def _check_options(options: PageOptions) -> None:
    for name in ("max_gibberish", "drop_one_image"):
        value = getattr(options, name)
        require(0 <= value <= 1, f"--{name.replace('_', '-')} must be 0 … 1, not {value}.")
    require(
        options.tokens_per_sample >= options.image_tokens + 4 > 4,
        f"--tokens-per-sample {options.tokens_per_sample} has no room for an image of --image-tokens "
        f"{options.image_tokens}.",
    )
    if options.vocabulary is not None:
        Vocabulary.load(options.vocabulary)


def _reader(format: str, files: list[InputFile], run: Run[PageOptions], root: str | None) -> Reader:
    dropped = run.dropped_writer("unreadable")
    if format == "html":
        assert root is not None
        return ReadHtml(files, run.options.max_html_bytes, root, dropped)
    if format == "warc":
        return ReadWarc(files, run.options.max_html_bytes, dropped)
    return ReadMmc4(files, dropped) if format == "mmc4" else ReadObelics(files, dropped)


def _duplicates(run: Run[PageOptions], read: PipelineStep, tasks: int) -> tuple[list[Stage], list[PipelineStep]]:
    """The stages that find duplicates, and the step that drops them."""
    if run.options.duplicates == "none":
        return [], []
    folder = run.intermediate / "duplicates"
    drop = DuplicateFilter(folder, run.dropped_writer("duplicates", DUPLICATE))
    return duplicate_stages(read, tasks, folder, run.options.duplicates), [drop]
