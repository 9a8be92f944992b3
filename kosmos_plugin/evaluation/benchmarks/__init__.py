"""The benchmarks, one file for each or for each family. To add one, write its file and list its class here.

Libraries that only some benchmarks need (lxml, scipy, open_clip, pycocoevalcap, scikit-learn) are imported inside the
functions that use them, so that listing the benchmarks is quick.
"""

from typing import Any

from kosmos_plugin.errors import UserError, did_you_mean
from kosmos_plugin.evaluation.benchmark import Benchmark
from kosmos_plugin.evaluation.benchmarks.animals import Animals, AnimalsDescriptions
from kosmos_plugin.evaluation.benchmarks.captioning import Coco, Flickr30k
from kosmos_plugin.evaluation.benchmarks.hateful_memes import HatefulMemes
from kosmos_plugin.evaluation.benchmarks.hellaswag import HellaSwag
from kosmos_plugin.evaluation.benchmarks.imagenet import ImageNet, ImageNetConstrained
from kosmos_plugin.evaluation.benchmarks.object_color import ColorTerms, MemoryColor
from kosmos_plugin.evaluation.benchmarks.piqa import Piqa
from kosmos_plugin.evaluation.benchmarks.raven_iq import RavenIq
from kosmos_plugin.evaluation.benchmarks.relative_size import RelativeSize
from kosmos_plugin.evaluation.benchmarks.rendered_sst2 import RenderedSst2, RenderedSst2ChainOfThought
from kosmos_plugin.evaluation.benchmarks.storycloze import StoryCloze
from kosmos_plugin.evaluation.benchmarks.superglue import CB, COPA, BoolQ
from kosmos_plugin.evaluation.benchmarks.vqa import VizWiz, VqaV2
from kosmos_plugin.evaluation.benchmarks.websrc import WebSrc, WebSrcImage, WebSrcText
from kosmos_plugin.evaluation.benchmarks.winograd import Winograd
from kosmos_plugin.evaluation.benchmarks.winogrande import Winogrande

_IN_THE_PAPERS_ORDER: tuple[type[Benchmark[Any]], ...] = (
    Coco,
    Flickr30k,
    VqaV2,
    VizWiz,
    RavenIq,
    RenderedSst2,
    HatefulMemes,
    WebSrc,
    WebSrcText,
    WebSrcImage,
    RenderedSst2ChainOfThought,
    ImageNet,
    ImageNetConstrained,
    Animals,
    AnimalsDescriptions,
    StoryCloze,
    HellaSwag,
    Winograd,
    Winogrande,
    Piqa,
    BoolQ,
    CB,
    COPA,
    RelativeSize,
    MemoryColor,
    ColorTerms,
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _IN_THE_PAPERS_ORDER}  # `--benchmark` → its class


def benchmark_class(name: str) -> type[Benchmark[Any]]:
    """Look up a benchmark by its name.

    Raises:
        UserError: There is no benchmark of this name.
    """
    if name not in BENCHMARKS:
        hint, known = did_you_mean(name, BENCHMARKS), ", ".join(BENCHMARKS)
        raise UserError(
            f"There is no benchmark {name!r}.{hint} The benchmarks are {known}; your own: FILE.jsonl or FILE.py:CLASS."
        )
    return BENCHMARKS[name]
