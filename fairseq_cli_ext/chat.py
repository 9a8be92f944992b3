"""kosmos-chat: talk with a trained model about text and images.

    kosmos-chat --path CHECKPOINT
    > cat.png what is this?                an image by its path; several are possible
    > which color is it?                   what was said before stays in the cache

    /image FILE …   images of the next message, if their paths are not in it
    /retry          answer the last message again        /edit TEXT   ask TEXT in its place
    /undo           take the last message back           /new         start again
    /help           this list                            /quit        end, as Ctrl-D does

Ctrl-C stops an answer. Messages may also come from a file or a pipe, a line each. --template says how a message becomes
a prompt; a model that was trained on another form of prompts answers with little or nothing.
"""

import argparse
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from fairseq_cli_ext import run_command
from fairseq_cli_ext.parser import CommandParser
from kosmos_plugin.errors import UserError, did_you_mean, require_file
from kosmos_plugin.generation.options import DeviceOptions, ModelOptions, SearchOptions
from kosmos_plugin.image_files import IMAGE_EXTENSIONS
from kosmos_plugin.options import add_options, option, parsed_options

if TYPE_CHECKING:
    from kosmos_plugin.generation.conversation import Conversation

COMMANDS = ("/image", "/retry", "/edit", "/undo", "/new", "/help", "/quit")
# A word, or several in quotation marks, that ends like the name of an image.
_PATH = re.compile(rf"""(?<!\S)(?:"([^"]+)"|'([^']+)'|((?:\\.|\S)+?\.(?:{"|".join(IMAGE_EXTENSIONS)})))(?!\S)""", re.I)


@dataclass(frozen=True)
class ChatOptions:
    """How kosmos-chat talks."""

    template: str = option(
        "question-answer",
        'how a message is asked: plain, question-answer ("Question: … Answer:"), or a file with {text} in it',
        metavar="NAME",
    )
    chain_of_thought: bool = option(False, "have the model describe images before it answers (§4.5)")
    drop_oldest: bool = option(
        False, "drop the oldest messages when the model's positions are full; otherwise the conversation ends there"
    )


def parser() -> CommandParser:
    """Build the command's parser."""
    parser = CommandParser("kosmos-chat", __doc__)
    add_options(parser, ModelOptions)
    add_options(parser, ChatOptions)
    add_options(parser.add_argument_group("device"), DeviceOptions)
    add_options(parser.add_argument_group("search"), SearchOptions)
    return parser


def run(args: argparse.Namespace) -> None:
    """Talk until the input ends."""
    import kosmos_plugin

    model, where = parsed_options(args, ModelOptions), parsed_options(args, DeviceOptions)
    options, search = parsed_options(args, ChatOptions), parsed_options(args, SearchOptions)
    if search.n > 1 or search.logprobs:
        raise UserError("A message has one answer: leave out --n, --logprobs and --top-logprobs.")
    kosmos = kosmos_plugin.load(model.path, model.data, model.vocabulary, where.device, where.dtype)

    def start() -> "Conversation":
        return kosmos.chat(options.template, options.chain_of_thought, options.drop_oldest)

    Chat(start, search, sys.stdin.isatty()).run(sys.stdin)


class Chat:
    """A conversation on a terminal.

    Args:
        start: Starts a conversation.
        search: How answers are generated.
        interactive: Whether someone types: then there is a prompt, and a mistake does not end it.
    """

    def __init__(self, start: Callable[[], "Conversation"], search: SearchOptions, interactive: bool):
        self.start = start
        self.conversation = start()
        self.images: list[str] = []  # of the next message
        self.interactive = interactive
        values = {name: value for name, value in vars(search).items() if name not in ("n", "logprobs", "top_logprobs")}
        if not search.stop:
            del values["stop"]  # the template's
        self.options: dict[str, Any] = values

    def run(self, lines: Iterator[str]) -> None:
        """Answer lines until they end."""
        if self.interactive:
            _say("Ask something; an image is its path. /help lists the commands, Ctrl-D ends.")
        while (line := self._next(lines)) is not None:
            if line.strip() == "/quit":
                return
            try:
                self.answer(line.strip())
            except UserError as error:
                if not self.interactive:
                    raise
                _say(f"error: {error}")

    def answer(self, line: str) -> None:
        """Do what one line says."""
        command, _, rest = line.partition(" ")
        if not command.startswith("/") or _PATH.match(line):
            if line or self.images:
                self._ask(line)
        elif command == "/image":
            self.images += _files(rest)
        elif command == "/retry":
            self._show(self.conversation.stream_retry, self.conversation.retry)
        elif command == "/edit":
            self._edit(rest.strip())
        elif command == "/undo":
            self.conversation.undo()
        elif command == "/new":
            self.conversation, self.images = self.start(), []
        elif command == "/help":
            _say(str(__doc__).partition("\n\n")[2].rstrip())
        else:
            raise UserError(f"There is no command {command}.{did_you_mean(command, COMMANDS)} /help lists them.")

    def _next(self, lines: Iterator[str]) -> str | None:
        if not self.interactive:
            return next(lines, None)
        try:
            return input("> ")
        except EOFError:
            _say("")
            return None

    def _ask(self, line: str) -> None:
        """Ask what a line says, with the images that it names and those named before."""
        text, images = _without_paths(line)
        images, self.images = [*self.images, *images], []
        self._show(
            lambda **options: self.conversation.stream(text, images, **options),
            lambda **options: self.conversation.ask(text, images, **options),
        )

    def _edit(self, line: str) -> None:
        if not self.conversation.turns:
            raise UserError("There is no message to edit.")
        text, images = _without_paths(line)
        self._show(
            lambda **options: self.conversation.stream_edit(text, images or None, **options),
            lambda **options: self.conversation.edit(text, images or None, **options),
        )

    def _show(self, stream: Callable[..., Iterator[str]], whole: Callable[..., str]) -> None:
        """Print an answer as it is generated; of beams when it is done."""
        dropped = self.conversation.dropped
        if self.options["num_beams"] > 1:
            answer = whole(**self.options)
            self._finish(iter([answer] if answer else []), dropped)
        else:
            self._finish(stream(**self.options), dropped)

    def _finish(self, parts: Iterator[str], dropped: int) -> None:
        """Print the parts of an answer, and what there is to say about it."""
        if new := self.conversation.dropped - dropped:
            _say(f"(The conversation was full: the oldest {new} messages were dropped.)")
        said = False
        try:
            with _cancelled_by_ctrl_c():
                for part in parts:
                    said = True
                    _print(part)
        except _Cancelled:
            getattr(parts, "close", lambda: None)()
            _print(" …")
        _print("\n" if said or not self.interactive else "")
        turn = self.conversation.turns[-1]
        if not said:
            _say("(The model had nothing to say. Another --template may suit it, or /retry with --do-sample.)")
        elif turn.finish_reason == "length":
            _say(f"(The answer was cut after {self.options['max_new_tokens']} tokens: --max-new-tokens.)")


class _Cancelled(Exception):
    """Ctrl-C while an answer is generated."""


@contextmanager
def _cancelled_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C raise _Cancelled, where otherwise it ends the program."""

    def cancel(number: int, frame: FrameType | None) -> None:
        raise _Cancelled

    before = signal.signal(signal.SIGINT, cancel)
    wakeup = signal.set_wakeup_fd(-1)  # it ends the program too
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)


def _without_paths(line: str) -> tuple[str, list[str]]:
    """What a line says, and the images whose paths are in it. A path of no file is text."""
    images = []

    def take(match: "re.Match[str]") -> str:
        path = match[1] or match[2] or re.sub(r"\\(.)", r"\1", match[3])
        if not Path(path).expanduser().is_file():
            if match[3]:  # not in quotation marks, where it may be anything
                _say(f"(There is no file {path}: it was read as text.)")
            return match[0]
        images.append(str(Path(path).expanduser()))
        return " "

    return " ".join(_PATH.sub(take, line).split()), images


def _files(text: str) -> list[str]:
    """The files that a command names."""
    try:
        paths = [str(Path(word).expanduser()) for word in shlex.split(text)]
    except ValueError as error:
        raise UserError(f"/image {text}: {error}") from None
    for path in paths:
        require_file(path, "The image")
    return paths


def _print(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)


def _say(text: str) -> None:
    """Print a line that is not of the conversation."""
    print(text, file=sys.stderr, flush=True)


def cli_main(arguments: list[str] | None = None) -> None:
    """Run kosmos-chat."""
    run_command(parser(), run, arguments)


if __name__ == "__main__":
    cli_main()
