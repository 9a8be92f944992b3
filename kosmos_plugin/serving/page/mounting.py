"""The page as a part of the server."""

import logging
import os
from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse

from kosmos_plugin.serving.engine import Engine
from kosmos_plugin.serving.keys import is_key
from kosmos_plugin.serving.options import ServerOptions
from kosmos_plugin.serving.page.access import ROOT, PageAccess
from kosmos_plugin.serving.page.files import PageFiles
from kosmos_plugin.serving.requests import Preparation


def mount_page(
    app: FastAPI,
    engine: Engine,
    preparation: Preparation,
    options: ServerOptions,
    name: str,
    api_keys: Sequence[str],
    files: PageFiles,
) -> PageAccess:
    """Add the page to a server.

    Args:
        app: The server.
        engine: A running engine.
        preparation: Makes prompts.
        options: The server's.
        name: The model's name.
        api_keys: The keys that are accepted; the page asks for one. None: it asks for nothing.
        files: Where its files are.

    Returns:
        What the server's Guard lets through.
    """
    os.environ |= {
        "GRADIO_TEMP_DIR": str(files.folder),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),  # no statistics of each event either
        "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    }
    import gradio as gr

    from kosmos_plugin.serving.page.answering import Answering
    from kosmos_plugin.serving.page.layout import CSS, THEME, Page
    from kosmos_plugin.serving.page.looking import Looking

    logging.getLogger("httpx").setLevel(logging.WARNING)
    page = Page(Answering(engine, preparation), Looking(engine.kosmos), options, name, files.folder)
    keys = [key.encode() for key in api_keys]

    def knows_key(user: str, password: str) -> bool:
        return is_key(password.encode(), keys)

    @app.get("/", include_in_schema=False)
    @app.get("/favicon.ico", include_in_schema=False)
    async def to_page(request: Request) -> RedirectResponse:
        return RedirectResponse(ROOT + request.url.path)

    gr.mount_gradio_app(
        app,
        page.blocks,
        ROOT,
        footer_links=[],
        run_history=False,
        auth=knows_key if keys else None,
        auth_message="The password is the API key of the server; the user name may be any.",
        show_error=False,
        max_file_size=int(options.max_body_mib * 2**20),
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=THEME,
        css=CSS,
    )
    page.blocks.has_launched = True  # otherwise Gradio does not check which files a request names
    files.keep()
    return PageAccess(files, options.cors_origin)
