"""transformers' `Kosmos2ForConditionalGeneration` with random weights, the same model converted to ours, and its own
beam search.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration

from kosmos_plugin.checkpoints.convert import convert
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.generation.generator import Generator, load
from kosmos_plugin.images import decode_image, normalize
from tests.checkpoints import peer


def build_pair(
    folder: Path, pieces: int, text: dict, vision: dict, image_tokens: int
) -> tuple[Generator, Kosmos2ForConditionalGeneration]:
    """transformers' model with seeded random weights, and ours with the same weights, by `kosmos-convert`."""
    words = peer.write_processor(folder / "theirs", pieces)
    config = Kosmos2Config(
        text_config={**text, "vocab_size": words}, vision_config=vision, latent_query_num=image_tokens
    )
    torch.manual_seed(0)
    Kosmos2ForConditionalGeneration(config).save_pretrained(str(folder / "theirs"))
    convert(folder / "theirs", folder / "ours", "fairseq")
    kosmos = load(folder / "ours" / "model.pt", dtype="float32")
    return kosmos, peer.load_strictly(folder / "theirs").to(kosmos.device)


def inputs(kosmos: Generator, prompts: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """Prompts of equal length with one image each, as inputs of transformers' model, with normalized pixels."""
    config, encoder = kosmos.model.config, kosmos.model.vision.encoder
    tokens = torch.stack([torch.from_numpy(prompt.tokens) for prompt in prompts])
    slots = torch.stack([torch.from_numpy(prompt.image_slots) for prompt in prompts])
    pixels = torch.stack([decode_image(prompt.images[0].read(), config.image_size) for prompt in prompts])
    mean, std = torch.tensor(encoder.mean), torch.tensor(encoder.std)
    tensors = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "image_embeds_position_mask": slots,
        "pixel_values": normalize(pixels, mean, std, kosmos.dtype),
    }
    return {name: tensor.to(kosmos.device) for name, tensor in tensors.items()}


def beam_search(
    theirs: Kosmos2ForConditionalGeneration, tensors: dict[str, torch.Tensor], kosmos: Generator,
    beam: int, new_tokens: int,
) -> list[list[int]]:  # fmt: skip
    """transformers' `generate` with its own cache and our end tokens."""
    vocabulary = kosmos.vocabulary
    generated = theirs.generate(
        **tensors,
        num_beams=beam,
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=[vocabulary.eos, vocabulary.image_begin],
        pad_token_id=vocabulary.pad,
    )
    return generated[:, tensors["input_ids"].size(1) :].tolist()
