"""Miniature releases in the official layouts: one function a release, which writes it into its folder."""

import importlib
from collections.abc import Callable
from pathlib import Path

# The release's folder within --data → module and function that write it.
RELEASES = {
    "coco": "captioning.write_coco",
    "flickr30k": "captioning.write_flickr30k",
    "vqav2": "vqa.write_vqav2",
    "vizwiz": "vqa.write_vizwiz",
    "raven_iq": "raven_iq.write_raven_iq",
    "rendered_sst2": "rendered_sst2.write_rendered_sst2",
    "hateful_memes": "hateful_memes.write_hateful_memes",
    "websrc": "websrc.write_websrc",
    "imagenet": "imagenet.write_imagenet",
    "animals": "animals.write_animals",
    "storycloze": "language.write_storycloze",
    "hellaswag": "language.write_hellaswag",
    "winograd": "language.write_winograd",
    "winogrande": "language.write_winogrande",
    "piqa": "language.write_piqa",
    "superglue": "language.write_superglue",
    "relative_size": "commonsense.write_relative_size",
    "memory_color": "commonsense.write_memory_color",
    "color_terms": "commonsense.write_color_terms",
}


def write_release(data: Path, release: str, count: int = 6) -> None:
    """Write the release called `release` into its folder in `data`, unless it is there."""
    if (data / release).exists():
        return
    module, _, function = RELEASES[release].partition(".")
    write: Callable[[Path, int], None] = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    (data / release).mkdir(parents=True)
    write(data / release, count)
