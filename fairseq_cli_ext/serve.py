"""kosmos-serve: a trained model behind an OpenAI-compatible HTTP server.

    kosmos-serve --path CHECKPOINT
    curl http://127.0.0.1:8000/v1/completions --json '{"prompt": "The red cat", "max_tokens": 20}'

Requests are generated at the same time, and beginnings that they share are read once. By default only this machine can
use it. With --page there is also a page to talk to the model in a browser, at /chat. Ctrl-C ends it.
"""

import argparse
import logging
import sys

from fairseq_cli_ext import run_command
from fairseq_cli_ext.parser import CommandParser
from kosmos_plugin.errors import UserError, missing_package
from kosmos_plugin.generation.options import DeviceOptions, ModelOptions
from kosmos_plugin.options import add_options, parsed_options
from kosmos_plugin.serving.options import EngineOptions, ServerOptions


def parser() -> CommandParser:
    """Build the command's parser."""
    parser = CommandParser("kosmos-serve", __doc__)
    add_options(parser, ModelOptions)
    add_options(parser.add_argument_group("device"), DeviceOptions)
    add_options(parser.add_argument_group("server"), ServerOptions)
    add_options(parser.add_argument_group("engine"), EngineOptions)
    return parser


def run(args: argparse.Namespace) -> None:
    """Serve until the program is stopped."""
    try:
        import uvicorn

        from kosmos_plugin.serving.app import create_app
        from kosmos_plugin.serving.listening import allowed_hosts, listening_socket
        from kosmos_plugin.serving.server import Server
    except ImportError as error:
        raise missing_package("kosmos-serve", error, "serve") from None
    from kosmos_plugin.checkpoints.fairseq_checkpoint import checkpoint_file
    from kosmos_plugin.generation.generator import load
    from kosmos_plugin.generation.template import template_of
    from kosmos_plugin.serving.engine import Engine
    from kosmos_plugin.serving.page.files import PageFiles

    model, where = parsed_options(args, ModelOptions), parsed_options(args, DeviceOptions)
    server = parsed_options(args, ServerOptions)
    if server.port > 65535:
        raise UserError(f"--port must be at most 65535, not {server.port}.")
    template_of(server.template)
    allowed_hosts(server.host, server.allowed_host)
    if server.page:
        try:
            import gradio  # noqa: F401 - before what takes time
        except ImportError as error:
            raise missing_package("kosmos-serve --page", error, "page") from None
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of clients that go away
    with listening_socket(server.host, server.port) as listening:  # before what takes time
        path = checkpoint_file(model.path)
        name = server.served_model_name or path.stem
        kosmos = load(path, model.data, model.vocabulary, where.device, where.dtype)
        with Engine(kosmos, parsed_options(args, EngineOptions)) as engine:
            files = PageFiles(int(server.max_body_mib * 2**20)) if server.page else None
            app = create_app(engine, server, name, files)
            host, port = listening.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            print(f"Serving {name} at {url}/v1", file=sys.stderr, flush=True)
            if files is not None:
                print(f"The page is at {url}/chat", file=sys.stderr, flush=True)
            config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
            Server(config, files).run(sockets=[listening])


def cli_main(arguments: list[str] | None = None) -> None:
    """Run kosmos-serve."""
    run_command(parser(), run, arguments)


if __name__ == "__main__":
    cli_main()
