"""The page: its components, and what each of them does.

A dialogue is kept on the server for as long as its page is open; a page never sends one, so it cannot send one that
names files or components of its own choice. All that users and the model write is shown as plain text.
"""

import asyncio
import html
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.template import TEMPLATES, Template, template_of
from kosmos_plugin.serving.errors import ApiError
from kosmos_plugin.serving.generation import FAILED
from kosmos_plugin.serving.options import ServerOptions
from kosmos_plugin.serving.page.answering import Answering, Settings
from kosmos_plugin.serving.page.dialogue import WORD_JOINER, Dialogue, Turn
from kosmos_plugin.serving.page.examples import EXAMPLES
from kosmos_plugin.serving.page.looking import Looking

logger = logging.getLogger(__name__)

HOURS_KEPT = 24
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
"""Fonts of the system: others are fetched from elsewhere."""

CSS = """
[role="log"] img {max-height: 10rem; width: auto}
[role="log"] .icon-button-wrapper:not(:has(button:not([aria-label="Share"]))) {display: none}
.tokens label {padding: 2px 8px}
.maps img {width: 100%}
.maps figcaption {text-align: center}
[aria-label="Share"] {display: none}  /* it would send a picture to another site */
"""

Updates = dict[Any, Any]


class Page:
    """The page.

    Args:
        answering: Answers dialogues.
        looking: Finds where the model looked.
        options: The server's.
        name: The model's name.
        folder: Where pictures of the examples are written.

    Attributes:
        blocks: The page as Gradio has it.
    """

    def __init__(self, answering: Answering, looking: Looking, options: ServerOptions, name: str, folder: Path):
        self.answering = answering
        self.looking = looking
        self.options = options
        self.default_template = Path(options.template).name  # of a file, without its folder
        self.templates: dict[str, Template] = {**TEMPLATES, self.default_template: template_of(options.template)}
        self.sees = looking.kosmos.model.vision is not None
        self.examples = [(example, example.save(folder)) for example in EXAMPLES] if self.sees else []
        with gr.Blocks(title=name, analytics_enabled=False, fill_height=True) as self.blocks:
            self.dialogue = gr.State(Dialogue(), time_to_live=HOURS_KEPT * 3600)
            self.looked = gr.State(-1)  # the number of the maps that are shown
            with gr.Row(equal_height=False):
                with gr.Column(scale=3, min_width=320):
                    self._chat(name)
                with gr.Column(scale=1, min_width=280):
                    self._controls()
                    if self.sees:
                        self._map()
            self._events()
        self.blocks.queue(max_size=None, api_open=False)

    def _chat(self, name: str) -> None:
        self.chatbot = gr.Chatbot(
            label=name,
            height="65vh",
            editable="user",
            render_markdown=False,
            latex_delimiters=[],
            buttons=["copy"],
            feedback_options=None,
            group_consecutive_messages=False,
            allow_file_downloads=False,
            examples=[
                {"display_text": example.label, "text": example.text, "files": [*paths], "icon": paths[-1]}
                for example, paths in self.examples
            ],
        )
        self.message = gr.MultimodalTextbox(
            show_label=False,
            label="Message",
            placeholder="Ask something; drop pictures here." if self.sees else "Ask something.",
            file_types=["image"],
            file_count="multiple",
            sources=["upload"] if self.sees else [],
            max_plain_text_length=100_000,
            autofocus=True,
        )
        self.usage = gr.Markdown(elem_id="usage")

    def _controls(self) -> None:
        options, positions = self.options, self.looking.kosmos.model.max_positions()
        self.template = gr.Radio(
            list(self.templates),
            value=self.default_template,
            label="template",
            info="How a message is asked: as it is, or as the model was trained on questions.",
        )
        most = min(positions - 1, options.max_new_tokens or positions)
        with gr.Accordion("Generation", open=False):
            self.settings = {
                "temperature": gr.Slider(
                    0,
                    max(2, options.temperature),
                    options.temperature,
                    step=0.05,
                    label="temperature",
                    info="0: the likeliest tokens",
                ),
                "top_p": gr.Slider(0, 1, 1, step=0.01, label="top_p"),
                "top_k": gr.Slider(0, 200, 0, step=1, label="top_k", info="0: all"),
                "min_p": gr.Slider(0, 1, 0, step=0.01, label="min_p"),
                "seed": gr.Textbox("", label="seed", lines=1, info="a number; empty: other draws each time"),
                "max_new_tokens": gr.Slider(1, most, min(64, most), step=1, label="max_new_tokens"),
                "repetition_penalty": gr.Slider(0.5, 2, 1, step=0.05, label="repetition_penalty"),
                "no_repeat_ngram_size": gr.Slider(
                    0, 10, 0, step=1, label="no_repeat_ngram_size", info="0: n-grams may come again"
                ),
                "stop": gr.Textbox("", label="stop", lines=2, info="texts that end an answer, one a line"),
            }

    def _map(self) -> None:
        with gr.Accordion("Where it looked", open=True):
            self.look = gr.Button("Show it for the last answer", size="sm")
            self.token = gr.Radio([], label="token of the answer", visible=False, elem_classes="tokens")
            self.map = gr.HTML(visible=False, elem_classes="maps")

    def _events(self) -> None:
        settings = list(self.settings.values())
        shown = [self.chatbot, self.message, self.usage, *self._of_map()]
        # The engine has limits of its own.
        common: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
        inputs, asked = [self.dialogue, *settings], [self.dialogue, self.message, self.template, *settings]
        answers: list[Any] = [
            self.message.submit(self.ask, asked, shown, api_name="ask", **common),
            self.chatbot.retry(self.retry, inputs, shown, api_name="retry", **common),
            self.chatbot.edit(self.edit, inputs, shown, api_name="edit", **common),
            self.chatbot.example_select(self.example, inputs, [*shown, self.template], api_name="example", **common),
        ]
        self.message.stop(self.stop, [self.dialogue], shown, cancels=answers, api_name="stop", **common)
        self.chatbot.undo(self.undo, [self.dialogue], shown, api_name="undo", **common)
        self.chatbot.clear(self.clear, [self.dialogue], shown, api_name="clear", **common)
        if self.sees:
            self.look.click(
                self.show_map, [self.dialogue], [self.looked, *self._of_map()], concurrency_limit=1, api_name="look"
            )
            self.token.input(
                self.choose_token, [self.looked, self.token], [self.map], show_progress="hidden", api_name="token"
            )

    def _of_map(self) -> list[Any]:
        return [self.token, self.map] if self.sees else []

    async def ask(
        self, dialogue: Dialogue, message: dict[str, Any], template: str, *settings: Any
    ) -> AsyncIterator[Updates]:
        """Answer a message."""
        turn = Turn(message["text"].strip(), tuple(message["files"]), self.templates[template])
        async for updates in self._answer(dialogue, [*dialogue.turns, turn], settings, from_box=True):
            yield updates

    async def retry(self, dialogue: Dialogue, *settings: Any) -> AsyncIterator[Updates]:
        """Answer the last message again."""
        if dialogue.turns:
            async for updates in self._answer(dialogue, _asked_again(dialogue.turns), settings):
                yield updates

    async def edit(self, dialogue: Dialogue, edited: gr.EditData, *settings: Any) -> AsyncIterator[Updates]:
        """Answer another text in place of a message, with its images; what followed is dropped."""
        number = dialogue.number_of(_first(edited.index))
        if number is not None and isinstance(edited.value, str):
            turns = _asked_again(dialogue.turns[: number + 1])
            turns[-1].text = edited.value.replace(WORD_JOINER, "").strip()
            async for updates in self._answer(dialogue, turns, settings):
                yield updates

    async def example(self, dialogue: Dialogue, selected: gr.SelectData, *settings: Any) -> AsyncIterator[Updates]:
        """Begin with an example."""
        number = _first(selected.index)
        if not 0 <= number < len(self.examples):
            return
        example, paths = self.examples[number]
        turn = Turn(example.text, tuple(paths), TEMPLATES[example.template])
        yield {self.template: example.template}
        async for updates in self._answer(dialogue, [turn], settings):
            yield updates

    async def _answer(
        self, dialogue: Dialogue, turns: list[Turn], settings: Sequence[Any], from_box: bool = False
    ) -> AsyncIterator[Updates]:
        """Answer the last of some turns, which are the dialogue from now on.

        If that is not possible, the dialogue stays as it was, and what comes `from_box` is in the box again.
        """
        before, dialogue.turns = dialogue.turns, turns
        asked = turns[-1]
        yield {
            self.chatbot: dialogue.messages(),
            self.message: gr.update(
                **({"value": None} if from_box else {}), interactive=False, submit_btn=False, stop_btn=True
            ),
            self.usage: "",
            **self._no_map(),
        }
        try:
            chosen = Settings(**dict(zip(self.settings, settings, strict=True)))
            async with aclosing(self.answering.answer(dialogue, chosen)) as parts:
                async for usage in parts:
                    yield {self.chatbot: dialogue.messages(), self.usage: str(usage)}
        except Exception as error:
            dialogue.turns = before
            _warn(error, "This cannot be answered")
            given = {"text": asked.text, "files": list(asked.images)}
            yield {self.chatbot: dialogue.messages(), self.message: self._ready(given if from_box else None)}
        else:
            yield {self.message: self._ready()}

    def stop(self, dialogue: Dialogue) -> Updates:
        """Keep of an answer what there is."""
        if dialogue.turns:
            dialogue.turns[-1].finished = True
        return {self.chatbot: dialogue.messages(), self.message: self._ready()}

    def undo(self, dialogue: Dialogue) -> Updates:
        """Take the last message back, into the box."""
        given = None
        if dialogue.turns:
            *dialogue.turns, last = dialogue.turns
            last.finished = True
            given = {"text": last.text, "files": list(last.images)}
        shown = {self.chatbot: dialogue.messages(), self.usage: "", **self._no_map()}
        return shown | {self.message: self._ready(given)}

    def clear(self, dialogue: Dialogue) -> Updates:
        """Start again."""
        if dialogue.turns:
            dialogue.turns[-1].finished = True
        dialogue.turns = []
        return {self.chatbot: [], self.usage: "", **self._no_map()}

    async def show_map(self, dialogue: Dialogue) -> Updates:
        """Offer the tokens of the last answer, and show where the model looked for the first."""
        try:
            number, tokens = await self.looking.look(dialogue)
            maps = await asyncio.to_thread(self.looking.html, number, 0)
        except Exception as error:
            _warn(error, "There is nothing to show")
            return self._no_map()
        choices = [(token.strip() or repr(token)[1:-1], which) for which, token in enumerate(tokens)]
        return {
            self.looked: number,
            self.token: gr.update(choices=choices, value=0, visible=True),
            self.map: gr.update(value=maps, visible=True),
        }

    async def choose_token(self, number: int, token: int) -> Any:
        """Show where the model looked for a token."""
        try:
            return await asyncio.to_thread(self.looking.html, number, token)
        except Exception as error:
            _warn(error, "There is nothing to show")
            return gr.skip()

    def _ready(self, value: dict[str, Any] | None = None) -> dict[str, Any]:
        """The box for the next message."""
        kept: dict[str, Any] = {} if value is None else {"value": value}
        return gr.update(**kept, interactive=True, submit_btn=True, stop_btn=False)

    def _no_map(self) -> Updates:
        return {self.token: gr.update(visible=False), self.map: gr.update(visible=False)} if self.sees else {}


def _warn(error: Exception, title: str) -> None:
    """Say on the page what is wrong, in one line."""
    if not isinstance(error, ApiError | UserError):
        logger.error("The page failed", exc_info=error)
        error = ApiError(500, FAILED)
    gr.Warning(html.escape(str(error)), title=title)


def _asked_again(turns: Sequence[Turn]) -> list[Turn]:
    """The turns, the last one without its answer."""
    *before, last = turns
    return [*before, Turn(last.text, last.images, last.template)]


def _first(index: Any) -> int:
    """The number of a message or example that an event is about; −1 if it has none."""
    number = index[0] if isinstance(index, list | tuple) and index else index
    return number if isinstance(number, int) else -1
