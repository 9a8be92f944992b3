"""The image of a record: the encoded bytes themselves, base64, or the name of a file.

    b"…"                                       Parquet of img2dataset
    {"bytes": b"…", "path": "0.png"}           Hugging Face; without bytes, the path counts
    "train/0.png"                              a name in the folder of images
    "iVBORw0KGgo…", "data:image/png;base64,…"  base64

A list of one image stands for the image. Images of addresses (https://…) are not downloaded: img2dataset does that.
"""

import base64
import os
import re
from pathlib import PurePosixPath

from datatrove.data import Media, MediaType

from kosmos_plugin.curation.filters.images import MAX_IMAGE_BYTES
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.inputs import InputFile, is_file, is_system_error, open_bytes
from kosmos_plugin.image_files import IMAGE_EXTENSIONS

NO_IMAGE = "no image"
IMAGE_NAME = re.compile(rf"\.({'|'.join(IMAGE_EXTENSIONS)})$", re.IGNORECASE)
_LONGEST_NAME = 64  # characters of a name without an extension; longer ones are base64
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


def image_folder(file: InputFile, images: str | None) -> str:
    """The folder that the names of images in `file` are relative to: `images` or, without it, that of the file."""
    if images is None:
        return file.path.rpartition("/")[0]
    return images.rstrip("/") if "://" in images else os.path.abspath(images)


def image_media(value: object, folder: str, id: str) -> Media:
    """The image of a field: its bytes, or the file where they are (`url`). Raises Dropped if there is none."""
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return Media(id, MediaType.IMAGE, url="", media_bytes=value)
    if not isinstance(value, str):
        raise Dropped(NO_IMAGE)
    value = value.strip()
    if _ADDRESS.match(value):
        raise Dropped("address of an image: download it with img2dataset", value[:80])
    if value.startswith("data:"):
        return Media(id, MediaType.IMAGE, url="", media_bytes=_from_base64(value.partition(",")[2]))
    data = None if IMAGE_NAME.search(value) else _from_base64(value)
    if data is not None and len(value) >= _LONGEST_NAME:
        return Media(id, MediaType.IMAGE, url="", media_bytes=data)
    url = f"{folder}/{_name_in(folder, value)}"
    if data is not None and not is_file(url):  # a name without an extension may look like base64
        return Media(id, MediaType.IMAGE, url="", media_bytes=data)
    return Media(id, MediaType.IMAGE, url=url)


def read_image(media: Media) -> bytes:
    """At most MAX_IMAGE_BYTES + 1 bytes of the encoded image of `image_media`. Raises Dropped if it is not there."""
    if media.media_bytes is not None:
        return media.media_bytes
    if not media.url:  # a data: address
        raise Dropped("image that is not in base64")
    try:
        with open_bytes(media.url) as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        if is_system_error(error):
            raise
        where = "not" if IMAGE_NAME.search(media.url) else "neither in base64 nor"
        raise Dropped(f"image that is {where} in the folder of images", media.url[-200:]) from None


def _from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def _name_in(folder: str, name: str) -> str:
    """The name of an image relative to `folder`. Raises Dropped if it is outside of it."""
    name = name.replace("\\", "/").removeprefix(f"{folder}/")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise Dropped("image outside of the folder of images", name[:80])
    return str(path)
