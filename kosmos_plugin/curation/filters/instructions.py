"""A filter of instruction data."""

from datatrove.data import Document

from kosmos_plugin.curation.pipeline.steps import Filter


class InstructionFilter(Filter):
    """Drops examples without an output or without a prompt."""

    name = "instructions"

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        in_loss = ["text" in segment and segment.get("in_loss", True) for segment in document.metadata["segments"]]
        if not any(in_loss):
            return False, "empty output"
        return (False, "empty instruction") if all(in_loss) else True
