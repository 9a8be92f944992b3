"""Reads the images of examples, after a sample is chosen."""

from datatrove.data import Document

from kosmos_plugin.curation.filters.images import image_size
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.steps import Filter
from kosmos_plugin.curation.readers.image_values import read_image


class ReadImagesFilter(Filter):
    """Reads the images of examples, and drops examples with one that cannot be used."""

    name = "images"

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        try:
            for media in document.media:
                media.media_bytes = read_image(media)
                image_size(media.media_bytes)
        except Dropped as error:
            return False, error.reason
        return True
