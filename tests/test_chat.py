"""kosmos-chat: images by their paths, commands, streamed answers, Ctrl-C, and a first line that is not empty."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

import kosmos_plugin
from fairseq_cli_ext import chat
from fairseq_cli_ext.chat import Chat
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.options import SearchOptions
from tests import tiny

PICTURE = tiny.png(random.Random(1))
TEMPLATE = {"template": "question-answer"}


@pytest.fixture(scope="module")
def kosmos(data):
    task = tiny.task(data)
    model = tiny.model(task, seed=3)
    model.decoder.embed_tokens.weight.data *= 3
    return Generator(model, task.vocabulary, task.sample_builder)


@pytest.fixture
def talk(kosmos):
    """A chat with short answers."""
    return Chat(lambda: kosmos.chat(**TEMPLATE), SearchOptions(max_new_tokens=5), interactive=False)


@pytest.fixture
def picture(tmp_path, monkeypatch):
    (tmp_path / "my cat.png").write_bytes(PICTURE)
    (tmp_path / "cat.PNG").write_bytes(PICTURE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_answer_is_a_line_and_that_of_the_conversation(kosmos, talk, capsys):
    talk.run(iter(["the red cat\n", "\n", "a house\n", "/quit\n", "never asked\n"]))
    expected = kosmos.chat(**TEMPLATE)
    answers = [expected.ask(text, max_new_tokens=5) for text in ("the red cat", "a house")]
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in answers)


@pytest.mark.parametrize(
    ("line", "text", "images"),
    [
        ("cat.PNG what is it?", "what is it?", ["cat.PNG"]),
        ("what is 'my cat.png' here", "what is here", ["my cat.png"]),
        (r"my\ cat.png what is it?", "what is it?", ["my cat.png"]),
        ('"my cat.png" cat.PNG both', "both", ["my cat.png", "cat.PNG"]),
        ("gone.png is no file", "gone.png is no file", []),
        ('say "cat" and it\'s fine', 'say "cat" and it\'s fine', []),
        ("a.b.c cat.pngs", "a.b.c cat.pngs", []),
    ],
)
def test_images_by_their_paths(picture, line, text, images):
    assert chat._without_paths(line) == (text, images)


def test_a_path_of_no_file_is_text_and_says_so(picture, capsys):
    line = 'cat.PNG dog.png and "a quotation" in a.jpg?'
    assert chat._without_paths(line) == ('dog.png and "a quotation" in a.jpg?', ["cat.PNG"])
    assert capsys.readouterr().err == "(There is no file dog.png: it was read as text.)\n"


def test_images_are_seen(kosmos, picture, capsys):
    talk = Chat(lambda: kosmos.chat(), SearchOptions(max_new_tokens=5), interactive=False)
    for line in ("cat.PNG the red", "/image 'my cat.png' cat.PNG", "both", f"{picture}/cat.PNG"):
        talk.answer(line)
    turns = talk.conversation.turns
    assert [len(turn.images) for turn in turns] == [1, 2, 1]
    expected = kosmos.chat()
    assert turns[0].answer == expected.ask("the red", PICTURE, max_new_tokens=5)
    assert turns[1].answer == expected.ask("both", [PICTURE, PICTURE], max_new_tokens=5)
    assert talk.images == []


def test_commands(kosmos, talk, picture, capsys):
    talk.answer("cat.PNG the red cat")
    talk.answer("a house")
    first = capsys.readouterr().out
    talk.answer("/retry")
    assert capsys.readouterr().out == first.partition("\n")[2]
    talk.answer("/edit the dog")
    expected = kosmos.chat(**TEMPLATE)
    expected.ask("the red cat", PICTURE, max_new_tokens=5)
    assert capsys.readouterr().out == expected.ask("the dog", max_new_tokens=5) + "\n"
    talk.answer("/undo")
    talk.answer("/edit the green cat")  # with its image
    assert [(turn.text, len(turn.images)) for turn in talk.conversation.turns] == [("the green cat", 1)]
    talk.answer("/new")
    assert talk.conversation.turns == []
    talk.answer("/help")
    assert "/retry" in capsys.readouterr().err
    for line, message in (
        ("/rety", "There is no command /rety. Did you mean '/retry'"),
        ("/retry", "no turn to answer again"),
        ("/undo", "cannot be taken back"),
        ("/edit a", "no message to edit"),
        ("/image 'a", "No closing quotation"),
    ):
        with pytest.raises(UserError, match=message):
            talk.answer(line)


def test_a_mistake_does_not_end_the_talk(kosmos, monkeypatch, capsys):
    lines = iter(["/image gone.png", "/undo", "the red cat"])

    def typed(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    talk = Chat(lambda: kosmos.chat(**TEMPLATE), SearchOptions(max_new_tokens=5), interactive=True)
    talk.run(iter(()))
    errors = capsys.readouterr().err
    assert "gone.png does not exist" in errors and "cannot be taken back" in errors
    assert [turn.text for turn in talk.conversation.turns] == ["the red cat"]


def test_what_happened_is_said(kosmos, capsys):
    talk = Chat(lambda: kosmos.chat(drop_oldest=True), SearchOptions(max_new_tokens=5), interactive=False)
    for _ in range(12):
        talk.answer("the red cat near the river")
    errors = capsys.readouterr().err
    assert "messages were dropped" in errors
    full = Chat(lambda: kosmos.chat(), SearchOptions(max_new_tokens=5), interactive=False)
    with pytest.raises(UserError, match="start a new conversation"):
        for _ in range(12):
            full.answer("the red cat near the river")
    if any(turn.finish_reason == "length" for turn in full.conversation.turns):
        assert "was cut after 5 tokens: --max-new-tokens" in errors


def test_a_model_with_nothing_to_say_says_so(kosmos, capsys):
    end = kosmos.generate("the red cat", max_new_tokens=1, details=True).choices[0].tokens[0]
    silent = SearchOptions(max_new_tokens=5, stop_tokens=(end,), stop=(kosmos.vocabulary.decode([end]).strip() or "x",))
    Chat(lambda: kosmos.chat(), silent, interactive=True).answer("the red cat")
    output = capsys.readouterr()
    assert output.out == "" and "had nothing to say" in output.err


def test_beams_are_answered_when_they_are_done(kosmos, capsys):
    Chat(lambda: kosmos.chat(), SearchOptions(num_beams=3, max_new_tokens=5), interactive=False).answer("the red cat")
    assert capsys.readouterr().out == kosmos.chat().ask("the red cat", num_beams=3, max_new_tokens=5) + "\n"


def test_ctrl_c_ends_the_answer_only(kosmos, capsys):
    talk = Chat(lambda: kosmos.chat(), SearchOptions(max_new_tokens=40, stop="zzz"), interactive=True)
    before = signal.getsignal(signal.SIGINT)
    original = chat._print

    def interrupt(text):
        original(text)
        if text.strip() and talk.conversation.turns[-1].finish_reason is None and not interrupt.done:
            interrupt.done = True
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    interrupt.done = False
    chat._print = interrupt
    try:
        talk.answer("the red cat")
    finally:
        chat._print = original
    assert signal.getsignal(signal.SIGINT) is before
    [turn] = talk.conversation.turns
    assert turn.finish_reason is None and turn.answer
    assert capsys.readouterr().out.startswith(turn.answer)
    talk.answer("a house")
    assert len(talk.conversation.turns) == 2


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    return tiny.train(
        data, tmp_path_factory.mktemp("chat"), "--cpu", "--num-workers", "0", "--max-update", "1", "--seed", "3"
    )


def test_the_command(checkpoint):
    command = [sys.executable, "-W", "ignore", "-m", "fairseq_cli_ext.chat", "--path", checkpoint.parent]
    command += ["--max-new-tokens", 3]
    done = subprocess.run(list(map(str, command)), input="the red cat\na house\n", capture_output=True, text=True)
    expected = kosmos_plugin.load(checkpoint).chat(**TEMPLATE)
    answers = [expected.ask(text, max_new_tokens=3) for text in ("the red cat", "a house")]
    assert (done.returncode, done.stdout) == (0, "".join(f"{answer}\n" for answer in answers)), done.stderr


@pytest.mark.parametrize("options", [["--n", 2, "--do-sample"], ["--logprobs"], ["--template", "question"]])
def test_options_that_make_no_sense(checkpoint, capsys, options):
    with pytest.raises(SystemExit, match="2"):
        chat.cli_main(list(map(str, ["--path", checkpoint, *options])))
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
