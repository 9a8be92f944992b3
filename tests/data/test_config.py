"""The data YAML: how it is read, and that every mistake is an error that names the file and the key."""

import copy

import pytest
import yaml

from kosmos_plugin.data.config import read_data_config
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
            "unknown key 'vocabluary' in the file; known keys are cache, streams, vocabulary. "
            "Did you mean 'vocabulary'[?]$",
        ),
        (("something_else",), 1, "known keys are cache, streams, vocabulary[.]$"),
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
        ((*TEXT, "sequences_per_update"), 0, "sequences_per_update must be at least 1, not 0"),
        ((*TEXT, "sequences_per_update"), -3, "must be at least 1, not -3"),
        ((*TEXT, "sequences_per_update"), 2.5, "must be of type int, not 2.5"),
        ((*TEXT, "sequences_per_update"), "2", "must be of type int, not '2'"),
        ((*TEXT, "sequences_per_update"), True, "must be of type int, not True"),
        ((*TEXT, "cross_document_attention"), 1, "cross_document_attention must be of type bool, not 1"),
        ((*TEXT, "cross_document_attention"), False, "cross_document_attention: false needs packing: continuous"),
        ((*TEXT, "packing"), "full", "streams.text.packing is 'full'; it must be one of full_sentences, continuous"),
        ((*TEXT, "packing"), "contiguous", "Did you mean 'continuous'[?]$"),
        ((*TEXT, "packing"), ["continuous"], "packing is .'continuous'.; it must be one of"),
        ((*PICTURES, "packing"), "continuous", "streams.pictures.packing is for streams of kind text"),
        (("cache",), 3, "cache must be of type str, not 3"),
        ((*TEXT, "corpora"), {}, "streams.text.corpora must be of type list"),
        ((*TEXT, "corpora"), [], "streams.text.corpora is empty"),
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


def test_binary_file(tmp_path):
    (tmp_path / "data.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UserError, match=r"data\.yaml is not valid YAML"):
        read_data_config(tmp_path / "data.yaml")


@pytest.mark.parametrize(("name", "problem"), [("gone.yaml", "does not exist"), ("folder", "is not a file")])
def test_missing_file(tmp_path, name, problem):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"The data YAML .*{name} {problem}"):
        read_data_config(tmp_path / name)
