"""What kosmos-prepare can do, one line each: the kinds of corpora, which run in stages, and the tools, which do not."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from kosmos_plugin.curation.pipeline.runner import Run, Stage


@dataclass(frozen=True)
class Command:
    """A kind of corpus: its module of this room, and in that its dataclass of options and its function of stages."""

    help: str
    module: str
    options_name: str
    stages_name: str

    @property
    def options(self) -> type:
        return getattr(_module(self.module), self.options_name)

    @property
    def stages(self) -> Callable[[Run], list[Stage]]:
        return getattr(_module(self.module), self.stages_name)


@dataclass(frozen=True)
class Tool:
    """What is done at once: its module of this room has `add_arguments(parser)` and `run(args)`."""

    help: str
    module_name: str

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(f"kosmos_plugin.inspection.{self.module_name}")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"kosmos_plugin.curation.{name}")


COMMANDS = {
    "text": Command("JSON lines, Parquet, plain text → binarized text", "recipes.text", "TextOptions", "text_stages"),
    "captions": Command(
        "image–caption pairs → shards; img2dataset's tars in place",
        "recipes.captions",
        "CaptionOptions",
        "caption_stages",
    ),
    "pages": Command(
        "web pages → shards of text with images in reading order",
        "recipes.pages",
        "PageOptions",
        "page_stages",
    ),
    "index": Command("an index beside each tar", "recipes.index", "IndexOptions", "index_stages"),
    "check": Command("are tars' records documents, do images decode?", "recipes.check", "CheckOptions", "check_stages"),
    "instructions": Command(
        "Unnatural Instructions, FLAN, JSON lines → shards",
        "recipes.instructions",
        "InstructionOptions",
        "instruction_stages",
    ),
    "tokenizer": Command(
        "text → a SentencePiece vocabulary", "recipes.tokenizer", "TokenizerOptions", "tokenizer_stages"
    ),
}
TOOLS: dict[str, Tool] = {
    "stats": Tool("what is in the corpora of a data YAML, in numbers and plots", "statistics"),
    "show": Tool("random documents as the model sees them, as a page", "documents"),
}
