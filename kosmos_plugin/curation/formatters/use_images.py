"""Reads the images of pages, and removes those that cannot be used."""

import hashlib
from collections.abc import Iterable, Iterator

from datatrove.data import Document, Media

from kosmos_plugin.curation.filters.images import check_page_image
from kosmos_plugin.curation.formatters.clean_text import REPEATED_IMAGE
from kosmos_plugin.curation.page_documents import set_segments, set_urls, urls_of
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.steps import Step
from kosmos_plugin.curation.readers.image_stores import ImageStores


class UseImages(Step):
    """Reads the images of pages and keeps the first `max_images` that can be used.

    Args:
        stores: Where the images are.
        max_images: Maximum images per page.
        min_side: Minimum length of an image's sides in pixels.
        allow_one_color: Whether images of one color can be used.
    """

    name = "images"

    def __init__(self, stores: ImageStores, max_images: int, min_side: int, allow_one_color: bool):
        super().__init__()
        self.stores = stores
        self.max_images = max_images
        self.min_side = min_side
        self.allow_one_color = allow_one_color

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in data:
            used: set[bytes] = set()
            segments = []
            for segment in document.metadata["segments"]:
                try:
                    if "image" in segment:
                        self._read(document.media[segment["image"]], used)
                    segments.append(segment)
                except Dropped as error:
                    self.count("left out", error.reason)
            set_segments(document, segments)
            yield document

    def _read(self, media: Media, used: set[bytes]) -> None:
        """Read an image into `media`, or raise Dropped. `used` holds the digests of the page's images so far."""
        if len(used) == self.max_images:
            raise Dropped(f"image after the first {self.max_images} of a page")
        unusable: Dropped | None = None
        found: Iterable[tuple[str, bytes | None]]
        if media.media_bytes is not None:  # the input holds the image itself
            found = [(media.url, media.media_bytes)]
        else:
            found = ((url, self.stores.read(url, media.path)) for url in urls_of(media))
        for url, data in found:
            if data is None:
                continue
            try:
                check_page_image(data, self.min_side, self.allow_one_color)
            except Dropped as error:
                unusable = unusable or error
                continue
            digest = hashlib.blake2b(data).digest()
            if digest in used:
                raise Dropped(REPEATED_IMAGE)
            used.add(digest)
            set_urls(media, [url])
            media.media_bytes = data
            return
        raise unusable or Dropped("missing image")
