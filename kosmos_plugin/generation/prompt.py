"""Prompts: text with an `<image>` for each image, and the image files or bytes → a Document."""

import functools
from collections.abc import Sequence
from pathlib import Path

from kosmos_plugin.data.documents import Document, Image, Text
from kosmos_plugin.data.tar_files import read_bytes
from kosmos_plugin.errors import UserError, require_file

IMAGE_MARK = "<image>"


def parse_prompt(text: str, images: Sequence[str | Path | bytes] = (), name: str = "prompt") -> Document:
    """Make a document of `text`, with an image in place of each `<image>`.

    Args:
        text: The prompt, with one `<image>` for each of `images`.
        images: Paths of image files, or their bytes, in order.
        name: What error messages call the prompt.

    Raises:
        UserError: The numbers of `<image>` and of images differ, or an image file does not exist.
    """
    pieces = text.split(IMAGE_MARK)
    marks = len(pieces) - 1
    if marks != len(images):
        raise UserError(
            f"{name}: the text has {marks} {IMAGE_MARK} and {len(images)} "
            f"{'image is' if len(images) == 1 else 'images are'} given; each image needs its {IMAGE_MARK}."
        )
    segments: list[Text | Image] = []
    for i, piece in enumerate(pieces):
        if i > 0:
            segments.append(_image(images[i - 1]))
        if piece.strip():
            segments.append(Text(piece.strip()))
    return Document(name, tuple(segments))


def _image(source: str | Path | bytes) -> Image:
    if isinstance(source, bytes):
        return Image(lambda: source)
    path = Path(source)
    require_file(path, "The image")
    return Image(functools.partial(read_bytes, str(path), 0, path.stat().st_size), str(path))
