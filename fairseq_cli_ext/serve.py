"""kosmos-serve: a trained model behind an OpenAI-compatible HTTP server.

    kosmos-serve --path CHECKPOINT
    curl http://127.0.0.1:8000/v1/completions --json '{"prompt": "The red cat", "max_tokens": 20}'

Requests are generated at the same time, and beginnings that they share are read once. By default only this machine can
use it. Ctrl-C ends it.
"""

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

from fairseq_cli_ext import run_command
from fairseq_cli_ext.parser import CommandParser
from kosmos_plugin.errors import UserError, missing_package
from kosmos_plugin.generation.options import DeviceOptions
from kosmos_plugin.options import REQUIRED, add_options, option, parsed_options
from kosmos_plugin.serving.options import EngineOptions, ServerOptions


@dataclass(frozen=True)
class ServeOptions:
    """The model of kosmos-serve."""

    path: Path = option(
        REQUIRED, "checkpoint of fairseq-train or kosmos-convert, or its folder", metavar="CHECKPOINT", must_exist=True
    )
    data: str | None = option(
        None, "data YAML with the vocabulary (default: where it was in training)", metavar="DATA.yaml", must_exist=True
    )
    vocabulary: str | None = option(
        None,
        "folder of sentencepiece.model and dict.txt (default: beside the checkpoint, or the data YAML's)",
        metavar="FOLDER",
        must_exist=True,
    )


def parser() -> CommandParser:
    """Build the command's parser."""
    parser = CommandParser("kosmos-serve", __doc__)
    add_options(parser, ServeOptions)
    add_options(parser.add_argument_group("device"), DeviceOptions)
    add_options(parser.add_argument_group("server"), ServerOptions)
    add_options(parser.add_argument_group("engine"), EngineOptions)
    return parser


def run(args: argparse.Namespace) -> None:
    """Serve until the program is stopped."""
    try:
        import uvicorn

        from kosmos_plugin.serving.app import create_app
        from kosmos_plugin.serving.listening import listening_socket
    except ImportError as error:
        raise missing_package("kosmos-serve", error, "serve") from None
    from kosmos_plugin.checkpoints.fairseq_checkpoint import checkpoint_file
    from kosmos_plugin.generation.generator import load
    from kosmos_plugin.generation.template import template_of
    from kosmos_plugin.serving.engine import Engine

    options, server = parsed_options(args, ServeOptions), parsed_options(args, ServerOptions)
    where = parsed_options(args, DeviceOptions)
    if server.port > 65535:
        raise UserError(f"--port must be at most 65535, not {server.port}.")
    template_of(server.template)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    with listening_socket(server.host, server.port) as listening:  # before what takes time
        path = checkpoint_file(options.path)
        name = server.served_model_name or path.stem
        kosmos = load(path, options.data, options.vocabulary, where.device, where.dtype)
        with Engine(kosmos, parsed_options(args, EngineOptions)) as engine:
            app = create_app(engine, server, name)
            host, port = listening.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            print(f"Serving {name} at {url}/v1", file=sys.stderr, flush=True)
            config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
            uvicorn.Server(config).run(sockets=[listening])


def cli_main(arguments: list[str] | None = None) -> None:
    """Run kosmos-serve."""
    run_command(parser(), run, arguments)


if __name__ == "__main__":
    cli_main()
