"""The data YAML: which streams there are, their corpora and weights, and how much of each makes up an update.

    vocabulary: vocabulary            # a folder with sentencepiece.model and dict.txt
    streams:
      captions:                       # any name; losses are logged under it
        kind: captions                # text | captions | interleaved
        sequences_per_update: 6144    # over all ranks (text: rows; captions and interleaved: documents)
        cross_document_attention: false   # may documents in a row see each other? default: true for text alone
        corpora:
          - name: laion
            train: laion/{00000..41454}.tar   # a pattern or a list of them; text: prefixes of .bin and .idx
            valid: laion-valid/00000.tar      # optional
            weight: 0.7                       # optional: default is by number of sequences

Paths are relative to the YAML's folder. An unknown key is an error.
"""

import dataclasses
import glob
import math
import os
from dataclasses import dataclass
from pathlib import Path

import braceexpand
import yaml

from kosmos_plugin.data.shard_index import INDEX_SUFFIX
from kosmos_plugin.errors import UserError

KINDS = ("text", "captions", "interleaved")
SPLITS = ("train", "valid")


@dataclass(frozen=True)
class CorpusConfig:
    name: str
    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    weight: float | None = None

    def paths(self, split: str) -> tuple[str, ...]:
        return {"train": self.train, "valid": self.valid}[split]


@dataclass(frozen=True)
class StreamConfig:
    name: str
    kind: str
    sequences_per_update: int
    cross_document_attention: bool
    corpora: tuple[CorpusConfig, ...]


@dataclass(frozen=True)
class DataConfig:
    path: str
    vocabulary: str
    streams: tuple[StreamConfig, ...]


def read_data_config(path: str | Path, files_must_exist: bool = True) -> DataConfig:
    """Read and check a data YAML. Raises UserError, naming the file and the key, for anything that is wrong in it.

    Without `files_must_exist` a corpus's paths are its patterns, joined to the YAML's folder and otherwise as written.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The data YAML {path} does not exist.")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    reader = _Reader(path, files_must_exist)
    raw = reader.mapping(raw, "the file", {"vocabulary", "streams"})
    streams = reader.mapping(raw["streams"], "streams")
    if not streams:
        raise UserError(f"{path}: streams is empty.")
    return DataConfig(
        path=str(path),
        vocabulary=str(path.parent / reader.of_type(raw["vocabulary"], str, "vocabulary")),
        streams=tuple(reader.stream(str(name), stream) for name, stream in streams.items()),
    )


class _Reader:
    """Turns the YAML's values into the dataclasses; every complaint names the file and the place in it."""

    def __init__(self, path: Path, files_must_exist: bool):
        self.path = path
        self.files_must_exist = files_must_exist

    def fail(self, message: str):
        raise UserError(f"{self.path}: {message}")

    def mapping(self, value, place: str, required: set[str] = frozenset(), optional: set[str] = frozenset()):
        if not isinstance(value, dict):
            self.fail(f"{place} must be a mapping, not {value!r}.")
        if required:
            allowed = required | optional
            for key in value:
                if key not in allowed:
                    self.fail(f"unknown key {key!r} in {place}; known are {', '.join(sorted(allowed))}.")
            for key in sorted(required - set(value)):
                self.fail(f"{place} lacks the key {key!r}.")
        return value

    def of_type(self, value, kind: type, place: str):
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            self.fail(f"{place} must be a {kind.__name__}, not {value!r}.")
        return value

    def stream(self, name: str, raw) -> StreamConfig:
        place = f"streams.{name}"
        raw = self.mapping(raw, place, {"kind", "sequences_per_update", "corpora"}, {"cross_document_attention"})
        kind = raw["kind"]
        if kind not in KINDS:
            self.fail(f"{place}.kind is {kind!r}; it must be one of {', '.join(KINDS)}.")
        sequences = self.of_type(raw["sequences_per_update"], int, f"{place}.sequences_per_update")
        if sequences < 1:
            self.fail(f"{place}.sequences_per_update must be at least 1, not {sequences}.")
        corpora = self.of_type(raw["corpora"], list, f"{place}.corpora")
        if not corpora:
            self.fail(f"{place}.corpora is empty.")
        corpora = tuple(self.corpus(corpus, f"{place}.corpora[{i}]", kind) for i, corpus in enumerate(corpora))
        if len({corpus.weight is None for corpus in corpora}) > 1:
            self.fail(f"{place}: give a weight to all of its corpora or to none.")
        cross = self.of_type(
            raw.get("cross_document_attention", kind == "text"), bool, f"{place}.cross_document_attention"
        )
        return StreamConfig(name, kind, sequences, cross, corpora)

    def corpus(self, raw, place: str, kind: str) -> CorpusConfig:
        raw = self.mapping(raw, place, {"name", "train"}, {f.name for f in dataclasses.fields(CorpusConfig)})
        weight = raw.get("weight")
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if weight is not None and not (number and 0 < weight < math.inf):
            self.fail(f"{place}.weight must be a number above 0, not {weight!r}.")
        paths = {split: self.paths(raw.get(split, []), f"{place}.{split}", kind) for split in SPLITS}
        return CorpusConfig(str(raw["name"]), **paths, weight=weight)

    def paths(self, patterns, place: str, kind: str) -> tuple[str, ...]:
        """Braces and wildcards expanded, relative to the YAML; every file must be there."""
        suffix = ".idx" if kind == "text" else ""
        found = []
        for pattern in [patterns] if isinstance(patterns, str) else self.of_type(patterns, list, place):
            pattern = self.of_type(pattern, str, place)
            if not self.files_must_exist:
                found.append(os.path.normpath(self.path.parent / pattern))
                continue
            try:
                names = [f"{name}{suffix}" for name in braceexpand.braceexpand(pattern)]
            except ValueError as error:
                self.fail(f"{place}: {pattern!r} is no pattern: {error}.")
            for name in names:
                # The YAML's folder, or a file, may have a wildcard's signs in its own name.
                matches = [self.path.parent / name]
                if not matches[0].is_file():
                    matches = sorted(glob.glob(os.path.join(glob.escape(str(self.path.parent)), name)))
                    matches = [match for match in matches if not match.endswith(INDEX_SUFFIX)]
                if not matches:
                    self.fail(f"{place} names {self.path.parent / name}, which does not exist.")
                found += [os.path.normpath(match).removesuffix(suffix) for match in matches]
        return tuple(found)
