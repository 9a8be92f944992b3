"""Where the model looked: the attention of an answer's tokens to the patches of the prompt's images.

A token is predicted at the position before it. The attention of this position to all positions before and to itself is
a mean over the decoder's heads and layers, and sums to 1. Its part on the slots of an image goes on to the features
that each embedding was made of, by attention rollout through the resampler (Abnar and Zuidema 2020,
https://arxiv.org/abs/2005.00928). What goes to CLIP's class token or to the resampler's own latents lies nowhere in the
picture: it is left out, and the rest is scaled up to the share of the image.

    answer's token ─ decoder ─→ image slots [K] ─ resampler ─→ features [L] ─→ patches [rows, columns]

A patch stands for the encoder's feature at its place, in which the encoder has mixed in the rest of the picture.
Attention tells what was read, not what the answer depends on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.overlay import draw_over, seen_picture
from kosmos_plugin.generation.prefill import decode_prompt_image
from kosmos_plugin.generation.prompt import require_text
from kosmos_plugin.models.attention_weights import AttentionRecorder
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL import Image

MAX_OVERLAY = 2048  # pixels


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Where the model looked when it predicted each token of an answer."""

    tokens: list[str]  # the parts of the answer; of several tokens that make one character, one has it
    maps: list[np.ndarray]  # of each image, float32 [tokens, rows, columns]; a token's sums to its share on the image
    soft_tokens: list[np.ndarray]  # of each image, float32 [tokens, image tokens], the attention to its slots
    encoded: list[bytes] = field(repr=False)  # the images, as they were given
    image_size: int  # S, pixels of the model's input
    image_fit: str  # how it is made square

    def overlay(self, token: int, image: int = 0, size: int | None = None) -> "Image.Image":
        """Draw a token's map over the picture, or over the part of it that the model sees, upright.

        Colors show a value's share of the token's highest, over all images: an image that it did not look at stays
        bare.

        Args:
            token: The number of the token, from 0; negative ones count from the end.
            image: The number of the image, likewise.
            size: The longer side in pixels (default: that of the model's input).

        Raises:
            UserError: There is no such token or image, or no such size.
        """
        token = _number(token, len(self.tokens), "token", "answer")
        image = _number(image, len(self.maps), "image", "prompt")
        size = self.image_size if size is None else size
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 1 <= size <= MAX_OVERLAY:
            raise UserError(f"size must be a number of pixels from 1 to {MAX_OVERLAY:,}, not {size!r}.")
        highest = max(float(of_image[token].max()) for of_image in self.maps)
        picture = seen_picture(self.encoded[image], int(size), self.image_fit)
        return draw_over(picture, self.maps[image][token] / max(highest, np.finfo(np.float32).tiny))


@torch.inference_mode()
def attention_map(
    model: Kosmos,
    vocabulary: Vocabulary,
    prompt: Sample,
    answer: str,
    layers: int | Sequence[int] | None = None,
) -> AttentionMap:
    """Compute the maps of an answer's tokens after a prompt, in one pass.

    Args:
        model: The model, in evaluation mode.
        vocabulary: Its vocabulary.
        prompt: A prompt with an image at least.
        answer: The text after it.
        layers: The layers of the decoder, counted from 0 or, if negative, from the end; None: all.

    Raises:
        UserError: There is no image or no such layer, an image cannot be decoded, or the answer is empty or too long.
    """
    assert not model.training
    if model.vision is None or model.resampler is None:
        raise UserError("This model reads only text (--vision-encoder none): it looks at no image.")
    if not prompt.images:
        raise UserError(f"{prompt.id} has no image to look at: give one, and an <image> in the text.")
    chosen = _layers(layers, model.decoder.num_layers)
    tokens, parts = _encode(vocabulary, answer)
    if len(prompt) + len(tokens) > model.max_positions():
        raise UserError(
            f"{prompt.id} has {len(prompt):,} tokens and the answer {len(tokens):,}, which do not fit in the "
            f"{model.max_positions():,} positions of the model."
        )
    encoded = [image.read() for image in prompt.images]
    pixels_N3SS = torch.stack(
        [
            decode_prompt_image(prompt, image, data, model.config)
            for image, data in zip(prompt.images, encoded, strict=True)
        ]
    ).to(model.decoder.embed_tokens.weight.device)
    features_NLW = model.vision(pixels_N3SS)
    weights_QT = _decoder_weights(model, prompt, tokens, model.resampler(features_NLW), chosen)
    slots_NK = torch.from_numpy(prompt.image_slots.nonzero()[0].reshape(len(encoded), -1))
    rows, columns = model.vision.encoder.grid
    patches_NKL = model.resampler.rollout(features_NLW)[..., -rows * columns :]
    soft_tokens, maps = [], []
    for slots_K, patches_KL in zip(slots_NK, patches_NKL, strict=True):
        attention_QK = weights_QT[:, slots_K.to(weights_QT.device)]
        map_QL = (attention_QK @ patches_KL).clamp(min=torch.finfo(torch.float32).tiny)
        map_QL *= (attention_QK.sum(dim=1) / map_QL.sum(dim=1)).unsqueeze(1)
        soft_tokens.append(attention_QK.cpu().numpy())
        maps.append(map_QL.unflatten(1, (rows, columns)).cpu().numpy())
    config = model.config
    return AttentionMap(parts, maps, soft_tokens, encoded, config.image_size, config.image_fit)


def _decoder_weights(
    model: Kosmos, prompt: Sample, answer: Sequence[int], image_embeddings_NKE: torch.Tensor, layers: Sequence[int]
) -> torch.Tensor:
    """The attention of the positions that predict the answer's n tokens, mean over heads and layers: float32 [n, T]."""
    device = image_embeddings_NKE.device
    # The last token is not fed in: nothing is predicted after it.
    tokens = torch.tensor([[*prompt.tokens.tolist(), *answer[:-1]]], device=device)
    slots = torch.from_numpy(prompt.image_slots.nonzero()[0]).to(device)
    embeddings_BTE = model.decoder.embed_tokens(tokens)
    embeddings_BTE[0, slots] = image_embeddings_NKE.flatten(0, 1).to(embeddings_BTE.dtype)
    recorder = AttentionRecorder(layers, len(answer))
    model.decoder.extend(embeddings_BTE, recorder)
    return recorder.weights


def _encode(vocabulary: Vocabulary, answer: str) -> tuple[list[int], list[str]]:
    """The tokens of an answer, and the part of it that each stands for."""
    require_text(answer, "The answer")
    tokens, parts = vocabulary.encode_parts(answer)
    if not tokens:
        raise UserError("The answer is empty: it needs text, whose tokens have maps.")
    return tokens, parts


def _layers(layers: int | Sequence[int] | None, count: int) -> list[int]:
    if layers is None:
        return list(range(count))
    chosen: list[Any] = list(layers) if isinstance(layers, list | tuple | range) else [layers]
    if not chosen:
        raise UserError("layers names none: leave it out for all of them.")
    return sorted({_number(layer, count, "layer", "decoder") for layer in chosen})


def _number(number: int, count: int, what: str, whose: str) -> int:
    """A number from 0 to `count` − 1, for one that may count from the end."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise UserError(f"A {what} is given by its number, not by {number!r}.")
    if not -count <= number < count:
        raise UserError(f"There is no {what} {number}: the {whose} has {count}, numbered from 0.")
    return int(number) % count
