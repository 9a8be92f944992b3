"""A checked request → what the engine continues: texts are tokenized and images fetched and decoded."""

import asyncio
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kosmos_plugin.data.documents import Document, Image, Text
from kosmos_plugin.data.samples import PromptTooLong
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.image_sources import image_of
from kosmos_plugin.generation.template import template_of
from kosmos_plugin.serving.chat_prompt import ImageReference, segments_of
from kosmos_plugin.serving.errors import ApiError
from kosmos_plugin.serving.options import ServerOptions
from kosmos_plugin.serving.prompt import Prompt, prepare
from kosmos_plugin.serving.protocol import ChatRequest, CompletionRequest
from kosmos_plugin.serving.remote_images import fetch

# Of a text that is longer, not even the number of its tokens is counted: no piece of a vocabulary is as long.
CHARACTERS_PER_POSITION = 100
TOO_LONG = "context_length_exceeded"


class Preparation:
    """Makes prompts of requests, in threads of its own: neither the engine nor other requests wait for it.

    Args:
        kosmos: The model.
        options: What is accepted.

    Raises:
        UserError: There is no such template.
    """

    def __init__(self, kosmos: Generator, options: ServerOptions):
        self.kosmos = kosmos
        self.options = options
        self.template = template_of(options.template)
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="kosmos-prepare")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def chat(self, request: ChatRequest) -> list[Prompt]:
        """The prompt of a chat.

        Raises:
            ApiError: It cannot be read, or does not fit in the model's positions.
        """
        segments = segments_of(request.messages, self.template)
        images = [segment for segment in segments if isinstance(segment, ImageReference)]
        if images and self.kosmos.model.vision is None:
            raise ApiError(400, "The model reads only text: leave out the images.", images[0].param)
        positions, size = self.kosmos.model.max_positions(), self.kosmos.model.config.image_tokens
        if len(images) * (size + 2) >= positions:
            raise ApiError(400, f"{len(images)} images do not fit in the model's {positions:,} positions.", "messages")
        data = [await self._read(image) for image in images]
        return [await self._in_thread(self._chat_prompt, segments, data)]

    async def document(self, document: Document) -> Prompt:
        """The prompt of a document, which the model continues.

        Raises:
            ApiError: As for `chat`.
        """
        if any(isinstance(part, Image) for part in document.segments) and self.kosmos.model.vision is None:
            raise ApiError(400, "The model reads only text: leave out the images.")
        return await self._in_thread(self._prompt, document)

    async def completions(self, request: CompletionRequest) -> list[Prompt]:
        """The prompts of a request without messages; texts have no images.

        Raises:
            ApiError: As for `chat`.
        """
        return [await self._in_thread(self._completion_prompt, prompt) for prompt in request.prompts]

    def new_tokens(self, prompts: Sequence[Prompt], wanted: int | None, param: str) -> int:
        """How many new tokens a request gets.

        Raises:
            ApiError: It asks for more than allowed, or than there is room for.
        """
        positions = self.kosmos.model.max_positions()
        room = positions - max(len(prompt) for prompt in prompts)
        if room < 1:
            message = f"The prompt fills all of the model's {positions:,} positions: shorten it."
            raise ApiError(400, message, "prompt", TOO_LONG)
        limit = self.options.max_new_tokens
        if wanted is None:
            return min(room, limit or room)
        if wanted > room:
            message = (
                f"A prompt of {positions - room:,} tokens and {wanted:,} new ones do not fit in the model's "
                f"{positions:,} positions: ask for at most {room:,}, or shorten the prompt."
            )
            raise ApiError(400, message, param, TOO_LONG)
        if limit is not None and wanted > limit:
            raise ApiError(400, f"{param} may be at most {limit:,} here.", param)
        return wanted

    async def _in_thread(self, function: Callable[..., Prompt], *arguments: Any) -> Prompt:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        except PromptTooLong as error:
            raise ApiError(400, str(error), None, TOO_LONG) from None
        except UserError as error:
            raise ApiError(400, str(error)) from None

    async def _read(self, image: ImageReference) -> bytes:
        """The bytes of an image."""
        try:
            if image.url[:5].lower() == "data:":
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, _read_data_uri, image.url)
            if not self.options.allow_remote_images:
                raise UserError("Images are sent in the request, as data URIs: this server fetches none.")
            return await fetch(image.url, int(self.options.max_image_mib * 2**20))
        except UserError as error:
            raise ApiError(400, str(error), image.param, "invalid_image") from None

    def _chat_prompt(self, segments: Sequence[str | ImageReference], data: Sequence[bytes]) -> Prompt:
        remaining = iter(data)
        parts: list[Text | Image] = []
        for segment in segments:
            if isinstance(segment, str):
                parts.append(Text(segment))
            else:
                parts.append(Image(functools.partial(bytes, next(remaining))))
        return self._prompt(Document("of the request", tuple(parts)))

    def _completion_prompt(self, prompt: str | list[int]) -> Prompt:
        if isinstance(prompt, str):
            return self._prompt(Document("of the request", (Text(prompt),)))
        tokens, words = np.array(prompt, dtype=object), len(self.kosmos.vocabulary)
        if len(tokens) == 0 or not all(0 <= token < words for token in prompt):
            raise ApiError(400, f"prompt: token ids are from 0 to {words - 1:,}, and there is at least one.", "prompt")
        if len(tokens) > (positions := self.kosmos.model.max_positions()):
            raise PromptTooLong(f"The prompt has {len(tokens):,} tokens; the model takes {positions:,}.")
        return Prompt.of(tokens.astype(np.int64), np.zeros(len(tokens), dtype=bool))

    def _prompt(self, document: Document) -> Prompt:
        characters = sum(len(part.text) for part in document.segments if isinstance(part, Text))
        if characters > CHARACTERS_PER_POSITION * (positions := self.kosmos.model.max_positions()):
            raise PromptTooLong(f"The prompt has {characters:,} characters; the model takes {positions:,} tokens.")
        sample = self.kosmos.sample_builder.prompt(document)
        return prepare(sample, self.kosmos.model.config, self.options.max_image_pixels)


def _read_data_uri(uri: str) -> bytes:
    try:
        return image_of(uri, "The image").read()
    except UnicodeError:  # half a surrogate pair
        raise UserError("The image is not a valid data URI.") from None
