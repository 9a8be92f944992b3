"""kosmos-prepare captions: image–caption pairs → shards without those that the paper discards (§B.1.2).

    tars            filter shards: an index beside each tar, of the pairs that are kept ─→ list shards
    other formats   read pairs ─ tags, lengths, language, images ─→ shards

OUT/corpus.yaml: of tars, the corpus for a data YAML.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from datatrove.data import Document
from tqdm import tqdm

from kosmos_plugin.curation.filters import language
from kosmos_plugin.curation.filters.captions import MAX_IMAGE_BYTES, Length, Picture, has_tag, pair
from kosmos_plugin.curation.pipeline.checks import require, require_valid_share
from kosmos_plugin.curation.pipeline.inputs import InputFile, files_of_format
from kosmos_plugin.curation.pipeline.runner import Run, Stage, write_atomically
from kosmos_plugin.curation.pipeline.steps import Rules, Step
from kosmos_plugin.curation.readers.captions import (
    FORMAT_GROUPS,
    FORMATS,
    ReadCoco,
    ReadFiles,
    ReadPairs,
    ReadParquet,
    ReadTsv,
)
from kosmos_plugin.curation.recipes.index import BAD_FILE, IndexShards, JoinLines, require_local
from kosmos_plugin.curation.writers.shards import WriteShards, caption_record
from kosmos_plugin.data.documents import BrokenRecord
from kosmos_plugin.data.shard_index import Record, selection_of
from kosmos_plugin.data.shards import caption_document
from kosmos_plugin.errors import UserError
from kosmos_plugin.options import option

Rule = Callable[[Document], str | None]
CORPUS_FILE = "corpus.yaml"
VALID_SHARE = 0.001


@dataclass(frozen=True)
class CaptionOptions:
    format: str | None = option(None, "of the input, where names do not tell it", tuple(FORMATS))
    images: str | None = option(None, "coco: the folder of the images")
    tsv_columns: tuple[str, ...] = option(
        ("key", "caption", "image", "width", "height"), "tsv: its columns in order; caption and image (base64) are read"
    )
    keep_tags: bool = option(False, "keep captions with tags such as <PERSON>, which the paper discards")
    min_words: int = option(1, "fewest words of a caption")
    max_words: int | None = option(None, "most words of a caption")
    min_characters: int = option(1, "fewest characters of a caption")
    max_characters: int | None = option(None, "most characters of a caption")
    english: bool = option(False, "keep English captions alone; of short ones the language is often a guess")
    min_side: int = option(0, "fewest pixels of an image's shorter side; the paper has a bound for web pages alone, 64")
    max_aspect: float | None = option(None, "most that an image's longer side may be of the shorter one")
    decode: bool = option(False, "decode each image whole; else only its header is read")
    valid_share: float | None = option(
        None,
        f"share of the pairs held out for validation (default: {VALID_SHARE}); not of tars, which stay as they are",
    )


# Those that choose among the pairs; an index says by which it was made.
CHOOSING = tuple(
    field.name
    for field in dataclasses.fields(CaptionOptions)
    if field.name not in ("format", "images", "tsv_columns", "valid_share")
)


def caption_stages(run: Run) -> list[Stage]:
    """The stages of a run; what is wrong with its options or inputs is a UserError."""
    options: CaptionOptions = run.options
    share = VALID_SHARE if options.valid_share is None else options.valid_share
    require_valid_share(share)
    require(
        options.max_aspect is None or options.max_aspect >= 1, f"--max-aspect is 1 or more, not {options.max_aspect}."
    )
    form, files = files_of_format(run.inputs, options.format, FORMATS, FORMAT_GROUPS)
    if form == "webdataset":
        require(
            options.valid_share is None,
            "--valid-share: tars stay as they are. Name some of them as valid instead of train in the data YAML.",
        )
        require_local(files)
        return _stages_in_place(run, files)
    reader = _reader(form, files, options)
    write = WriteShards(run.out, caption_record, share)
    return [Stage("write captions", [reader, Rules(caption_rules(options)), write], reader.tasks)]


def _reader(form: str, files: Sequence[InputFile], options: CaptionOptions) -> ReadPairs:
    if form == "files":
        return ReadFiles(files)
    if form == "parquet":
        return ReadParquet(files)
    if form == "tsv":
        for column in ("caption", "image"):
            require(column in options.tsv_columns, f"--tsv-columns must have a column {column}.")
        return ReadTsv(files, options.tsv_columns)
    require(options.images is not None, "Give --images, the folder of the images that COCO's annotations name.")
    return ReadCoco(files, options.images)


def caption_rules(options: CaptionOptions) -> list[Rule]:
    """What is asked of pairs, the cheap first."""
    rules: list[Rule] = [] if options.keep_tags else [has_tag]
    rules.append(Length("words", options.min_words, options.max_words))
    rules.append(Length("characters", options.min_characters, options.max_characters))
    if options.english:
        rules.append(language.not_english)
    rules.append(Picture(options.min_side, options.max_aspect, options.decode))
    return rules


# ---- Tars, in place ----


def _stages_in_place(run: Run, tars: Sequence[InputFile]) -> list[Stage]:
    selection = json.dumps({name: getattr(run.options, name) for name in CHOOSING})
    bad = run.parts / "bad"
    if run.report_file.is_file():
        _require_selection(_whole(tars, run.out), selection)
    filter_shards = IndexShards(tars, bad, AgainstRecord(caption_rules(run.options)), selection)
    return [
        Stage("filter shards", [filter_shards], len(tars)),
        Stage("list shards", [JoinLines(bad, run.out / BAD_FILE), WriteCorpus(tars, run.out, selection)], 1),
    ]


@dataclass(frozen=True)
class AgainstRecord:
    """The rules for pairs, as one for records of tars."""

    rules: Sequence[Rule]

    def __call__(self, record: Record) -> str | None:
        if max(size for _, size in record.members.values()) > MAX_IMAGE_BYTES:
            return f"file of more than {MAX_IMAGE_BYTES // 2**20} MiB"
        try:
            image, caption = caption_document(record).segments
        except BrokenRecord as error:
            return error.reason
        document = pair(caption.text, image.read(), record.id)
        if isinstance(document, str):
            return document
        return next(filter(None, (rule(document) for rule in self.rules)), None)


class WriteCorpus(Step):
    """Writes and prints the lines for a data YAML: the tars that have an index."""

    name = "corpus"

    def __init__(self, tars: Sequence[InputFile], out: Path, selection: str):
        super().__init__()
        self.tars = tars
        self.out = out
        self.selection = selection

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        yield from data
        tars = _whole(self.tars, self.out)
        _require_selection(tars, self.selection)
        corpus = {"name": self.out.resolve().name, "train": list(as_patterns(tars))}
        lines = yaml.safe_dump([corpus], sort_keys=False, allow_unicode=True, width=1000)
        write_atomically(self.out / CORPUS_FILE, lines)
        tqdm.write(f"\nThe corpus for a data YAML, which {self.out / CORPUS_FILE} has too:\n\n{lines}")


def _whole(tars: Sequence[InputFile], out: Path) -> list[str]:
    """The tars that are not in the list of bad ones."""
    bad = {json.loads(line)["tar"] for line in (out / BAD_FILE).read_text(encoding="utf-8").splitlines()}
    return [tar.path for tar in tars if tar.path not in bad]


def _require_selection(tars: Iterable[str], selection: str) -> None:
    for tar in tars:
        if selection_of(tar) != selection:
            raise UserError(
                f"The index of {tar} is no longer that of this run: another one has filtered it since, or it was "
                "removed. Filter the tars anew, with another --out."
            )


def as_patterns(paths: Iterable[str]) -> Iterator[str]:
    """The paths as a data YAML takes them: what follows each other, 00000.tar … 00041.tar, as {00000..00041}.tar."""
    for (before, after, *_), places in itertools.groupby(enumerate(map(_numbered, paths)), key=_series):
        numbers = [number for _, (_, number, _) in places]
        between = f"{{{numbers[0]}..{numbers[-1]}}}" if len(numbers) > 1 else numbers[0]
        yield f"{_literal(before)}{between}{_literal(after)}"


def _numbered(path: str) -> tuple[str, str, str]:
    """Of "a/laion-00012.tar": ("a/laion-", "00012", ".tar")."""
    stem, dot, ending = path.rpartition(".")
    before = stem.rstrip("0123456789")
    return before, stem[len(before) :], dot + ending


def _series(place: tuple[int, tuple[str, str, str]]) -> tuple[str, str, int, int]:
    """Equal for paths that follow each other, in the list and by their numbers."""
    position, (before, number, after) = place
    return before, after, len(number), int(number or 0) - position


def _literal(text: str) -> str:
    """As a pattern of braces that stands for itself."""
    return "".join(f"\\{sign}" if sign in "\\{}" else sign for sign in text)
