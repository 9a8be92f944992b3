"""Miniature releases in the official layouts; one function per release writes it to a folder."""

from collections.abc import Callable
from pathlib import Path

from tests.evaluation.releases.animals import write_animals
from tests.evaluation.releases.captioning import write_coco, write_flickr30k
from tests.evaluation.releases.commonsense import write_color_terms, write_memory_color, write_relative_size
from tests.evaluation.releases.hateful_memes import write_hateful_memes
from tests.evaluation.releases.imagenet import write_imagenet
from tests.evaluation.releases.language import (
    write_hellaswag,
    write_piqa,
    write_storycloze,
    write_superglue,
    write_winograd,
    write_winogrande,
)
from tests.evaluation.releases.raven_iq import write_raven_iq
from tests.evaluation.releases.rendered_sst2 import write_rendered_sst2
from tests.evaluation.releases.vqa import write_vizwiz, write_vqav2
from tests.evaluation.releases.websrc import write_websrc

# Folder of the release within --data → the function that writes it.
RELEASES: dict[str, Callable[[Path, int], None]] = {
    "coco": write_coco,
    "flickr30k": write_flickr30k,
    "vqav2": write_vqav2,
    "vizwiz": write_vizwiz,
    "raven_iq": write_raven_iq,
    "rendered_sst2": write_rendered_sst2,
    "hateful_memes": write_hateful_memes,
    "websrc": write_websrc,
    "imagenet": write_imagenet,
    "animals": write_animals,
    "storycloze": write_storycloze,
    "hellaswag": write_hellaswag,
    "winograd": write_winograd,
    "winogrande": write_winogrande,
    "piqa": write_piqa,
    "superglue": write_superglue,
    "relative_size": write_relative_size,
    "memory_color": write_memory_color,
    "color_terms": write_color_terms,
}


def write_release(data: Path, release: str, count: int = 6) -> None:
    """Write a release to its folder in `data`, unless that exists."""
    folder = data / release
    if not folder.exists():
        folder.mkdir(parents=True)
        RELEASES[release](folder, count)
