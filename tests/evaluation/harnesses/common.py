"""Shared by the harness tests: images, and likelihoods computed in one forward pass."""

import io
import os
import random
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from kosmos_plugin.data.samples import Sample
from tests import tiny

REPOSITORY = Path(__file__).parents[3]


def picture(seed: int, mode: str = "RGB") -> PIL.Image.Image:
    """An image as harnesses pass it; its file is `picture_file(seed)`."""
    return PIL.Image.open(io.BytesIO(picture_file(seed))).convert(mode)


def picture_file(seed: int) -> bytes:
    return tiny.png(random.Random(seed))


def sample_of(tokens: list[int]) -> Sample:
    """A sample of exactly these tokens."""
    return Sample("tokens", np.array(tokens), np.array(tokens), np.zeros(len(tokens), dtype=bool))


def full_pass(kosmos, text: str, continuation: str, images: list[bytes] = ()) -> tuple[float, bool]:
    """The log-probability of `continuation` after `text`, and whether greedy search would generate it."""
    whole = kosmos.prompt(text + continuation, images)
    return of_last_tokens(kosmos, whole, len(whole) - len(kosmos.prompt(text, images)))


@torch.no_grad()
def of_last_tokens(kosmos, sample: Sample, count: int) -> tuple[float, bool]:
    """The same for the last `count` tokens of `sample`."""
    tokens, slots = torch.from_numpy(sample.tokens)[None], torch.from_numpy(sample.image_slots)[None]
    pixels = torch.stack([tiny.decode(image) for image in sample.images]) if sample.images else None
    log_probs = kosmos.model(tokens, torch.ones_like(tokens), slots, pixels)[0][0, -1 - count : -1].log_softmax(-1)
    scored = tokens[0, -count:]
    return float(log_probs.gather(1, scored[:, None]).sum()), bool((log_probs.argmax(-1) == scored).all())


def offline(home: Path) -> dict[str, str]:
    """The environment of a harness's command: no downloads, and caches in `home`."""
    of_hub = {"HF_HOME": str(home), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    return os.environ | of_hub | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
