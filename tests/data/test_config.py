"""The data YAML: how it is read, and that every mistake is an error that names the file and the key."""

import copy
import random
import time

import braceexpand
import pytest
import yaml

from kosmos_plugin.data.config import expansions, read_data_config
from kosmos_plugin.data.remote_files import RemoteOptions
from kosmos_plugin.errors import UserError

GOOD = {
    "vocabulary": "vocabulary",
    "streams": {
        "text": {"kind": "text", "sequences_per_update": 2, "corpora": [{"name": "words", "train": "text/train"}]},
        "pictures": {
            "kind": "captions",
            "sequences_per_update": 6,
            "corpora": [
                {"name": "a", "train": "tars/{00..02}.tar", "valid": "tars/valid-*.tar", "weight": 0.7},
                {"name": "b", "train": ["tars/x.tar", "tars/0{1..2}.tar"], "weight": 3},
            ],
        },
    },
}


@pytest.fixture
def write(tmp_path):
    def write(config, folder="data"):
        folder = tmp_path / folder
        names = ["text/train.idx", "text/train.bin", "text/train.old.idx"]
        names += [f"tars/{name}.tar" for name in ("00", "01", "02", "x", "valid-a", "valid-b")]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        path = folder / "data.yaml"
        path.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False))
        return path

    return write


def test_reads_everything(write):
    path = write(GOOD)
    config = read_data_config(path)
    assert config.vocabulary == str(path.parent / "vocabulary")
    text, pictures = config.streams
    assert (text.name, text.kind, text.sequences_per_update) == ("text", "text", 2)
    assert text.corpora[0].paths("train") == (str(path.parent / "text/train"),)
    assert text.corpora[0].paths("valid") == () and text.corpora[0].weight is None
    a, b = pictures.corpora
    tars = path.parent / "tars"
    assert a.paths("train") == tuple(str(tars / f"0{i}.tar") for i in range(3))
    assert a.paths("valid") == (str(tars / "valid-a.tar"), str(tars / "valid-b.tar"))
    assert b.paths("train") == (str(tars / "x.tar"), str(tars / "01.tar"), str(tars / "02.tar"))
    assert (a.weight, b.weight) == (0.7, 3)


def test_only_text_attends_across_documents_by_default(write):
    assert [stream.cross_document_attention for stream in read_data_config(write(GOOD)).streams] == [True, False]
    config = copy.deepcopy(GOOD)
    config["streams"]["text"] |= {"cross_document_attention": False, "packing": "continuous"}
    config["streams"]["pictures"]["cross_document_attention"] = True
    assert [stream.cross_document_attention for stream in read_data_config(write(config)).streams] == [False, True]


def test_packing_and_cache(write):
    config = read_data_config(write(GOOD))
    assert [stream.packing for stream in config.streams] == ["full_sentences"] * 2
    assert [stream.cache for stream in config.streams] == [None] * 2
    changed = copy.deepcopy(GOOD) | {"cache": "here"}
    changed["streams"]["text"]["packing"] = "continuous"
    path = write(changed)
    text, _ = read_data_config(path).streams
    assert (text.packing, text.cache) == ("continuous", str(path.parent / "here"))


def test_remote(write):
    assert read_data_config(write(GOOD)).streams[0].remote == RemoteOptions()
    config = copy.deepcopy(GOOD) | {"remote": {"cache_gib": 2, "unavailable": "skip"}}
    addresses = ["s3://bucket/{0..2}.tar", "hf://datasets/a/b/x.tar"]
    config["streams"]["pictures"]["corpora"][0] |= {"train": addresses, "valid": [], "shuffle_block": 16}
    config["streams"]["text"]["corpora"][0]["train"] = "gs://bucket/text/{a,b}"
    text, pictures = read_data_config(write(config)).streams
    assert text.remote == pictures.remote == RemoteOptions(cache_gib=2, unavailable="skip")
    assert text.corpora[0].train == ("gs://bucket/text/a", "gs://bucket/text/b")
    assert pictures.corpora[0].train == (*(f"s3://bucket/{i}.tar" for i in range(3)), addresses[1])
    assert pictures.corpora[0].shuffle_block == 16
    as_written = read_data_config(write(config), files_must_exist=False).streams[1].corpora[0].train
    assert as_written == tuple(addresses)


def test_wildcards_leave_indexes_out(write):
    """A tar's index appears beside it on first use."""
    config = copy.deepcopy(GOOD)
    config["streams"]["pictures"]["corpora"][0]["valid"] = "tars/valid*"
    path = write(config)
    (path.parent / "tars/valid-a.tar.kosmos_index").touch()
    (path.parent / "tars/valid-a.tar.index.npz").touch()
    names = [p.rpartition("/")[2] for p in read_data_config(path).streams[1].corpora[0].paths("valid")]
    assert names == ["valid-a.tar", "valid-b.tar"]


@pytest.mark.parametrize("folder", ["run [1]", "a{b,c}", "what?*"])
def test_folder_with_pattern_characters(write, folder):
    path = write(GOOD, folder)
    corpus = read_data_config(path).streams[1].corpora[0]
    assert [len(corpus.paths(split)) for split in ("train", "valid")] == [3, 2]


def test_absolute_paths(write, tmp_path):
    (tmp_path / "elsewhere.tar").touch()
    config = copy.deepcopy(GOOD)
    config["streams"]["pictures"]["corpora"][0]["train"] = str(tmp_path / "elsewhere.tar")
    assert read_data_config(write(config)).streams[1].corpora[0].train == (str(tmp_path / "elsewhere.tar"),)


TEXT, PICTURES = ("streams", "text"), ("streams", "pictures")
A = (*PICTURES, "corpora", 0)


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (
            ("vocabluary",),
            "v",
            "unknown key 'vocabluary' in the file; known keys are cache, remote, streams, vocabulary. "
            "Did you mean 'vocabulary'[?]$",
        ),
        (("something_else",), 1, "known keys are cache, remote, streams, vocabulary[.]$"),
        ((*TEXT, "corpus"), [], "unknown key 'corpus' in streams.text; known keys are .*corpora"),
        (
            (*A, "wieght"),
            1,
            r"unknown key 'wieght' in streams.pictures.corpora\[0\]; "
            r"known keys are .*weight[.] Did you mean 'weight'[?]$",
        ),
        (("vocabulary",), None, "vocabulary must be of type str, not None"),
        (("streams",), [], r"streams must be a mapping, not \[\]"),
        (("streams",), {}, "streams is empty"),
        (TEXT, "text", "streams.text must be a mapping"),
        ((*TEXT, "kind"), "images", "streams.text.kind is 'images'; it must be one of text, captions, interleaved"),
        ((*TEXT, "kind"), ["text"], "streams.text.kind is"),
        ((*TEXT, "kind"), "caption", "must be one of text, captions, interleaved. Did you mean 'captions'[?]$"),
        ((*TEXT, "sequences_per_update"), 0, "sequences_per_update must be from 1 to 10,000,000, not 0"),
        ((*TEXT, "sequences_per_update"), -3, "must be from 1 to 10,000,000, not -3"),
        ((*TEXT, "sequences_per_update"), 2.5, "must be of type int, not 2.5"),
        ((*TEXT, "sequences_per_update"), "2", "must be of type int, not '2'"),
        ((*TEXT, "sequences_per_update"), True, "must be of type int, not True"),
        ((*TEXT, "cross_document_attention"), 1, "cross_document_attention must be of type bool, not 1"),
        ((*TEXT, "cross_document_attention"), False, "cross_document_attention: false needs packing: continuous"),
        ((*TEXT, "packing"), "full", "streams.text.packing is 'full'; it must be one of full_sentences, continuous"),
        ((*TEXT, "packing"), "contiguous", "Did you mean 'continuous'[?]$"),
        ((*TEXT, "packing"), ["continuous"], "packing is .'continuous'.; it must be one of"),
        ((*PICTURES, "packing"), "continuous", "streams.pictures.packing is for streams of kind text"),
        (("remote",), 3, "remote must be a mapping, not 3"),
        (("remote",), {"time_out": 3}, "unknown key 'time_out' in remote; .* Did you mean 'timeout'[?]$"),
        (("remote",), {"timeout": 0}, "remote.timeout must be a positive number, not 0"),
        (("remote",), {"cache_gib": True}, "remote.cache_gib must be a positive number, not True"),
        (("remote",), {"unavailable": "skp"}, "unavailable must be fail or skip, not 'skp'.* Did you mean 'skip'[?]$"),
        ((*A, "train"), ["tars/00.tar", "s3://a/b.tar"], r"corpora\[0\].train mixes addresses and paths"),
        ((*A, "train"), "azure://a/b.tar", "azure://a/b.tar has the scheme azure; known are s3, gs"),
        (("cache",), 3, "cache must be of type str, not 3"),
        ((*TEXT, "corpora"), {}, "streams.text.corpora must be of type list"),
        ((*TEXT, "corpora"), [], "streams.text.corpora is empty"),
        ((*A, "shuffle_block"), 0, r"corpora\[0\].shuffle_block must be from 1 to 10,000,000, not 0"),
        ((*A, "shuffle_block"), "512", r"corpora\[0\].shuffle_block must be of type int, not '512'"),
        ((*A, "caption_from"), "xml", r"corpora\[0\].caption_from must be txt or json, .* not 'xml'"),
        ((*A, "weight"), 0, r"corpora\[0\].weight must be a positive number, not 0"),
        ((*A, "weight"), -1.5, "must be a positive number, not -1.5"),
        ((*A, "weight"), "1", "must be a positive number, not '1'"),
        ((*A, "weight"), True, "must be a positive number, not True"),
        ((*A, "weight"), float("nan"), "must be a positive number, not nan"),
        ((*A, "weight"), float("inf"), "must be a positive number, not inf"),
        ((*A, "weight"), None, "streams.pictures: give a weight to all of its corpora or to none"),
        ((*A, "train"), "tars/{00..03}.tar", r"corpora\[0\].train names .*/tars/03\.tar, which does not exist"),
        ((*A, "train"), "tars/no*.tar", r"names .*/tars/no\*\.tar, which does not exist"),
        ((*A, "valid"), ["tars/x.tar", 3], r"corpora\[0\].valid must be of type str, not 3"),
        ((*A, "valid"), {"x": 1}, r"corpora\[0\].valid must be of type list"),
        ((*A, "train"), "tars/{00..01.tar", r"corpora\[0\].train: .* is not a valid pattern: "),
        (
            (*TEXT, "corpora", 0, "train"),
            "text/gone",
            r"text.corpora\[0\].train names .*/text/gone\.idx, which does not",
        ),
    ],
)
def test_mistakes(write, keys, value, message):
    config = copy.deepcopy(GOOD)
    target = config
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    path = write(config)
    with pytest.raises(UserError, match=rf"(?s)^{path}: .*{message}") as error:
        read_data_config(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "keys",
    [
        ("vocabulary",),
        ("streams",),
        *[(*TEXT, key) for key in ("kind", "sequences_per_update", "corpora")],
        *[(*A, key) for key in ("name", "train")],
    ],
)
def test_missing_keys(write, keys):
    config = copy.deepcopy(GOOD)
    target = config
    for key in keys[:-1]:
        target = target[key]
    del target[keys[-1]]
    with pytest.raises(UserError, match=f"lacks the key '{keys[-1]}'"):
        read_data_config(write(config))


@pytest.mark.parametrize(
    "text, message", [("", "must be a mapping"), ("a: [", "is not valid YAML"), ("- a", "must be a mapping")]
)
def test_not_yaml(write, text, message):
    with pytest.raises(UserError, match=rf"data\.yaml.*{message}"):
        read_data_config(write(text))


@pytest.mark.parametrize(
    "text, line, key",
    [
        ("vocabulary: a\nstreams: {}\nvocabulary: b\n", 3, "vocabulary"),
        ("vocabulary: a\nstreams:\n  text: {kind: text}\n  x: {}\n  text: {kind: captions}\n", 5, "text"),
        ("vocabulary: a\nstreams:\n  text:\n    kind: text\n    'kind': captions\n", 5, "kind"),
        ("vocabulary: a\nstreams: {text: {corpora: [{name: a, weight: 1,\n weight: 2}]}}\n", 3, "weight"),
        ("vocabulary: a\nstreams: &a {x: {}}\nmore: {<<: *a, <<: *a}\nvocabulary: b", 4, "vocabulary"),
    ],
)
def test_a_key_given_twice(tmp_path, text, line, key):
    path = tmp_path / "data.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_data_config(path)
    assert str(error.value) == f"{path} is not valid YAML (line {line}): the key '{key}' is given twice"


def test_a_merge_may_be_overridden_wherever_it_is_used(write):
    """The key of a merge is given once in each mapping."""
    path = write(GOOD)
    config = yaml.safe_load(path.read_text())
    streams = config["streams"]
    first = next(iter(streams))
    base = yaml.safe_dump(streams[first], default_flow_style=True, width=10**6).strip()
    text = f"vocabulary: v\nstreams:\n  a: &a {base}\n  b: &b\n    <<: *a\n    sequences_per_update: 7\n"
    path.write_text(text + "  c:\n    <<: *b\n    sequences_per_update: 8\n")
    assert [stream.sequences_per_update for stream in read_data_config(path).streams][1:] == [7, 8]


def test_streams_whose_names_look_alike(write):
    path = write(GOOD)
    text = path.read_text()
    path.write_text(text[: text.index("streams:")] + "streams: {1: {}, '1': {}}\n")
    with pytest.raises(UserError, match="two streams of the same name"):
        read_data_config(path)


def test_corpora_of_the_same_name(write):
    path = write(GOOD)
    config = yaml.safe_load(path.read_text())
    stream = next(iter(config["streams"].values()))
    stream["corpora"] = stream["corpora"][:1] * 2
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match="two corpora of the same name"):
        read_data_config(path)


def test_binary_file(tmp_path):
    (tmp_path / "data.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UserError, match=r"data\.yaml is not valid YAML"):
        read_data_config(tmp_path / "data.yaml")


@pytest.mark.parametrize(("name", "problem"), [("gone.yaml", "does not exist"), ("folder", "is not a file")])
def test_missing_file(tmp_path, name, problem):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"The data YAML .*{name} {problem}"):
        read_data_config(tmp_path / name)


def bomb(first: str, level: str) -> str:
    """A value in YAML of 30 levels, each of which holds the one below ten times."""
    value = f"&a0 {first}"
    for i in range(1, 30):
        value = f"&a{i} " + level.format(", ".join([value, *[f"*a{i - 1}"] * 9]))
    return value


# What has a reader run for minutes, fill the memory or end in a traceback.
DAMAGE = [
    "{0..999999999}",
    "{0..9999}{0..9999}{0..9999}",
    "{{0..9999}{0..9999},a}",
    "{a,b}" * 40,
    "{0..9" + "9" * 5000 + "}",
    "{" * 3000,
    "{a," * 500 + "}" * 500,
    "[" * 3000,
    "- " * 2000,
    "x" * 100_000,
    "*" * 3000,
    "9" * 6000,
    "1" + "0" * 4000,
    "1e999",
    ".nan",
    "2001-99-99",
    "!!int ''",
    "!!timestamp x",
    "!!bool x",
    "!!python/object/apply:os.system [ls]",
    '"\\0"',
    '"\\ud800*"',
    "&a [*a]",
    "*a29",
    "<<: *a29",
    bomb("[x]", "[{}]"),
    bomb("{x: 1}", "{{<<: [{}]}}"),
    "<<: " + bomb("{x: 1}", "{{<<: [{}]}}"),
    "? [a]",
    "\t",
    "'",
    '"',
    ": ",
    "\n",
    "#",
    "~",
    "\x85",
    "é",
]


def damaged(text: str, rng: random.Random) -> bytes:
    """The text with up to three damages at random places."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(text))
        end = min(start + rng.choice([0, 0, 1, 10]), len(text))
        text = text[:start] + rng.choice(DAMAGE) + text[end:]
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if rng.random() < 0.2:
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("files", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_files_are_read_or_one_line(write, files):
    path = write(GOOD)
    good = path.read_text()
    rng = random.Random(0)
    slowest = 0.0
    for _ in range(files):
        path.write_bytes(damaged(good, rng))
        started = time.process_time()
        try:
            read_data_config(path)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
        slowest = max(slowest, time.process_time() - started)
    assert slowest < 5


BRACES = [
    "{5..3}",
    "{a..e}",
    "x{c..A..2}y",
    "{a..z}" * 10,
    "{1..9..3}",
    "\\\\{0..5}",
    "{a,{b,c{1..3}}}",
    "{x}",
    "a,b",
    "{00..12}/{a,b}-{1..3}",
]


@pytest.mark.parametrize("value", [*DAMAGE, *BRACES])
def test_counts_what_braces_stand_for(value):
    try:
        if (count := expansions(value)) > 10_000:
            return
        names = list(braceexpand.braceexpand(value))
    except (ValueError, RecursionError):
        return
    assert count == len(names)


@pytest.mark.parametrize("place", ["train", "name", "kind", "stream", "vocabulary"])
def test_a_value_that_aliases_repeat_is_one_line(write, place):
    config = copy.deepcopy(GOOD)
    text = config["streams"]["text"]
    {"train": text["corpora"][0], "name": text["corpora"][0], "kind": text, "stream": config["streams"]}.get(
        place, config
    )[place] = "BOMB"
    path = write(yaml.safe_dump(config).replace("BOMB", bomb("[x, x]", "[{}]")))
    started = time.process_time()
    with pytest.raises(UserError) as error:
        read_data_config(path)
    assert len(str(error.value)) < 1000 and time.process_time() - started < 5
