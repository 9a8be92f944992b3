"""The server: OpenAI's routes over the engine.

request ──▶ Guard: key, sizes ──▶ protocol: fields ──▶ Preparation: a prompt ──▶ engine ──▶ answers: whole or a stream
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

import kosmos_plugin
from kosmos_plugin.errors import UserError
from kosmos_plugin.serving.answers import Answer, ChatAnswer, CompletionAnswer
from kosmos_plugin.serving.engine import Engine
from kosmos_plugin.serving.errors import ApiError, json_bytes
from kosmos_plugin.serving.generation import FAILED, Generation
from kosmos_plugin.serving.guard import Guard
from kosmos_plugin.serving.keys import keys_from
from kosmos_plugin.serving.listening import allowed_hosts
from kosmos_plugin.serving.metrics import CONTENT_TYPE, prometheus_text
from kosmos_plugin.serving.options import ServerOptions
from kosmos_plugin.serving.page.files import PageFiles
from kosmos_plugin.serving.prompt import Prompt
from kosmos_plugin.serving.protocol import ChatRequest, CompletionRequest, describe
from kosmos_plugin.serving.requests import Preparation


def create_app(engine: Engine, options: ServerOptions, name: str, files: PageFiles | None = None) -> FastAPI:
    """Make the application.

    Args:
        engine: A running engine.
        options: Who may use it, and what it accepts.
        name: The model's name.
        files: Where the files of the page are, if there is to be a page.
    """
    app = FastAPI(
        title="kosmos_plugin",
        version=kosmos_plugin.__version__,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    kosmos = engine.kosmos
    preparation = Preparation(kosmos, options)
    answers: Counter[tuple[str, int]] = Counter()
    model = {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "kosmos_plugin",
        "max_model_len": kosmos.model.max_positions(),
    }

    def check_model(wanted: str | None) -> None:
        if wanted not in (None, name):
            raise ApiError(404, f"There is no model {wanted!r}; there is {name!r}.", "model", "model_not_found")

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest, request: Request) -> Response:
        check_model(body.model)
        body.check()
        prompts = await preparation.chat(body)
        answer = ChatAnswer(name, kosmos.vocabulary, body.choices, body.alternatives is not None)
        return await respond(body, request, prompts, answer)

    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        check_model(body.model)
        body.check()
        prompts = await preparation.completions(body)
        echo = None
        if body.echo:
            texts = [text if isinstance(text, str) else kosmos.vocabulary.decode(text) for text in body.prompts]
            echo = [text for text in texts for _ in range(body.choices)]
        choices = len(prompts) * body.choices
        answer = CompletionAnswer(name, kosmos.vocabulary, choices, body.alternatives is not None, echo)
        return await respond(body, request, prompts, answer)

    async def respond(
        body: ChatRequest | CompletionRequest, request: Request, prompts: Sequence[Prompt], answer: Answer
    ) -> Response:
        if len(answer.texts) > engine.options.max_sequences + engine.options.max_queue:
            raise ApiError(400, f"{len(answer.texts)} texts are more than the server generates at once.", "n")
        new_tokens = preparation.new_tokens(prompts, *body.new_tokens)
        stop = preparation.template.stop if isinstance(body, ChatRequest) else ()
        search_options = body.search_options(options.temperature, new_tokens, stop)
        generation = Generation(engine, prompts, search_options, body.choices)
        generation.end_with(request)
        if body.stream:
            include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies pass each chunk on
            return StreamingResponse(
                stream(generation, answer, include_usage), headers=headers, media_type="text/event-stream"
            )
        async for token in generation:
            answer.add(token)
        return _json(answer.whole(generation.usage(answer)))

    @app.get("/v1/models")
    async def models() -> Response:
        return _json({"object": "list", "data": [model]})

    @app.get("/v1/models/{wanted:path}")
    async def model_named(wanted: str) -> Response:
        check_model(wanted)
        return _json(model)

    @app.get("/health")
    async def health() -> Response:
        return _json({"status": "ok"}) if engine.alive else _json({"status": "the engine has stopped"}, 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(prometheus_text(engine, answers), media_type=CONTENT_TYPE)

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return _error(error)

    @app.exception_handler(RequestValidationError)
    async def wrong_body(request: Request, error: RequestValidationError) -> Response:
        return _error(describe(error.errors()))

    @app.exception_handler(UserError)
    async def wrong_option(request: Request, error: UserError) -> Response:
        return _error(ApiError(400, str(error)))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return _error(ApiError(error.status_code, _MESSAGES.get(error.status_code, str(error.detail))))

    @app.exception_handler(Exception)  # logged by the server, with its traceback
    async def internal_error(request: Request, error: Exception) -> Response:
        return _error(ApiError(500, FAILED))

    api_keys, page = keys_from(options.api_key), None
    if files is not None:
        from kosmos_plugin.serving.page.mounting import mount_page

        page = mount_page(app, engine, preparation, options, name, api_keys, files)
    app.add_middleware(Guard, api_keys=api_keys, max_body=int(options.max_body_mib * 2**20), answers=answers, page=page)
    if options.cors_origin:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.cors_origin), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(
        TrustedHostMiddleware, allowed_hosts=allowed_hosts(options.host, options.allowed_host), www_redirect=False
    )
    return app


_MESSAGES = {
    400: "The body cannot be read: send valid JSON, in UTF-8.",
    404: "There is no such path. There are /v1/chat/completions, /v1/completions and /v1/models.",
    405: "The path does not have this method.",
}


async def stream(generation: Generation, answer: Answer, include_usage: bool) -> AsyncIterator[bytes]:
    """An answer as server-sent events."""
    no_usage = {"usage": None} if include_usage else {}
    for chunk in answer.first_chunks():
        yield _event({**chunk, **no_usage})
    try:
        async for token in generation:
            if (part := answer.add(token)) is not None:
                yield _event({**part, **no_usage})
    except ApiError as error:
        yield _event(error.body())
        return
    if include_usage:
        yield _event({**answer.chunk([]), "usage": generation.usage(answer)})
    yield b"data: [DONE]\n\n"


def _json(value: Any, status: int = 200) -> Response:
    return Response(json_bytes(value), status, media_type="application/json")


def _error(error: ApiError) -> Response:
    return _json(error.body(), error.status)


def _event(value: Any) -> bytes:
    return b"data: " + json_bytes(value) + b"\n\n"
