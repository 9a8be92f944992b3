"""A filter of instruction data."""

from datatrove.data import Document

from kosmos_plugin.curation.pipeline.steps import Filter


class InstructionFilter(Filter):
    """Drops examples without an output or without a prompt."""

    name = "instructions"

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        prompt, output = (segment["text"] for segment in document.metadata["segments"])
        if not output:
            return False, "empty output"
        return True if prompt else (False, "empty instruction")
