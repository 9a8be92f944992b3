"""Images of any kind → normalized pixels, as a model was trained on them.

The shorter side is resized to the target (bicubic) and the center cropped, or the whole image is stretched to a square.
Photos are turned by their EXIF orientation, transparent pixels become white, and a large JPEG is decoded at a fraction
of its size.
"""

import base64
import binascii
import functools
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_transforms import to_pil_image
from transformers.image_utils import load_image

# Pillow opens some 30 formats more; EPS among them runs Ghostscript.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PPM")
ORIENTATION_TAG = 0x0112  # of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LONGEST_SIDE = 16  # in multiples of the shorter one; only the middle of a longer strip is resized
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


class KosmosImageProcessor(BaseImageProcessor):
    """Turns images into the model's pixel_values.

    Args:
        size: S, side of the square, in pixels.
        fit: How an image is made square: "crop" or "stretch".
        image_mean: Of each channel (RGB, pixels in 0 … 1).
        image_std: Of each channel.
        **kwargs: Arguments of BaseImageProcessor.
    """

    model_input_names = ("pixel_values",)

    def __init__(
        self,
        size: int = 224,
        fit: str = "crop",
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.size = size
        self.fit = fit
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def __call__(self, images: Any, return_tensors: Any = "pt", **kwargs: Any) -> BatchFeature:
        """As `preprocess`."""
        return self.preprocess(images, return_tensors=return_tensors, **kwargs)

    def preprocess(self, images: Any, return_tensors: Any = "pt", **kwargs: Any) -> BatchFeature:
        """Prepare images.

        Args:
            images: One or a list of: a path, a URL, a data URI, bytes, a file object, a PIL image, a NumPy array or a
                tensor (height × width × channels or channels first).
            return_tensors: As elsewhere in transformers.
            **kwargs: Ignored.

        Returns:
            pixel_values float32 [N, 3, S, S].
        """
        pixels = [torch.from_numpy(self._square(image)).permute(2, 0, 1) for image in flatten_images(images)]
        scaled = torch.stack(pixels).to(torch.float32) / 255.0
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.image_mean, self.image_std))
        return BatchFeature({"pixel_values": (scaled - mean) / std}, tensor_type=return_tensors)

    def fetch_images(self, images: Any) -> Any:
        """Leave images as they are, for `preprocess` to open."""
        return images

    def _square(self, source: Any) -> np.ndarray:
        """An image as uint8 [S, S, 3]."""
        image = _open(source)
        drafted = image.draft("RGB", (2 * self.size, 2 * self.size))  # None unless it is a JPEG
        image.load()
        box: Box = drafted[1] if drafted else (0, 0, *image.size)  # of the picture within the decoded pixels
        turn = image.getexif().get(ORIENTATION_TAG)
        box = _upright_box(box, image.size, turn)
        image = _to_rgb(image)
        if turn in TURNS:
            image = image.transpose(TURNS[turn])
        return (_stretch if self.fit == "stretch" else _resize_and_crop)(image, box, self.size)


def flatten_images(images: Any) -> list[Any]:
    """One image, or lists of images of any depth, as one list."""
    if isinstance(images, list | tuple):
        return [image for part in images for image in flatten_images(part)]
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        return list(images)
    return [] if images is None else [images]


def _open(source: Any) -> Image.Image:
    """Open an image; a file's pixels are not decoded yet."""
    if isinstance(source, Image.Image):
        return _undecoded(source)
    if isinstance(source, np.ndarray | torch.Tensor):
        return to_pil_image(source)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return load_image(source)
    if isinstance(source, str) and source.startswith("data:"):
        try:
            source = base64.b64decode(source.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise ValueError(f"An image's data URI is not base64: {error}") from None
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    return Image.open(source, formats=_readable_formats())  # noqa: TID251 - of listed formats only


def _undecoded(image: Image.Image) -> Image.Image:
    """A JPEG that is not decoded yet, opened again, so that `draft` leaves the caller's as it is; others themselves."""
    file = getattr(image, "fp", None)
    if image.format not in ("JPEG", "MPO") or file is None or not getattr(image, "tile", None):
        return image
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return Image.open(io.BytesIO(data), formats=_readable_formats())  # noqa: TID251


@functools.cache
def _readable_formats() -> tuple[str, ...]:
    """Those of IMAGE_FORMATS that the installed Pillow knows."""
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per channel: scale them down, since convert() would clip
        image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257.0).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright_box(box: Box, size: tuple[int, int], turn: int | None) -> Box:
    """Where `box` of an image of `size` (width, height) is once the image is upright."""
    left, top, right, bottom = box
    if turn in (2, 3, 7, 8):
        left, right = size[0] - right, size[0] - left
    if turn in (3, 4, 6, 7):
        top, bottom = size[1] - bottom, size[1] - top
    return (top, left, bottom, right) if turn in (5, 6, 7, 8) else (left, top, right, bottom)


def _resize_and_crop(image: Image.Image, box: Box, size: int) -> np.ndarray:
    """Resize the shorter side of the part `box` to `size`, and crop the center."""
    extent = box[2] - box[0], box[3] - box[1]
    shorter = min(extent)
    kept = [min(side, LONGEST_SIDE * shorter) for side in extent]
    left, top = (start + (side - keep) / 2 for start, side, keep in zip(box, extent, kept, strict=False))
    width, height = (int(size * keep // shorter) for keep in kept)
    resized = image.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + kept[0], top + kept[1]))
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(resized)[top : top + size, left : left + size]


def _stretch(image: Image.Image, box: Box, size: int) -> np.ndarray:
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC, box))
