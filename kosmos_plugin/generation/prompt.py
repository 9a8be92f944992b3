"""Prompts: text with an `<image>` for each image, and the images → a Document."""

from collections.abc import Sequence

from kosmos_plugin.data.documents import Document, Image, Text
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.image_sources import FetchUrl, ImageSource, image_of, several_images

IMAGE_MARK = "<image>"


def parse_prompt(
    text: str,
    images: ImageSource | Sequence[ImageSource] = (),
    name: str = "prompt",
    fetch: FetchUrl | None = None,
) -> Document:
    """Make a document of `text`, with an image in place of each `<image>`.

    Args:
        text: The prompt, with one `<image>` for each of `images`.
        images: The images in order, or one; see `image_of`.
        name: What error messages call the prompt.
        fetch: What reads the image at a URL; None: a URL is an error.

    Raises:
        UserError: The numbers of `<image>` and of images differ, or one of them is not an image, or does not exist.
    """
    if not isinstance(text, str):
        raise UserError(f"{name}: a prompt is a text, not of type {type(text).__name__}.")
    images = several_images(images)
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
            segments.append(_image(images[i - 1], i, name, fetch))
        if piece.strip():
            segments.append(Text(piece.strip()))
    return Document(name, tuple(segments))


def require_text(text: object, name: str) -> None:
    """Raise UserError unless `text`, which the message calls `name`, is a text that has tokens."""
    if not isinstance(text, str):
        raise UserError(f"{name} is a text, not of type {type(text).__name__}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # JSON can spell it: "\ud83d"
        raise UserError(f"{name} has half a surrogate pair, which is not a character.") from None


def _image(source: ImageSource, number: int, name: str, fetch: FetchUrl | None) -> Image:
    try:
        return image_of(source, f"image {number}", fetch)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
