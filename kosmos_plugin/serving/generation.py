"""A request in the engine, as seen from the event loop."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Request

from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.serving.answers import Answer
from kosmos_plugin.serving.engine import Engine, EngineFailed, QueueFull, Token
from kosmos_plugin.serving.errors import ApiError, busy
from kosmos_plugin.serving.prompt import Prompt

FAILED = "The server failed to answer; its log says why."


class Generation:
    """A request in the engine, as seen from the event loop: an asynchronous iterator of its tokens.

    Raises:
        ApiError: Too many others wait, or, while iterating, the engine failed.
    """

    def __init__(self, engine: Engine, prompts: Sequence[Prompt], options: SearchOptions, n: int):
        self.engine = engine
        self.prompt_tokens = sum(map(len, prompts))
        self._events: asyncio.Queue[Token | EngineFailed | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def listen(event: Token | EngineFailed) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, event)

        try:
            self._request = engine.submit(prompts, options, n, listen)
        except QueueFull:
            raise busy() from None
        except EngineFailed:
            raise ApiError(500, FAILED) from None
        self._unfinished = len(prompts) * n
        self._watch: asyncio.Task[None] | None = None

    def end_with(self, request: Request) -> None:
        """Cancel it when the client goes away."""

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            self.cancel()

        self._watch = asyncio.create_task(watch())

    def cancel(self) -> None:
        """Free its place. The iterator ends."""
        if self._unfinished:
            self.engine.cancel(self._request)
            self._unfinished = 0
            self._events.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Token]:
        """Its tokens, until all texts have ended or it is cancelled."""
        try:
            while self._unfinished and (event := await self._events.get()) is not None:
                if isinstance(event, EngineFailed):
                    raise ApiError(500, FAILED)
                self._unfinished -= event.finish_reason is not None
                yield event
        finally:
            self.cancel()
            if self._watch is not None:
                self._watch.cancel()

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompts that were in the cache."""
        return self._request.cached_tokens

    def usage(self, answer: Answer) -> dict[str, Any]:
        """What it has cost."""
        return answer.usage(self.prompt_tokens, self.cached_tokens)
