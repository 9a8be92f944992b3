"""The options of kosmos-prepare's recipes.

This module imports only dataclasses, so that `--help` and usage errors need none of the recipes' libraries.
"""

from dataclasses import dataclass

from kosmos_plugin.options import REQUIRED, option

# The choices of --format; the readers say which file extensions belong to each.
CAPTION_FORMATS = ("webdataset", "files", "tsv", "csv", "json", "parquet", "arrow", "coco")
PAGE_FORMATS = ("warc", "html", "mmc4", "obelics")
DUPLICATES = ("near", "exact", "none")

# §3.1: "We exclude data splits from GitHub, arXiv, Stack Exchange, and PubMed Central", by The Pile's names.
EXCLUDED_SUBSETS = ("Github", "ArXiv", "StackExchange", "PubMed Central")
# Table 20: the seven sources that are from The Pile, and the folders in which the other four are expected.
PAPER_CORPORA = (
    "OpenWebText2=openwebtext2",
    "Books3=books3",
    "Pile-CC=pile-cc",
    "Wikipedia (en)=wikipedia",
    "BookCorpus2=bookcorpus2",
    "Gutenberg (PG-19)=pg19",
    "NIH ExPorter=nih-exporter",
    "cc-2021-04=cc-2021-04",
    "cc-2020-50=cc-2020-50",
    "realnews=realnews",
    "cc-stories=cc-stories",
)
VALID_SHARE = 0.001
VALID_DOCUMENTS = 100
SAMPLE_MEGABYTES = 200  # the unigram trainer takes more than ten times as much memory

_FORMAT = "input format (default: from the file extension)"
_VOCABULARY = "folder of sentencepiece.model and dict.txt, from kosmos-prepare tokenizer"
_DATA_VOCABULARY = "folder of the vocabulary, for data.yaml (default: to be filled in)"
_TEXT_KEY = "field of JSON lines and Parquet that holds the text"
_SEPARATOR = 'plain text: line between documents, "" for empty lines (default: one document per file)'
_DUPLICATES = "duplicates to drop: near (includes exact ones), exact or none"
_VALID_SHARE = (
    f"share of the documents held out for validation, 0 to 1 (default: {VALID_SHARE}, or {VALID_DOCUMENTS} documents "
    "but at most one in ten, if these are more)"
)
_VALID_DOCUMENTS = (
    "hold out N documents: those whose texts have the smallest hashes, with their copies (default: see --valid-share)"
)
_KEEP_DROPPED = "new folder for the dropped documents and why each was dropped, as JSON lines (default: not kept)"


@dataclass(frozen=True)
class TextOptions:
    """kosmos-prepare text: text → binarized text."""

    vocabulary: str = option(REQUIRED, _VOCABULARY, metavar="FOLDER")
    text_key: str = option("text", _TEXT_KEY)
    separator: str | None = option(None, _SEPARATOR)
    exclude_subsets: tuple[str, ...] = option(EXCLUDED_SUBSETS, "subsets of The Pile to drop")
    split_subsets: tuple[str, ...] = option(
        (),
        "write each named subset of The Pile to a folder of its own in --out, and drop the others; for other input, "
        "SUBSET is the folder of a file; `paper` stands for the corpora of Table 20",
        metavar="SUBSET=FOLDER",
    )
    english: bool = option(False, "keep only English documents")
    min_words: int = option(1, "minimum words per document")
    evaluation: tuple[str, ...] = option(
        (),
        "evaluation files as released (XML, JSON, JSON lines, CSV, TSV, Parquet, text); documents that contain their "
        "text are dropped",
        metavar="FILE",
    )
    duplicates: str = option("near", _DUPLICATES, DUPLICATES)
    valid_share: float | None = option(None, _VALID_SHARE)
    valid_documents: int | None = option(None, _VALID_DOCUMENTS, minimum=0)
    tokens_per_sample: int = option(2048, "tokens per row in training, for which the row starts are written", minimum=2)
    keep_dropped: str | None = option(None, _KEEP_DROPPED, metavar="FOLDER")


@dataclass(frozen=True)
class CaptionOptions:
    """kosmos-prepare captions: image–caption pairs → shards."""

    format: str | None = option(None, _FORMAT, CAPTION_FORMATS)
    images: str | None = option(
        None, "coco and tables: folder of the images that they name (default: the table's folder)", metavar="FOLDER"
    )
    image_column: str | None = option(
        None, "tables: column of the images, or of their names (default: found by its name)", metavar="NAME"
    )
    caption_column: str | None = option(
        None, "tables: column of the captions (default: found by its name)", metavar="NAME"
    )
    tsv_columns: tuple[str, ...] = option(
        (),
        "tsv, csv without a header: columns in order (default: file name and caption, or key, caption, image in "
        "base64, width, height)",
        metavar="NAME",
    )
    caption_from: str = option(
        "txt",
        "webdataset, files: which file beside an image has its caption; the other one is read if there is no such file "
        "or, with json, no caption in it",
        ("txt", "json"),
    )
    keep_tags: bool = option(False, "keep captions with tags such as <PERSON>, which the paper discards")
    min_words: int = option(1, "minimum words per caption")
    max_words: int | None = option(None, "maximum words per caption (default: no limit)")
    min_characters: int = option(1, "minimum characters per caption")
    max_characters: int | None = option(None, "maximum characters per caption (default: no limit)")
    english: bool = option(False, "keep only English captions; the language of short ones is often a guess")
    min_side: int = option(0, "minimum pixels of an image's shorter side; the paper sets one only for web pages: 64")
    max_aspect: float | None = option(
        None, "maximum ratio of an image's longer side to the shorter (default: no limit)", minimum=1
    )
    decode: bool = option(False, "decode each image instead of reading only its header")
    valid_share: float | None = option(None, f"{_VALID_SHARE}; not for tars, which are used in place")
    valid_documents: int | None = option(None, f"{_VALID_DOCUMENTS}; not for tars", minimum=0)
    vocabulary: str | None = option(None, _DATA_VOCABULARY, metavar="FOLDER")
    keep_dropped: str | None = option(None, _KEEP_DROPPED, metavar="FOLDER")


@dataclass(frozen=True)
class PageOptions:
    """kosmos-prepare pages: web pages → shards of interleaved documents."""

    format: str | None = option(None, _FORMAT, PAGE_FORMATS)
    images: tuple[str, ...] = option(
        (),
        "where the images are: WARC files, img2dataset's or other tars, folders of downloads (HOST/PATH)",
        metavar="PATH",
    )
    max_html_bytes: int = option(10_000_000, "maximum bytes of HTML per page")
    english: bool = option(True, "keep only English pages")
    max_gibberish: float = option(0.3, "maximum share of emoji, hashtags and links among a paragraph's words, 0 to 1")
    min_side: int = option(64, "minimum pixels of an image's sides")
    one_color: bool = option(False, "keep images of one color")
    max_images: int = option(5, "maximum images per page; later ones are dropped", minimum=1)
    drop_one_image: float = option(0.5, "share of the pages with one image to drop, 0 to 1")
    duplicates: str = option("near", _DUPLICATES, DUPLICATES)
    valid_share: float | None = option(None, _VALID_SHARE)
    valid_documents: int | None = option(None, _VALID_DOCUMENTS, minimum=0)
    vocabulary: str | None = option(
        None,
        "folder of the vocabulary, to cut pages into documents that fit in a row (default: not cut; training skips "
        "longer pages)",
        metavar="FOLDER",
    )
    tokens_per_sample: int = option(2048, "with --vocabulary: tokens per row")
    image_tokens: int = option(64, "with --vocabulary: embeddings per image")
    keep_dropped: str | None = option(None, _KEEP_DROPPED, metavar="FOLDER")


@dataclass(frozen=True)
class IndexOptions:
    """kosmos-prepare index: an index beside each tar; no options of its own."""


@dataclass(frozen=True)
class CheckOptions:
    """kosmos-prepare check: validate tars."""

    all_checksums: bool = option(
        False, "also check images that img2dataset re-encoded, although checksums are those of the original files"
    )


@dataclass(frozen=True)
class InstructionOptions:
    """kosmos-prepare instructions: instructions → shards."""

    images: str | None = option(
        None, "folder of the images that are given by name (default: the file's folder)", metavar="FOLDER"
    )
    sample: int | None = option(
        None, "keep N examples, a deterministic sample (default: all); the paper uses 54,000 from FLAN", minimum=1
    )
    valid_share: float | None = option(None, _VALID_SHARE)
    valid_documents: int | None = option(None, _VALID_DOCUMENTS, minimum=0)
    vocabulary: str | None = option(None, _DATA_VOCABULARY, metavar="FOLDER")
    keep_dropped: str | None = option(None, _KEEP_DROPPED, metavar="FOLDER")


@dataclass(frozen=True)
class TokenizerOptions:
    """kosmos-prepare tokenizer: text → a vocabulary."""

    size: int = option(64_000, "pieces in the vocabulary, including <unk>, <s> and </s>", minimum=1)
    model_type: str = option("unigram", "unigram, as for the public 64k model, or bpe", ("unigram", "bpe"))
    character_coverage: float = option(
        0.9995, "share of the text's characters that the pieces cover; the rarest are left out"
    )
    byte_fallback: bool = option(False, "encode characters without a piece as bytes instead of <unk>")
    documents: int | None = option(
        None, f"train on N documents, a deterministic sample (default: {SAMPLE_MEGABYTES} MB of text)", minimum=1
    )
    megabytes: int | None = option(
        None, f"train on N MB of text, a deterministic sample of the documents (default: {SAMPLE_MEGABYTES})", minimum=1
    )
    text_key: str = option("text", _TEXT_KEY)
    separator: str | None = option(None, _SEPARATOR)
    keep_dropped: str | None = option(None, _KEEP_DROPPED, metavar="FOLDER")
