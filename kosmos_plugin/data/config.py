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
            shuffle_block: 512                # not for text: shuffle in blocks of so many documents; see data/order.py
    cache: FOLDER                     # optional: for files about data in read-only folders; default: the user's cache
    remote:                           # optional: how addresses are read, such as s3://bucket/{00..99}.tar
      cache_gib: 50                       # GiB of blocks in the cache folder, for all ranks of a node
      timeout: 60                         # seconds for a request of 8 MiB at most
      retry_seconds: 300                  # for which a failing request is repeated
      unavailable: fail                   # if a shard cannot be read: fail (the default), or skip its records

Paths are relative to the YAML's folder. An unknown key is an error.
"""

import dataclasses
import functools
import glob
import os
import re
import reprlib
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import braceexpand
import yaml

from kosmos_plugin.data.remote_files import UNAVAILABLE, RemoteFiles, RemoteOptions, check_address, is_remote, redacted
from kosmos_plugin.data.shard_index import MOST_CHECKED, OWN_SUFFIXES
from kosmos_plugin.errors import UserError, did_you_mean, require_file

KINDS = ("text", "captions", "interleaved")
# The files of a record that may have its caption, by their extensions.
CAPTION_FILES = ("txt", "json")
SPLITS = ("train", "valid")
PACKINGS = ("full_sentences", "continuous")

MAX_FILES = 1_000_000  # that one pattern stands for
MAX_CHARACTERS = 500_000_000  # of all their names
MAX_KEYS = 10_000
MAX_SEQUENCES = 10_000_000
MAX_WEIGHT = 1e100
MAX_REMOTE = 1e9  # GiB, and seconds
MAX_SHOWN = 200  # characters of a value in an error message

# An escaped character, a range of numbers or letters, or a brace or comma.
_BRACES = re.compile(
    r"\\.|\{(?P<first>-?\d+)\.\.(?P<last>-?\d+)(?:\.\.-?(?P<step>\d+))?\}"
    r"|(?P<letters>\{[A-Za-z]\.\.[A-Za-z](?:\.\.-?\d+)?\})|[{},]",
    re.DOTALL,
)
_REPR = reprlib.Repr()

T = TypeVar("T")


@dataclass(frozen=True)
class CorpusConfig:
    """A corpus of a stream."""

    name: str
    train: tuple[str, ...] = ()  # paths of tars, or prefixes of binarized text
    valid: tuple[str, ...] = ()
    weight: float | None = None  # relative to the stream's other corpora; None: its number of sequences
    caption_from: str = "txt"  # captions: which of CAPTION_FILES has them
    shuffle_block: int | None = None  # documents of a block of the order; None: documents are shuffled one by one

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
    cache: str | None = None  # folder for files about data in read-only folders; None: the user's cache folder
    remote: RemoteOptions = RemoteOptions()


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
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"The data YAML {path} cannot be read: {error.strerror}.") from None
    except RecursionError:
        raise UserError(f"{path} is not a data YAML: it is nested too deeply.") from None
    except Exception as error:  # PyYAML raises anything from ValueError to KeyError for a bad date or number
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        line = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"{path} is not valid YAML{line}: {_shortened(' '.join(str(problem).split()))}") from None
    reader = _Reader(path, files_must_exist)
    raw = reader.mapping(raw, "the file", {"vocabulary", "streams"}, {"cache", "remote"})
    streams = reader.mapping(raw["streams"], "streams")
    if not streams:
        raise UserError(f"{path}: streams is empty.")
    if len(names := [str(name) for name in streams]) > len(set(names)):
        raise UserError(f"{path}: streams has two streams of the same name, as in 1 and '1'.")
    if "cache" in raw:
        reader.cache = str(path.parent / reader.of_type(raw["cache"], str, "cache"))
    if "remote" in raw:
        reader.remote = reader.remote_options(raw["remote"])
    return DataConfig(
        path=str(path),
        vocabulary=str(path.parent / reader.of_type(raw["vocabulary"], str, "vocabulary")),
        streams=tuple(reader.stream(str(name), stream) for name, stream in streams.items()),
    )


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, and stops at merges (`<<`) of merges that would repeat keys without end."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        found = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in found:
                problem = f"the key {shown(key.value)} is given twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            found.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_KEYS:
            raise yaml.constructor.ConstructorError(problem=f"a mapping of more than {MAX_KEYS:,} keys")


class _Reader:
    """Turns the YAML's values into the dataclasses; every error names the file and the key."""

    def __init__(self, path: Path, files_must_exist: bool):
        self.path = path
        self.folder = str(path.parent)
        self.files_must_exist = files_must_exist
        self.cache: str | None = None
        self.remote = RemoteOptions()

    def fail(self, message: str) -> NoReturn:
        raise UserError(f"{self.path}: {_shortened(message, 3 * MAX_SHOWN)}")

    def mapping(
        self, value: Any, key: str, required: Set[str] = frozenset(), optional: Set[str] = frozenset()
    ) -> dict[Any, Any]:
        """Check that `value` is a mapping and, if keys are given, that it has those and no others."""
        if not isinstance(value, dict):
            self.fail(f"{key} must be a mapping, not {shown(value)}.")
        if required or optional:
            known = sorted(required | optional)
            for name in value:
                if name not in known:
                    listed = ", ".join(known)
                    hint = did_you_mean(shown(name), known)
                    self.fail(f"unknown key {shown(name)} in {key}; known keys are {listed}.{hint}")
            for name in sorted(required - set(value)):
                self.fail(f"{key} lacks the key {name!r}.")
        return value

    def of_type(self, value: Any, kind: type[T], key: str) -> T:
        """Check that `value` is of type `kind`; a bool is not an int here."""
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            self.fail(f"{key} must be of type {kind.__name__}, not {shown(value)}.")
        return value

    def remote_options(self, raw: Any) -> RemoteOptions:
        raw = self.mapping(raw, "remote", optional={field.name for field in dataclasses.fields(RemoteOptions)})
        for name in raw.keys() - {"unavailable"}:
            number = isinstance(raw[name], int | float) and not isinstance(raw[name], bool)
            if not (number and 0 < raw[name] <= MAX_REMOTE):
                self.fail(f"remote.{name} must be a positive number, not {shown(raw[name])}.")
        options = RemoteOptions(**raw)
        if options.unavailable not in UNAVAILABLE:
            hint = did_you_mean(shown(options.unavailable), UNAVAILABLE)
            listed = " or ".join(UNAVAILABLE)
            self.fail(f"remote.unavailable must be {listed}, not {shown(options.unavailable)}.{hint}")
        return options

    def stream(self, name: str, raw: Any) -> StreamConfig:
        key = f"streams.{name}"
        optional = {"cross_document_attention", "packing"}
        raw = self.mapping(raw, key, {"kind", "sequences_per_update", "corpora"}, optional)
        kind = raw["kind"]
        if kind not in KINDS:
            hint = did_you_mean(shown(kind), KINDS)
            self.fail(f"{key}.kind is {shown(kind)}; it must be one of {', '.join(KINDS)}.{hint}")
        sequences = self.of_type(raw["sequences_per_update"], int, f"{key}.sequences_per_update")
        if not 1 <= sequences <= MAX_SEQUENCES:
            self.fail(f"{key}.sequences_per_update must be from 1 to {MAX_SEQUENCES:,}, not {shown(sequences)}.")
        listed = self.of_type(raw["corpora"], list, f"{key}.corpora")
        if not listed:
            self.fail(f"{key}.corpora is empty.")
        corpora = tuple(self.corpus(corpus, f"{key}.corpora[{i}]", kind) for i, corpus in enumerate(listed))
        if len(names := [corpus.name for corpus in corpora]) > len(set(names)):
            self.fail(f"{key}.corpora has two corpora of the same name: epochs are logged under it.")
        if len({corpus.weight is None for corpus in corpora}) > 1:
            self.fail(f"{key}: give a weight to all of its corpora or to none.")
        cross = self.of_type(
            raw.get("cross_document_attention", kind == "text"), bool, f"{key}.cross_document_attention"
        )
        return StreamConfig(
            name, kind, sequences, cross, corpora, self.packing(raw, key, kind, cross), self.cache, self.remote
        )

    def packing(self, raw: dict[Any, Any], key: str, kind: str, cross_document_attention: bool) -> str:
        packing = raw.get("packing", PACKINGS[0])
        if packing not in PACKINGS:
            hint = did_you_mean(shown(packing), PACKINGS)
            self.fail(f"{key}.packing is {shown(packing)}; it must be one of {', '.join(PACKINGS)}.{hint}")
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
        if weight is not None and not (number and 0 < weight <= MAX_WEIGHT):
            self.fail(f"{key}.weight must be a positive number, not {shown(weight)}.")
        if isinstance(raw["name"], list | dict | set | bytes):
            self.fail(f"{key}.name must be a word, not {shown(raw['name'])}.")
        caption_from = raw.get("caption_from", "txt")
        if caption_from not in CAPTION_FILES or (kind != "captions" and "caption_from" in raw):
            listed = " or ".join(CAPTION_FILES)
            self.fail(f"{key}.caption_from must be {listed}, for captions only, not {shown(caption_from)} for {kind}.")
        block = raw.get("shuffle_block")
        if block is not None:
            if kind == "text":
                self.fail(f"{key}.shuffle_block is for captions and interleaved documents, not for text.")
            if not 1 <= self.of_type(block, int, f"{key}.shuffle_block") <= MAX_SEQUENCES:
                self.fail(f"{key}.shuffle_block must be from 1 to {MAX_SEQUENCES:,}, not {shown(block)}.")
        paths = {split: self.paths(raw.get(split, []), f"{key}.{split}", kind) for split in SPLITS}
        return CorpusConfig(str(raw["name"]), paths["train"], paths["valid"], weight, caption_from, block)

    def paths(self, patterns: Any, key: str, kind: str) -> tuple[str, ...]:
        """Expand braces and wildcards, relative to the YAML.

        Every file must exist; of many, and of remote ones, it is checked later.
        """
        suffix = ".idx" if kind == "text" else ""
        found: list[str] = []
        for pattern in [patterns] if isinstance(patterns, str) else self.of_type(patterns, list, key):
            pattern = self.of_type(pattern, str, key)
            remote = is_remote(pattern)
            if remote:
                self.remote_call(key, functools.partial(check_address, pattern))
            if remote and not self.files_must_exist:
                found.append(pattern)
                continue
            if not self.files_must_exist:
                found.append(os.path.normpath(self.path.parent / pattern))
                continue
            try:
                if (count := expansions(pattern)) > MAX_FILES or count * len(pattern) > MAX_CHARACTERS:
                    self.fail(f"{key}: {shown(pattern)} stands for too many files; the limit is {MAX_FILES:,}.")
                names = [f"{name}{suffix}" for name in braceexpand.braceexpand(pattern)]
            except (ValueError, RecursionError) as error:
                if isinstance(error, UserError):
                    raise
                self.fail(f"{key}: {shown(pattern)} is not a valid pattern: {error}.")
            if remote:
                found += [path.removesuffix(suffix) for name in names for path in self.remote_files(name, key)]
                continue
            if len(names) > MOST_CHECKED and not glob.has_magic(pattern):  # a stat of each takes minutes over a network
                found += [self.joined(name).removesuffix(suffix) for name in names]
                continue
            for name in names:
                found += [path.removesuffix(suffix) for path in self.files(name, key)]
        if len({is_remote(path) for path in found}) > 1:
            self.fail(f"{key} mixes addresses and paths: make two corpora of them.")
        return tuple(found)

    def remote_files(self, name: str, key: str) -> list[str]:
        """The addresses that `name` stands for, in which braces are expanded but wildcards may be left."""
        wildcards = "*" in name if name.startswith("http") else glob.has_magic(name)
        if not wildcards:
            return [name]
        matches = self.remote_call(key, functools.partial(RemoteFiles(self.remote).find, name))
        files = [match for match in matches if not match.endswith(OWN_SUFFIXES)]
        if not files:
            self.fail(f"{key} names {redacted(name)}, which no file matches.")
        return files

    def remote_call(self, key: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except UserError as error:
            self.fail(f"{key}: {error}")

    def joined(self, name: str) -> str:
        """The path that `name`, relative to the YAML's folder, stands for."""
        return os.path.normpath(os.path.join(self.folder, name))

    def files(self, name: str, key: str) -> list[str]:
        """The files that match `name`, in which braces are expanded but wildcards may be left."""
        path = self.path.parent / name
        if os.path.isfile(path):  # before wildcards, as folder and file names may contain their characters
            return [os.path.normpath(path)]
        try:
            matches = sorted(glob.glob(os.path.join(glob.escape(str(self.path.parent)), name)))
        except ValueError:  # characters that no name of a file has
            matches = []
        files = [os.path.normpath(match) for match in matches if not match.endswith(OWN_SUFFIXES)]
        if not files:
            self.fail(f"{key} names {path}, which does not exist.")
        return files


def shown(value: Any) -> str:
    """`repr` for an error message: of limited length, and in limited time where aliases repeat a value."""
    return _shortened(repr(value) if isinstance(value, str | int | float) else _REPR.repr(value))


def _shortened(text: str, length: int = MAX_SHOWN) -> str:
    """One line of limited length."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= length else f"{line[:length]}…"


def expansions(pattern: str) -> int:
    """Count the names that braces stand for, without making them; MAX_FILES + 1 stands for any larger number.

    Raises:
        ValueError: A number has thousands of digits.
    """
    levels = [(0, 1)]  # for each open brace: (names of its finished alternatives, names of the current one)
    for match in _BRACES.finditer(pattern):
        finished, current = levels[-1]
        if match["first"]:
            first, last = (int(match[name]) for name in ("first", "last"))
            current *= abs(last - first) // (int(match["step"] or 1) or 1) + 1
        elif match["letters"]:
            current *= len(list(braceexpand.braceexpand(match["letters"])))
        elif match[0] == "{":
            levels.append((0, 1))
            continue
        elif match[0] == "," and len(levels) > 1:
            finished, current = finished + current, 1
        elif match[0] == "}" and len(levels) > 1:
            alternatives = levels.pop()
            finished, current = levels[-1]
            current *= sum(alternatives)
        levels[-1] = (min(finished, MAX_FILES + 1), min(current, MAX_FILES + 1))
    return levels[0][1]
