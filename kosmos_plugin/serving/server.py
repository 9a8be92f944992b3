"""The server as a program."""

from types import FrameType

import uvicorn

from kosmos_plugin.serving.page.files import PageFiles


class Server(uvicorn.Server):
    """uvicorn's server, which deletes the page's files on Ctrl-C or SIGTERM: nothing after that is sure to be reached.

    Args:
        config: uvicorn's.
        files: The files of the page, if there is one.
    """

    def __init__(self, config: uvicorn.Config, files: PageFiles | None):
        super().__init__(config)
        self.files = files

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn."""
        if self.files is not None:
            self.files.delete()
        super().handle_exit(sig, frame)
