"""The address of an image → its encoded bytes, from the stores of a run.

data:          the address itself
file:///PATH   the folder of the HTML files
others         WARC files and tars (`image_index`); folders of downloads, HOST/PATH or a release's own names
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from urllib.request import DataHandler, Request

import fsspec

from kosmos_plugin.curation.filters.images import MAX_IMAGE_BYTES
from kosmos_plugin.curation.pipeline.inputs import InputFile, find_inputs, open_bytes
from kosmos_plugin.curation.readers.image_index import ImageIndex, address_key


class ImageStores:
    """Where the images of pages are.

    Args:
        files: WARC files and tars.
        index: The folder of their index.
        folders: Folders of downloads.
        root: The folder of the HTML files, if the input is HTML.
    """

    def __init__(self, files: Sequence[InputFile], index: Path, folders: Sequence[str], root: str | None):
        self.files = files
        self.folders = folders
        self.root = root
        self.index = ImageIndex(files, index) if files else None

    def read(self, url: str, path: str | None = None) -> bytes | None:
        """Read an image.

        Args:
            url: Its address.
            path: Its name in a release.

        Returns:
            At most MAX_IMAGE_BYTES + 1 bytes of it, still encoded; None if it is in no store.
        """
        if url[:5].lower() == "data:":
            return _image_in_address(url)
        if url.startswith("file:"):
            return self._image_in_root(url)
        for name in filter(None, (address_key(url), path)):
            if self.index is not None and (found := self.index.read(name)) is not None:
                return found
            for folder in self.folders:
                if (found := _in_folder(folder, name)) is not None:
                    return found
        return None

    def _image_in_root(self, url: str) -> bytes | None:
        try:
            path = unquote(urlsplit(url).path, errors="surrogateescape").lstrip("/")
        except ValueError:  # file://[/
            return None
        return None if self.root is None else _in_folder(self.root, path)


def image_sources(patterns: Sequence[str]) -> tuple[list[InputFile], list[str]]:
    """Sort the values of --images into (WARC files and tars, folders of downloads).

    A folder that contains WARC files or tars stands for these files.
    """
    files, folders = [], []
    for pattern in patterns:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        if filesystem.isdir(path) and not any(map(_is_archive, filesystem.ls(path, detail=False))):
            folders.append(pattern.rstrip("/"))
        else:
            files += [file for file in find_inputs([pattern]) if _is_archive(file.path)]
    return files, folders


def _is_archive(path: str) -> bool:
    return InputFile(path, None).format in ("tar", "warc")


def _image_in_address(url: str) -> bytes | None:
    try:
        with DataHandler().data_open(Request(url)) as response:
            return response.read(MAX_IMAGE_BYTES + 1)
    except (ValueError, OSError):
        return None


def _in_folder(folder: str, name: str) -> bytes | None:
    """Read the file `name` in `folder`; None if it does not exist or would be outside of the folder."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        return None
    try:
        with open_bytes(f"{folder}/{path}") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError):
        return None
