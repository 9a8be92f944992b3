"""kosmos-prepare captions: image–caption pairs → shards without the pairs that the paper discards (§B.1.2).

tars            see `captions_in_place`
other formats   read pairs ─ tags, lengths, language, images ─→ shards
"""

import functools
from collections.abc import Sequence

from kosmos_plugin.curation.filters.captions import CaptionLengthFilter, ImageFilter, TagFilter
from kosmos_plugin.curation.filters.language import EnglishFilter
from kosmos_plugin.curation.options import CaptionOptions
from kosmos_plugin.curation.pipeline.checks import require, require_folder, require_known_form
from kosmos_plugin.curation.pipeline.inputs import InputFile, files_of_format
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import Filter
from kosmos_plugin.curation.readers.caption_tables import PairColumns, ReadTable
from kosmos_plugin.curation.readers.captions import (
    FORMAT_GROUPS,
    FORMATS,
    METADATA_FILES,
    ReadCoco,
    ReadFiles,
    ReadPairs,
    is_coco,
)
from kosmos_plugin.curation.recipes.captions_in_place import stages_in_place
from kosmos_plugin.curation.sampling.hold_out import Held, write_stages
from kosmos_plugin.curation.writers.index_shards import require_local
from kosmos_plugin.curation.writers.shards import WriteShards, caption_record
from kosmos_plugin.errors import UserError


def stages(run: Run[CaptionOptions]) -> list[Stage]:
    """Make the stages of a run. UserError for wrong options or inputs."""
    options = run.options
    format, files = _format(run)
    if format == "webdataset":
        require(
            options.valid_share is None and options.valid_documents is None,
            "--valid-share and --valid-documents: tars are used in place. Name some of them as valid instead of train "
            "in the data YAML.",
        )
        require_local(files)
        return stages_in_place(run, files, _filters(run))
    reader = _reader(format, files, run)
    require_known_form(reader)
    held = Held.of_options(options.valid_share, options.valid_documents, reader.tasks)
    write = functools.partial(WriteShards, run.out, caption_record)
    read = [reader, *_filters(run)]
    return write_stages("write captions", read, write, reader.tasks, run.intermediate / "held", held)


def _format(run: Run[CaptionOptions]) -> tuple[str, list[InputFile]]:
    """The format of the input, and the files in that format."""
    wanted = run.options.format
    inputs = [file for file in run.inputs if wanted is None and file.name in METADATA_FILES] or run.inputs
    format, files = files_of_format(inputs, wanted, FORMATS, FORMAT_GROUPS)
    is_table = format == "coco" and wanted is None and not is_coco(files[0])
    return "json" if is_table else format, files


def _filters(run: Run[CaptionOptions]) -> list[Filter]:
    """The filters that the options ask for, the fast ones first."""
    options = run.options
    filters: list[Filter] = [] if options.keep_tags else [TagFilter(run.dropped_writer("tags"))]
    words, characters = (options.min_words, options.max_words), (options.min_characters, options.max_characters)
    filters.append(CaptionLengthFilter(words, characters, run.dropped_writer("length")))
    if options.english:
        filters.append(EnglishFilter(run.dropped_writer("language")))
    filters.append(
        ImageFilter(options.min_side, options.max_aspect, options.decode, run.dropped_writer("images")),
    )
    return filters


def _reader(format: str, files: Sequence[InputFile], run: Run[CaptionOptions]) -> ReadPairs:
    options, dropped = run.options, run.dropped_writer("invalid")
    if options.images is not None:
        require_folder(options.images, "--images")
    if format == "files":
        return ReadFiles(files, options.caption_from, dropped)
    if format == "coco":
        if options.images is None:
            raise UserError("Give --images, the folder of the images that COCO's annotations name.")
        return ReadCoco(files, options.images, dropped)
    columns = PairColumns(options.image_column, options.caption_column, options.tsv_columns or None)
    for column in {options.image_column or "image", options.caption_column or "caption"}:
        require(column in (columns.order or [column]), f"--tsv-columns must have a column {column}.")
    return ReadTable(files, format, columns, options.images, dropped)
