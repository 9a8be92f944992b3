"""The commands of kosmos-prepare: recipes, which run in stages, and tools, which do not.

Modules of recipes are imported when they run, since they need the libraries of the `curation` extra.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from kosmos_plugin.curation import options

if TYPE_CHECKING:
    from kosmos_plugin.curation.pipeline.run import Run
    from kosmos_plugin.curation.pipeline.runner import Stage


@dataclass(frozen=True)
class Recipe:
    """A command that runs in stages."""

    help: str
    example: str
    options: type  # a dataclass of `curation.options`
    module_name: str  # the module's `stages(run)` makes the stages
    kind: str | None = None  # of the stream that it makes a corpus for, one of `data.config.KINDS`

    @property
    def stages(self) -> "Callable[[Run], list[Stage]]":
        return importlib.import_module(f"kosmos_plugin.curation.recipes.{self.module_name}").stages


@dataclass(frozen=True)
class Tool:
    """A command that looks at prepared data."""

    help: str
    example: str
    module_name: str  # the module has `add_arguments(parser)` and `run(args)`, and imports the rest in `run`

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(self.module_name)


RECIPES = {
    "text": Recipe(
        "JSON lines, Parquet, plain text → binarized text",
        "kosmos-prepare text 'pile/*.jsonl.zst' --vocabulary vocabulary --english --out text/pile",
        options.TextOptions,
        "text",
        "text",
    ),
    "captions": Recipe(
        "image–caption pairs → shards; img2dataset's tars in place",
        "kosmos-prepare captions 'laion/*.tar' --min-words 3 --max-aspect 3 --out laion-report",
        options.CaptionOptions,
        "captions",
        "captions",
    ),
    "pages": Recipe(
        "web pages → shards of text with images in reading order",
        "kosmos-prepare pages 'crawl/*.warc.gz' --images 'images/*.tar' --vocabulary vocabulary --out pages",
        options.PageOptions,
        "pages",
        "interleaved",
    ),
    "index": Recipe(
        "write the index of a corpus of tars, and count the tokens of its records",
        "kosmos-prepare index 'shards/*.tar' --vocabulary vocabulary --out index-report",
        options.IndexOptions,
        "index",
    ),
    "check": Recipe(
        "validate tars: record structure, image decoding, checksums",
        "kosmos-prepare check 'shards/*.tar' --out check-report",
        options.CheckOptions,
        "check",
    ),
    "instructions": Recipe(
        "Unnatural Instructions, FLAN, JSON lines → shards",
        "kosmos-prepare instructions 'flan/*.jsonl.gz' --sample 54000 --out flan",
        options.InstructionOptions,
        "instructions",
        "interleaved",
    ),
    "tokenizer": Recipe(
        "text → a SentencePiece vocabulary",
        "kosmos-prepare tokenizer 'texts/*.jsonl.gz' --size 64000 --out vocabulary",
        options.TokenizerOptions,
        "tokenizer",
    ),
}
TOOLS = {
    "stats": Tool(
        "numbers and plots of the corpora in a data YAML",
        "kosmos-prepare stats data.yaml --out stats",
        "kosmos_plugin.inspection.statistics",
    ),
    "show": Tool(
        "random documents as the model sees them, as a page",
        "kosmos-prepare show data.yaml --stream interleaved --out documents.html",
        "kosmos_plugin.inspection.documents",
    ),
}
