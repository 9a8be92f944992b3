"""Options of the server. This module imports neither torch nor fastapi, so the command can show them in its help."""

from dataclasses import dataclass

from kosmos_plugin.options import option


@dataclass(frozen=True)
class EngineOptions:
    """How much the engine does and keeps at once."""

    max_sequences: int = option(16, "texts that are generated at the same time", minimum=1)
    max_queue: int = option(64, "texts that may wait for their turn; further requests get status 429", minimum=0)
    kv_cache_tokens: int | None = option(
        None,
        "tokens whose keys and values are kept, of running requests and of beginnings that later ones may share "
        "(default: eight times the longest sequence of the model)",
        metavar="N",
        minimum=1,
    )
    step_tokens: int = option(
        512, "tokens that a step of the model computes at most: how long a long prompt delays others", minimum=1
    )


@dataclass(frozen=True)
class ServerOptions:
    """Where the server listens, who may use it, and what it accepts."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0: of all networks", metavar="HOST")
    port: int = option(8000, "port to listen on; 0: any that is free", minimum=0)
    allowed_host: tuple[str, ...] = option(
        (),
        "name that requests may give the server (their Host header), *.example.com for all of a domain, * for any; may "
        "be repeated (default: any, but on a loopback address only --host and localhost)",
        metavar="HOST",
        repeated=True,
    )
    page: bool = option(False, "also serve a page to talk to the model in a browser, at /chat")
    api_key: tuple[str, ...] = option(
        (),
        "key that requests must have; may be repeated (default: that of the environment's KOSMOS_API_KEY, if any)",
        metavar="KEY",
        repeated=True,
    )
    cors_origin: tuple[str, ...] = option(
        (), "web origin that may use the server from a browser, * for all; may be repeated", repeated=True
    )
    served_model_name: str | None = option(
        None, "name of the model in requests and answers (default: that of the checkpoint's file)", metavar="NAME"
    )
    template: str = option(
        "question-answer",
        'how a user\'s message is asked: plain, question-answer ("Question: … Answer:"), or a file with {text} in it',
        metavar="NAME",
    )
    temperature: float = option(0.0, "temperature of requests that name none; 0: the likeliest tokens", minimum=0)
    max_new_tokens: int | None = option(
        None, "new tokens that a request may ask for, and gets by default (default: what fits)", metavar="N", minimum=1
    )
    allow_remote_images: bool = option(False, "fetch images from http and https URLs of public addresses")
    max_image_pixels: int = option(24_000_000, "pixels of an image", minimum=1)
    max_image_mib: float = option(20, "MiB of an image that is fetched", minimum=0)
    max_body_mib: float = option(32, "MiB of a request", minimum=0)
