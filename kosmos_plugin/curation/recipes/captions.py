"""kosmos-prepare captions: image–caption pairs → shards without the pairs that the paper discards (§B.1.2).

tars            see `captions_in_place`
other formats   read pairs ─ tags, lengths, language, images ─→ shards
"""

from collections.abc import Sequence

from kosmos_plugin.curation.filters.captions import CaptionLengthFilter, ImageFilter, TagFilter
from kosmos_plugin.curation.filters.language import EnglishFilter
from kosmos_plugin.curation.options import CAPTION_VALID_SHARE, CaptionOptions
from kosmos_plugin.curation.pipeline.checks import require, require_valid_share
from kosmos_plugin.curation.pipeline.inputs import InputFile, files_of_format
from kosmos_plugin.curation.pipeline.run import Run
from kosmos_plugin.curation.pipeline.runner import Stage
from kosmos_plugin.curation.pipeline.steps import Filter
from kosmos_plugin.curation.readers.captions import (
    FORMAT_GROUPS,
    FORMATS,
    ReadCoco,
    ReadFiles,
    ReadPairs,
    ReadParquet,
    ReadTsv,
)
from kosmos_plugin.curation.recipes.captions_in_place import stages_in_place
from kosmos_plugin.curation.writers.index_shards import require_local
from kosmos_plugin.curation.writers.shards import WriteShards, caption_record
from kosmos_plugin.errors import UserError


def stages(run: Run[CaptionOptions]) -> list[Stage]:
    """Make the stages of a run. UserError for wrong options or inputs."""
    options = run.options
    share = CAPTION_VALID_SHARE if options.valid_share is None else options.valid_share
    require_valid_share(share)
    format, files = files_of_format(run.inputs, options.format, FORMATS, FORMAT_GROUPS)
    if format == "webdataset":
        require(
            options.valid_share is None,
            "--valid-share: tars are used in place. Name some of them as valid instead of train in the data YAML.",
        )
        require_local(files)
        return stages_in_place(run, files, _filters(run))
    reader = _reader(format, files, run)
    write = WriteShards(run.out, caption_record, share)
    return [Stage("write captions", [reader, *_filters(run), write], reader.tasks)]


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
    if format == "files":
        return ReadFiles(files, options.caption_from, dropped)
    if format == "parquet":
        return ReadParquet(files, dropped)
    if format == "tsv":
        for column in ("caption", "image"):
            require(column in options.tsv_columns, f"--tsv-columns must have a column {column}.")
        return ReadTsv(files, options.tsv_columns, dropped)
    if options.images is None:
        raise UserError("Give --images, the folder of the images that COCO's annotations name.")
    return ReadCoco(files, options.images, dropped)
