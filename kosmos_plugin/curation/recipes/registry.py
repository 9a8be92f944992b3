"""The commands of kosmos-prepare: recipes, which run in stages, and tools, which do not.

Modules of recipes and tools are imported when they are used, since they need the libraries of the `curation` extra.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType

from kosmos_plugin.curation import options


@dataclass(frozen=True)
class Recipe:
    """A command whose `stages(run)` is in the module `recipes.NAME`."""

    help: str
    example: str
    options: type  # a dataclass of `curation.options`


@dataclass(frozen=True)
class Tool:
    """A command whose module has `add_arguments(parser)` and `run(args)`."""

    help: str
    example: str
    module_name: str

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(self.module_name)


RECIPES = {
    "text": Recipe(
        "JSON lines, Parquet, plain text → binarized text",
        "kosmos-prepare text 'pile/*.jsonl.zst' --vocabulary vocabulary --english --out text/pile",
        options.TextOptions,
    ),
    "captions": Recipe(
        "image–caption pairs → shards; img2dataset's tars in place",
        "kosmos-prepare captions 'laion/*.tar' --min-words 3 --max-aspect 3 --out laion-report",
        options.CaptionOptions,
    ),
    "pages": Recipe(
        "web pages → shards of text with images in reading order",
        "kosmos-prepare pages 'crawl/*.warc.gz' --images 'images/*.tar' --vocabulary vocabulary --out pages",
        options.PageOptions,
    ),
    "index": Recipe(
        "write an index beside each tar",
        "kosmos-prepare index 'shards/*.tar' --out index-report",
        options.IndexOptions,
    ),
    "check": Recipe(
        "validate tars: record structure, image decoding, checksums",
        "kosmos-prepare check 'shards/*.tar' --out check-report",
        options.CheckOptions,
    ),
    "instructions": Recipe(
        "Unnatural Instructions, FLAN, JSON lines → shards",
        "kosmos-prepare instructions 'flan/*.jsonl.gz' --sample 54000 --out flan",
        options.InstructionOptions,
    ),
    "tokenizer": Recipe(
        "text → a SentencePiece vocabulary",
        "kosmos-prepare tokenizer 'texts/*.jsonl.gz' --size 64000 --out vocabulary",
        options.TokenizerOptions,
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
