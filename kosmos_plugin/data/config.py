"""The data YAML: the streams, their corpora and weights, and how many sequences of each make up an update.

    vocabulary: vocabulary            # a folder with sentencepiece.model and dict.txt
    streams:
      captions:                       # any name; losses are logged under it
        kind: captions                # text | captions | interleaved
        sequences_per_update: 6144    # over all ranks (text: rows; captions and interleaved: documents)
        cross_document_attention: false   # whether documents in a row attend to each other; default: only for text
        packing: full_sentences           # text: full_sentences (the default) or continuous; see data/text.py
        corpora:
          - name: laion
            train: laion/{00000..41454}.tar   # a pattern or a list of them; text: prefixes of .bin and .idx
            valid: laion-valid/00000.tar      # optional
            weight: 0.7                       # optional; default: by number of sequences
            caption_from: txt                 # captions: txt (default; the .json without a .txt) | json (then the .txt)
    cache: FOLDER                     # optional: for files about texts in read-only folders; default: the user's cache

Paths are relative to the YAML's folder. An unknown key is an error.
"""

import dataclasses
import glob
import math
import os
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import braceexpand
import yaml

from kosmos_plugin.data.shard_index import INDEX_SUFFIX, OLD_INDEX_SUFFIX
from kosmos_plugin.errors import UserError, did_you_mean, require_file

KINDS = ("text", "captions", "interleaved")
# The files of a record that may have its caption, by their extensions.
CAPTION_FILES = ("txt", "json")
SPLITS = ("train", "valid")
PACKINGS = ("full_sentences", "continuous")

T = TypeVar("T")


@dataclass(frozen=True)
class CorpusConfig:
    """A corpus of a stream."""

    name: str
    train: tuple[str, ...] = ()  # paths of tars, or prefixes of binarized text
    valid: tuple[str, ...] = ()
    weight: float | None = None  # relative to the stream's other corpora; None: its number of sequences
    caption_from: str = "txt"  # captions: which of CAPTION_FILES has them

    def paths(self, split: str) -> tuple[str, ...]:
        """The paths of "train" or "valid"."""
        return {"train": self.train, "valid": self.valid}[split]


@dataclass(frozen=True)
class StreamConfig:
    """A stream: corpora of one kind, mixed by weight."""

    name: str
    kind: str  # one of KINDS
    sequences_per_update: int  # over all ranks (text: rows; otherwise documents)
    cross_document_attention: bool  # whether documents in a row attend to each other
    corpora: tuple[CorpusConfig, ...]
    packing: str = "full_sentences"  # of text: one of PACKINGS
    cache: str | None = None  # folder for files about texts in read-only folders; None: the user's cache folder


@dataclass(frozen=True)
class DataConfig:
    """A data YAML."""

    path: str  # of the YAML
    vocabulary: str  # path of the folder
    streams: tuple[StreamConfig, ...]


def read_data_config(path: str | Path, files_must_exist: bool = True) -> DataConfig:
    """Read and check a data YAML.

    Args:
        path: Path of the YAML.
        files_must_exist: If False, a corpus's paths are its patterns as written, joined to the YAML's folder.

    Raises:
        UserError: It is missing or invalid; the message names the file and the key.
    """
    path = Path(path)
    require_file(path, "The data YAML")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    reader = _Reader(path, files_must_exist)
    raw = reader.mapping(raw, "the file", {"vocabulary", "streams"}, {"cache"})
    streams = reader.mapping(raw["streams"], "streams")
    if not streams:
        raise UserError(f"{path}: streams is empty.")
    if "cache" in raw:
        reader.cache = str(path.parent / reader.of_type(raw["cache"], str, "cache"))
    return DataConfig(
        path=str(path),
        vocabulary=str(path.parent / reader.of_type(raw["vocabulary"], str, "vocabulary")),
        streams=tuple(reader.stream(str(name), stream) for name, stream in streams.items()),
    )


class _Reader:
    """Turns the YAML's values into the dataclasses; every error names the file and the key."""

    def __init__(self, path: Path, files_must_exist: bool):
        self.path = path
        self.files_must_exist = files_must_exist
        self.cache: str | None = None

    def fail(self, message: str) -> NoReturn:
        raise UserError(f"{self.path}: {message}")

    def mapping(
        self, value: Any, key: str, required: Set[str] = frozenset(), optional: Set[str] = frozenset()
    ) -> dict[Any, Any]:
        """Check that `value` is a mapping and, if keys are given, that it has those and no others."""
        if not isinstance(value, dict):
            self.fail(f"{key} must be a mapping, not {value!r}.")
        if required:
            known = sorted(required | optional)
            for name in value:
                if name not in known:
                    listed = ", ".join(known)
                    self.fail(f"unknown key {name!r} in {key}; known keys are {listed}.{did_you_mean(name, known)}")
            for name in sorted(required - set(value)):
                self.fail(f"{key} lacks the key {name!r}.")
        return value

    def of_type(self, value: Any, kind: type[T], key: str) -> T:
        """Check that `value` is of type `kind`; a bool is not an int here."""
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            self.fail(f"{key} must be of type {kind.__name__}, not {value!r}.")
        return value

    def stream(self, name: str, raw: Any) -> StreamConfig:
        key = f"streams.{name}"
        optional = {"cross_document_attention", "packing"}
        raw = self.mapping(raw, key, {"kind", "sequences_per_update", "corpora"}, optional)
        kind = raw["kind"]
        if kind not in KINDS:
            self.fail(f"{key}.kind is {kind!r}; it must be one of {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
        sequences = self.of_type(raw["sequences_per_update"], int, f"{key}.sequences_per_update")
        if sequences < 1:
            self.fail(f"{key}.sequences_per_update must be at least 1, not {sequences}.")
        listed = self.of_type(raw["corpora"], list, f"{key}.corpora")
        if not listed:
            self.fail(f"{key}.corpora is empty.")
        corpora = tuple(self.corpus(corpus, f"{key}.corpora[{i}]", kind) for i, corpus in enumerate(listed))
        if len({corpus.weight is None for corpus in corpora}) > 1:
            self.fail(f"{key}: give a weight to all of its corpora or to none.")
        cross = self.of_type(
            raw.get("cross_document_attention", kind == "text"), bool, f"{key}.cross_document_attention"
        )
        return StreamConfig(name, kind, sequences, cross, corpora, self.packing(raw, key, kind, cross), self.cache)

    def packing(self, raw: dict[Any, Any], key: str, kind: str, cross_document_attention: bool) -> str:
        packing = raw.get("packing", PACKINGS[0])
        if packing not in PACKINGS:
            known = ", ".join(PACKINGS)
            self.fail(f"{key}.packing is {packing!r}; it must be one of {known}.{did_you_mean(packing, PACKINGS)}")
        if kind != "text" and "packing" in raw:
            self.fail(f"{key}.packing is for streams of kind text; documents of {kind} are always packed whole.")
        if kind == "text" and packing == "full_sentences" and not cross_document_attention:
            self.fail(
                f"{key}: cross_document_attention: false needs packing: continuous. In full-sentence rows only the "
                "first document has <s>."
            )
        return packing

    def corpus(self, raw: Any, key: str, kind: str) -> CorpusConfig:
        raw = self.mapping(raw, key, {"name", "train"}, {field.name for field in dataclasses.fields(CorpusConfig)})
        weight = raw.get("weight")
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if weight is not None and not (number and 0 < weight < math.inf):
            self.fail(f"{key}.weight must be a positive number, not {weight!r}.")
        caption_from = raw.get("caption_from", "txt")
        if caption_from not in CAPTION_FILES or (kind != "captions" and "caption_from" in raw):
            listed = " or ".join(CAPTION_FILES)
            self.fail(f"{key}.caption_from must be {listed}, for captions only, not {caption_from!r} for {kind}.")
        paths = {split: self.paths(raw.get(split, []), f"{key}.{split}", kind) for split in SPLITS}
        return CorpusConfig(str(raw["name"]), paths["train"], paths["valid"], weight, caption_from)

    def paths(self, patterns: Any, key: str, kind: str) -> tuple[str, ...]:
        """Expand braces and wildcards, relative to the YAML; every file must exist."""
        suffix = ".idx" if kind == "text" else ""
        found: list[str] = []
        for pattern in [patterns] if isinstance(patterns, str) else self.of_type(patterns, list, key):
            pattern = self.of_type(pattern, str, key)
            if not self.files_must_exist:
                found.append(os.path.normpath(self.path.parent / pattern))
                continue
            try:
                names = [f"{name}{suffix}" for name in braceexpand.braceexpand(pattern)]
            except ValueError as error:
                self.fail(f"{key}: {pattern!r} is not a valid pattern: {error}.")
            for name in names:
                found += [path.removesuffix(suffix) for path in self.files(name, key)]
        return tuple(found)

    def files(self, name: str, key: str) -> list[str]:
        """The files that match `name`, in which braces are expanded but wildcards may be left."""
        path = self.path.parent / name
        if path.is_file():  # before wildcards, as folder and file names may contain their characters
            return [os.path.normpath(path)]
        matches = sorted(glob.glob(os.path.join(glob.escape(str(self.path.parent)), name)))
        files = [os.path.normpath(match) for match in matches if not match.endswith((INDEX_SUFFIX, OLD_INDEX_SUFFIX))]
        if not files:
            self.fail(f"{key} names {path}, which does not exist.")
        return files
