"""Filters of instruction data."""

from datatrove.data import Document

from kosmos_plugin.curation.filters.images import image_size
from kosmos_plugin.curation.pipeline.dropped import Dropped
from kosmos_plugin.curation.pipeline.steps import Filter
from kosmos_plugin.curation.readers.image_values import read_image


class InstructionFilter(Filter):
    """Drops examples without an output or without a prompt."""

    name = "instructions"

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        in_loss = ["text" in segment and segment.get("in_loss", True) for segment in document.metadata["segments"]]
        if not any(in_loss):
            return False, "empty output"
        return (False, "empty instruction") if all(in_loss) else True


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
