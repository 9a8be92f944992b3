"""The public layout of token ids, round trips, and text that spells special tokens."""

import io
import pickle
import shutil

import pytest
import sentencepiece
from fairseq.data import Dictionary
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kosmos_plugin.errors import UserError
from kosmos_plugin.vocabulary import SPECIAL_TOKENS, Vocabulary, write_dictionary, write_encoding
from tests import tiny

SPELLED = ("<s>", "<pad>", "</s>", "<unk>", *SPECIAL_TOKENS)


def train(folder, sentences, **options):
    folder.mkdir()
    with open(folder / "sentencepiece.model", "wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=model, hard_vocab_limit=False, minloglevel=2, **options
        )
    write_dictionary(folder)
    return Vocabulary.load(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary") / "plain"
    tiny.write_vocabulary(folder)
    return folder


@pytest.fixture(scope="module")
def plain(folder):
    return Vocabulary.load(folder)


@pytest.fixture(scope="module")
def spelling(tmp_path_factory):
    """Trained on text that spells the special tokens so often that SentencePiece learns them as pieces."""
    sentences = [f"the{mark}dog {mark} runs{mark}" for mark in SPELLED for _ in range(200)]
    folder = tmp_path_factory.mktemp("vocabulary") / "spelling"
    return train(folder, sentences, vocab_size=120, split_by_unicode_script=False)


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory):
    """A vocabulary that falls back to bytes, so that nothing is unknown, and keeps whitespace."""
    folder = tmp_path_factory.mktemp("vocabulary") / "bytewise"
    options = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    return train(folder, ["the dog runs", "the cat sleeps"] * 50, vocab_size=300, **options)


def test_public_layout(folder):
    """The public dictionary has 63,997 pieces; this one is padded with made-up ones."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    while len(dictionary) < 4 + 63_997:
        dictionary.add_symbol(f"piece{len(dictionary)}")
    vocabulary = Vocabulary(processor, dictionary)
    assert len(vocabulary) == 64_007
    assert [vocabulary.symbol(i) for i in range(4)] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert [vocabulary.symbol(i) for i in range(64_001, 64_007)] == [
        "<mask>",
        "</doc>",
        "<image>",
        "</image>",
        "</chunk>",
        "</line>",
    ]
    assert (vocabulary.bos, vocabulary.pad, vocabulary.eos, vocabulary.unk) == (0, 1, 2, 3)
    assert (vocabulary.image_slot, vocabulary.image_begin, vocabulary.image_end) == (64_001, 64_003, 64_004)


def test_pieces_in_the_order_of_the_model(plain):
    pieces = [plain.processor.id_to_piece(i) for i in range(plain.processor.get_piece_size())]
    assert pieces[:3] == ["<unk>", "<s>", "</s>"]
    assert [plain.symbol(i) for i in range(4, 4 + len(pieces) - 3)] == pieces[3:]
    assert len(plain) == 4 + len(pieces) - 3 + len(SPECIAL_TOKENS)


ANY_TEXT = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from([*SPELLED, *tiny.WORDS, " ", "\n", "\u200b", "é", "象", "🐘"]), max_size=12).map("".join),
)


@pytest.mark.parametrize("kind", ["plain", "spelling", "bytewise"])
def test_round_trip_is_that_of_sentencepiece(kind, request):
    vocabulary = request.getfixturevalue(kind)
    processor = vocabulary.processor

    @settings(deadline=None, max_examples=150)
    @given(ANY_TEXT)
    @example("a\0b")
    @example("")
    def check(text):
        tokens = vocabulary.encode(text)
        pieces = processor.encode(text)
        assert len(tokens) == len(pieces)
        assert vocabulary.decode(tokens) == processor.decode(pieces)
        assert [vocabulary.symbol(token) for token in tokens] == [
            "<unk>" if processor.is_unknown(piece) else processor.id_to_piece(piece) for piece in pieces
        ]
        # Text never becomes a special token, however it is spelled.
        first_special = vocabulary.image_slot
        assert all(vocabulary.unk <= token < first_special for token in tokens)
        assert vocabulary.decode(tokens) == vocabulary.decode(
            [vocabulary.bos, vocabulary.image_begin, *tokens, vocabulary.image_end, vocabulary.eos, vocabulary.pad]
        )

    check()


def test_text_of_known_words_comes_back(plain):
    assert plain.decode(plain.encode("the red dog sleeps under a tree")) == "the red dog sleeps under a tree"


@pytest.mark.parametrize("text", ["  two  spaces ", "象 🐘\n\t", "</s> <image>"])
def test_bytes_bring_back_all_text(bytewise, text):
    assert bytewise.decode(bytewise.encode(text)) == text


def test_learned_pieces_spelled_like_special_tokens(spelling):
    learned = {spelling.processor.id_to_piece(i) for i in range(4, spelling.processor.get_piece_size())}
    assert {"<image>", "<pad>"} <= learned  # otherwise the test would show nothing
    for mark in ("<image>", "<pad>"):
        (token,) = [token for token in spelling.encode(f"the{mark}dog") if spelling.symbol(token) == mark]
        assert token > spelling.unk and token not in (spelling.image_begin, spelling.pad)
        assert spelling.decode([token]) == mark
    assert spelling.decode(spelling.encode("the<image>dog <pad>")) == "the<image>dog <pad>"


def test_piece_that_only_fairseq_knows(spelling):
    """fairseq's own `<pad>` is not the piece `<pad>` that dict.txt lacks."""
    vocabulary = Vocabulary(spelling.processor, Dictionary())
    assert set(vocabulary.encode("the<pad>dog <image>")) == {vocabulary.unk}


def test_decode_takes_tensors_and_leaves_special_tokens_out(plain):
    import torch

    tokens = [plain.bos, plain.image_begin, *[plain.image_slot] * 3, plain.image_end, *plain.encode("a dog"), plain.eos]
    assert plain.decode(torch.tensor(tokens)) == "a dog"
    assert plain.decode([]) == plain.decode([plain.eos]) == ""


def test_unknown_text_is_visible(plain):
    tokens = plain.encode("a 象 dog")
    assert plain.unk in tokens
    assert plain.decode(tokens) == plain.processor.decode(plain.processor.encode("a 象 dog"))


def test_travels_to_worker_processes(plain):
    copy = pickle.loads(pickle.dumps(plain))
    assert copy.encode("the red dog") == plain.encode("the red dog")
    assert copy.image_begin == plain.image_begin and len(copy) == len(plain)


@pytest.mark.parametrize("missing", ["sentencepiece.model", "dict.txt"])
def test_missing_file(folder, tmp_path, missing):
    for name in {"sentencepiece.model", "dict.txt"} - {missing}:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(UserError, match=f"{tmp_path.name}.*has no {missing}"):
        Vocabulary.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x00" * 1000])
def test_broken_model(folder, tmp_path, content):
    (tmp_path / "dict.txt").write_bytes((folder / "dict.txt").read_bytes())
    (tmp_path / "sentencepiece.model").write_bytes(content)
    with pytest.raises(UserError, match="is not a SentencePiece model"):
        Vocabulary.load(tmp_path)


@pytest.mark.parametrize("content", [b"no count in this line\n", b"\xff\xfe 1\n", b"twice 1\ntwice 1\n"])
def test_broken_dictionary(folder, tmp_path, content):
    (tmp_path / "sentencepiece.model").write_bytes((folder / "sentencepiece.model").read_bytes())
    (tmp_path / "dict.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"dict\.txt is not a dictionary of fairseq"):
        Vocabulary.load(tmp_path)


def test_dictionary_of_another_model(folder, tmp_path):
    """Otherwise nearly all text would silently become <unk>."""
    (tmp_path / "sentencepiece.model").write_bytes((folder / "sentencepiece.model").read_bytes())
    (tmp_path / "dict.txt").write_text("".join(f"other{i} 1\n" for i in range(500)))
    with pytest.raises(UserError, match=r"dict\.txt .*sentencepiece\.model"):
        Vocabulary.load(tmp_path)


@pytest.fixture(scope="module")
def of_lines(folder, tmp_path_factory):
    """The plain vocabulary, with the record that newlines are encoded."""
    copy = tmp_path_factory.mktemp("vocabulary") / "lines"
    shutil.copytree(folder, copy)
    write_encoding(copy)
    return Vocabulary.load(copy)


def test_newlines_are_line_ends(of_lines, plain):
    assert of_lines.newlines and not plain.newlines
    first, second = plain.encode("the red dog"), plain.encode("a cat")
    expected = [*first, of_lines.line_end, *second]
    assert of_lines.symbol(of_lines.line_end) == "</line>"
    for newlines in ("\n", "\r\n", "\r", "\n\n", "\r\n\r\n", "\n\r", "\r\r\n", "\n \n", " \r\n\t\n ", "\n\u200b\n"):
        assert of_lines.encode(f"the red dog{newlines}a cat") == expected
        assert of_lines.encode(f"{newlines}the red dog{newlines}a cat{newlines}") == expected
        assert of_lines.encode(newlines) == []
    assert of_lines.encode("the red dog") == first  # and no end without a newline
    assert of_lines.decode(expected) == "the red dog\na cat"
    assert of_lines.decode([of_lines.bos, *expected, of_lines.eos]) == "the red dog\na cat"
    assert plain.encode("the red dog\na cat") == plain.encode("the red dog a cat")
    assert plain.decode(expected) == plain.decode([*first, *second])  # its `</line>` was never trained


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([*tiny.WORDS, " ", "\n", "\r\n", "\r", "\n\n", "</line>", "象"]), max_size=15))
def test_lines_of_any_text(of_lines, plain, parts):
    """Line by line the tokens of the plain vocabulary, whose lines Python's reader of text files finds."""
    text = "".join(parts)
    lines = [plain.encode(line) for line in io.StringIO(text, newline=None)]
    lines = [line for line in lines if line]
    tokens = of_lines.encode(text)
    found = "".join(" \n"[token == of_lines.line_end] for token in tokens)
    assert not found.startswith("\n") and not found.endswith("\n") and "\n\n" not in found
    split, start = [], 0
    for end in [*(i for i, token in enumerate(tokens) if token == of_lines.line_end), len(tokens)]:
        split.append(tokens[start:end])
        start = end + 1
    assert split == (lines or [[]])
    assert of_lines.decode(tokens) == "\n".join(map(plain.decode, lines))
    assert of_lines.encode(of_lines.decode(tokens)) == of_lines.encode("\n".join(map(plain.decode, lines)))


PARTS = [
    *tiny.WORDS,
    " ",
    "  ",
    "\n",
    "\r\n",
    "\r",
    " \n\n",
    "\x00",
    "\x1c",
    "\x85",
    "\u200b",
    "\u3000",
    "Ａ",
    "ﷺ",
    "é",
    "▁",
]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=15))
@example(["  the ", "象", " \r\n\r\n ", "ﬁ", "\n\n"])
@pytest.mark.parametrize("kind", ["plain", "of_lines", "bytewise"])
def test_parts_of_tokens_are_the_text(request, kind, parts):
    vocabulary, text = request.getfixturevalue(kind), "".join(parts)
    tokens, found = vocabulary.encode_parts(text)
    assert tokens == vocabulary.encode(text)
    assert len(found) == len(tokens) and "".join(found) == (text if tokens else "")


def test_parts_of_tokens(plain, of_lines, bytewise):
    assert plain.encode_parts("a red  dog ")[1] == ["a", " red", "  dog "]
    assert of_lines.encode_parts("\na\r\n\n red")[1] == ["\na", "\r\n\n ", "red"]
    assert [part for part in bytewise.encode_parts("象é")[1] if part] == ["象", "é"]


@pytest.mark.parametrize("newline, expected", [('"</line>"', True), ("null", False)])
def test_record_of_newlines(folder, tmp_path, newline, expected):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "encoding.json").write_text(f'{{"newline": {newline}}}')
    assert Vocabulary.load(tmp_path / "copy").newlines == expected


@pytest.mark.parametrize(
    "content", [b"", b"[", b"[]", b"true", b'{"newline": "\\n"}', b'{"newlines": true}', b"\xff\xfe"]
)
def test_broken_record_of_newlines(folder, tmp_path, content):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "encoding.json").write_bytes(content)
    with pytest.raises(UserError, match=r'encoding\.json must hold {"newline": "</line>"}, or null'):
        Vocabulary.load(tmp_path / "copy")


def test_fingerprint_is_of_the_ids(folder, plain, of_lines, bytewise):
    assert plain.fingerprint == Vocabulary.load(folder).fingerprint == of_lines.fingerprint
    assert plain.fingerprint != bytewise.fingerprint
