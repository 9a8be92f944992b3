"""kosmos-prepare pages: web pages → shards of documents of text and images, by the paper's rules (§3.1, §B.1.3).

    list images ─→ sort images                                  where images lie, in WARC files and tars
    read pages ─ gibberish, language ─→ parts ─ duplicates ─→ write pages ─ images, page by page, rows ─→ shards

The input is WARC files, HTML, or MMC4's or OBELICS' release. Images are those of the WARC files or beside the HTML, and
those of --images. Pages are judged by their texts first: bytes of images are read in the last stage alone.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from datatrove.data import Document

from kosmos_plugin.curation.dedup.minhash import KINDS, DropDuplicates, duplicate_stages
from kosmos_plugin.curation.filters import language
from kosmos_plugin.curation.filters.pages import (
    NO_IMAGE,
    gibberish_share,
    has_images,
    has_text,
    image_problem,
    is_of_dropped_half,
    rebuild,
)
from kosmos_plugin.curation.formatters.fit_rows import FitRows
from kosmos_plugin.curation.pipeline.checks import require, require_valid_share
from kosmos_plugin.curation.pipeline.inputs import InputFile, files_of_format
from kosmos_plugin.curation.pipeline.intermediate import ReadPart, write_parts
from kosmos_plugin.curation.pipeline.runner import Run, Stage
from kosmos_plugin.curation.pipeline.steps import Reader, Rules, Step
from kosmos_plugin.curation.readers.image_index import index_stages
from kosmos_plugin.curation.readers.image_stores import ImageStores, image_sources
from kosmos_plugin.curation.readers.releases import ReadMmc4, ReadObelics
from kosmos_plugin.curation.readers.web_pages import FORMAT_GROUPS, FORMATS, ReadHtml, ReadWarc, folder_of
from kosmos_plugin.curation.writers.shards import WriteShards, interleaved_record
from kosmos_plugin.options import option
from kosmos_plugin.vocabulary import Vocabulary

_TWICE = "image that the page has already"


@dataclass(frozen=True)
class PageOptions:
    format: str | None = option(None, "of the input, where names do not tell it", tuple(FORMATS))
    images: tuple[str, ...] = option(
        (), "where images are: WARC files, img2dataset's or other tars, folders of downloads (HOST/PATH)"
    )
    max_html_bytes: int = option(10_000_000, "most bytes of a page's HTML")
    english: bool = option(True, "keep English pages alone")
    max_gibberish: float = option(0.3, "most of a paragraph's words that may be emoji, hashtags or links: 0 … 1")
    min_side: int = option(64, "fewest pixels of an image's sides")
    one_color: bool = option(False, "keep images of one color")
    max_images: int = option(5, "most images of a page; those behind are left out")
    drop_one_image: float = option(0.5, "share of the pages of one image that is dropped: 0 … 1")
    duplicates: str = option("near", "which duplicates to drop: near (exact ones too), exact or none", KINDS)
    valid_share: float = option(0.001, "share of the pages that is held out for validation")
    vocabulary: str | None = option(
        None, "cut pages into documents that fit in a row of this vocabulary's tokens; training skips longer ones"
    )
    tokens_per_sample: int = option(2048, "with --vocabulary: tokens of a row")
    image_tokens: int = option(64, "with --vocabulary: embeddings an image takes")


def page_stages(run: Run) -> list[Stage]:
    """The stages of a run; what is wrong with its options or inputs is a UserError."""
    options: PageOptions = run.options
    for name in ("max_gibberish", "drop_one_image"):
        value = getattr(options, name)
        require(0 <= value <= 1, f"--{name.replace('_', '-')} must be 0 … 1, not {value}.")
    require_valid_share(options.valid_share)
    require(options.max_images >= 1, f"--max-images must be 1 or more, not {options.max_images}.")
    require(
        options.tokens_per_sample >= options.image_tokens + 4 > 4,
        f"--tokens-per-sample {options.tokens_per_sample} has no room for an image of --image-tokens "
        f"{options.image_tokens}.",
    )
    if options.vocabulary is not None:
        Vocabulary.load(options.vocabulary)
    form, files = files_of_format(run.inputs, options.format, FORMATS, FORMAT_GROUPS)
    archives, folders = image_sources(options.images)
    if form == "warc":
        archives = [*files, *archives]
    require(
        form in ("warc", "html") or bool(archives or folders),
        "Give --images, what you downloaded the release's images to: img2dataset's tars or a folder.",
    )
    root = folder_of(files) if form == "html" else None
    reader = _reader(form, files, options, root)
    tasks = reader.tasks
    index, parts, duplicates = run.parts / "images", run.parts / "pages", run.parts / "duplicates"
    rules = Rules([has_text, has_images, *([language.not_english] if options.english else [])])
    write = [
        UseImages(ImageStores(archives, index, folders, root), options),
        *(
            [FitRows(options.vocabulary, options.tokens_per_sample, options.image_tokens)]
            if options.vocabulary is not None
            else []
        ),
        WriteShards(run.out, interleaved_record, options.valid_share),
    ]
    read = [reader, CleanText(options.max_gibberish), rules, write_parts(parts)]
    found = duplicates, options.duplicates
    return [
        *(index_stages(archives, index) if archives else []),
        Stage("read pages", read, tasks),
        *([] if options.duplicates == "none" else duplicate_stages(ReadPart(parts), tasks, *found)),
        Stage(
            "write pages",
            [ReadPart(parts), *([] if options.duplicates == "none" else [DropDuplicates(duplicates)]), *write],
            tasks,
        ),
    ]


def _reader(form: str, files: list[InputFile], options: PageOptions, root: str | None) -> Reader:
    if form == "html":
        return ReadHtml(files, options.max_html_bytes, root)
    if form == "warc":
        return ReadWarc(files, options.max_html_bytes)
    return ReadMmc4(files) if form == "mmc4" else ReadObelics(files)


class CleanText(Step):
    """Leaves out paragraphs of gibberish, SVG images, and images whose address the page has had already."""

    name = "clean text"

    def __init__(self, max_gibberish: float):
        super().__init__()
        self.max_gibberish = max_gibberish

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            seen: set[str] = set()
            segments = (self._cleaned(segment, document, seen) for segment in document.metadata["segments"])
            rebuild(document, [segment for segment in segments if segment is not None])
            yield document

    def _cleaned(self, segment: dict, document: Document, seen: set[str]) -> dict | None:
        if "text" in segment:
            lines = segment["text"].split("\n")
            kept = [line for line in lines if gibberish_share(line) <= self.max_gibberish]
            if len(kept) < len(lines):
                self.count("left out", "paragraph of emoji, hashtags and links", len(lines) - len(kept))
            return {"text": "\n".join(kept)} if kept else None
        url = document.media[segment["image"]].url
        if _is_svg(url):
            self.count("left out", "SVG image")
        elif url in seen:
            self.count("left out", _TWICE)
        else:
            seen.add(url)
            return segment
        return None


def _is_svg(url: str) -> bool:
    if url.startswith("data:"):
        return url.lower().startswith("data:image/svg")
    try:
        return PurePosixPath(urlsplit(url).path).suffix.lower() in (".svg", ".svgz")
    except ValueError:
        return False


class UseImages(Step):
    """Reads the images of pages, leaves out what cannot be used, and drops pages that have none, or one by chance."""

    name = "images"

    def __init__(self, stores: ImageStores, options: PageOptions):
        super().__init__()
        self.stores = stores
        self.options = options

    def run(self, data, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            used: set[bytes] = set()
            segments = document.metadata["segments"]
            rebuild(document, [s for s in segments if "text" in s or self._is_usable(document, s["image"], used)])
            if not document.media:
                self.count("dropped", NO_IMAGE)
            elif len(document.media) == 1 and is_of_dropped_half(document, self.options.drop_one_image):
                self.count("dropped", "page of one image, of those dropped by their hash")
            else:
                yield document

    def _is_usable(self, document: Document, number: int, used: set[bytes]) -> bool:
        """Whether an image is used; its bytes are in the document then. `used`: digests of the page's images so far."""
        media, options = document.media[number], self.options
        if len(used) == options.max_images:
            self.count("left out", f"image behind the first {options.max_images} of a page")
            return False
        data = self.stores.read(media)
        if data is None:
            self.count("left out", "image that is not there")
            return False
        if problem := image_problem(data, options.min_side, options.one_color):
            self.count("left out", problem)
            return False
        digest = hashlib.blake2b(data).digest()
        if digest in used:
            self.count("left out", _TWICE)
            return False
        used.add(digest)
        media.media_bytes = data
        return True
