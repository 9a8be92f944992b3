"""The benchmarks, one file each (or each family). A new one is a file here and a line in BENCHMARKS."""

import importlib

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.benchmark import Benchmark

# `--benchmark` → the class, in the order of the paper. Imported where they are used: some bring heavy libraries.
BENCHMARKS = {
    "coco": "captioning.Coco",
    "flickr30k": "captioning.Flickr30k",
    "vqav2": "vqa.VqaV2",
    "vizwiz": "vqa.VizWiz",
    "raven_iq": "raven_iq.RavenIq",
    "rendered_sst2": "rendered_sst2.RenderedSst2",
    "hateful_memes": "hateful_memes.HatefulMemes",
    "websrc": "websrc.WebSrc",
    "websrc_text": "websrc.WebSrcText",
    "websrc_image": "websrc.WebSrcImage",
    "rendered_sst2_cot": "rendered_sst2.RenderedSst2ChainOfThought",
    "imagenet": "imagenet.ImageNet",
    "imagenet_constrained": "imagenet.ImageNetConstrained",
    "animals": "animals.Animals",
    "animals_descriptions": "animals.AnimalsDescriptions",
    "storycloze": "storycloze.StoryCloze",
    "hellaswag": "hellaswag.HellaSwag",
    "winograd": "winograd.Winograd",
    "winogrande": "winogrande.Winogrande",
    "piqa": "piqa.Piqa",
    "boolq": "superglue.BoolQ",
    "cb": "superglue.CB",
    "copa": "superglue.COPA",
    "relative_size": "relative_size.RelativeSize",
    "memory_color": "object_color.MemoryColor",
    "color_terms": "object_color.ColorTerms",
}


def benchmark_class(name: str) -> type[Benchmark]:
    """The benchmark called `name`."""
    if name not in BENCHMARKS:
        raise UserError(f"There is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}.")
    module, _, attribute = BENCHMARKS[name].partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
