"""The decoder's state between steps: rotated keys and values, and which of their places are padding."""

from collections.abc import Sequence

import torch

from kosmos_plugin.data.documents import Image
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.errors import UserError
from kosmos_plugin.images import BrokenImage, decode_image
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.kosmos import KosmosModel


class DecodingState:
    """What the model has read so far, for a batch of rows of unequal lengths.

    Rows are aligned at their ends: `extend` takes padding before or after a row's tokens, and padding is seen by no
    other place and counts in no position, so a row's results are those of the row alone.
    """

    def __init__(self, model: KosmosModel):
        self.model = model
        self.cache: dict[int, dict[str, torch.Tensor]] = {}
        self.seen: torch.Tensor | None = None  # bool [B, S], False where the place is padding

    def extend(
        self,
        tokens: torch.Tensor,
        valid: torch.Tensor,
        image_slots: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Read tokens [B, T], `valid` (bool [B, T]) where they are no padding → hidden states [B, T, E]."""
        rows, length = tokens.shape
        before = self.seen if self.seen is not None else valid.new_zeros(rows, 0)
        positions = (before.sum(dim=1, keepdim=True) + valid.cumsum(dim=1) - 1).clamp(min=0)
        self.seen = torch.cat((before, valid), dim=1)
        past = before.size(1)
        causal = torch.ones(length, past + length, dtype=torch.bool, device=tokens.device).tril(past)
        itself = torch.eye(length, dtype=torch.bool, device=tokens.device)
        mask = self.seen.unsqueeze(1) & causal
        mask[:, :, past:] |= itself  # padding sees itself, for a softmax over nothing is no number
        embeddings = self.model.embed(tokens, image_slots, images)
        return self.model.decoder.extend(embeddings, positions, mask.unsqueeze(1), self.cache)

    def select(self, rows: torch.Tensor) -> None:
        """Keep the rows `rows` (int64 [B']), in that order; a row may be kept several times."""
        self.seen = self.seen[rows]
        for layer in self.cache.values():
            for name in layer:
                layer[name] = layer[name][rows]


def read_prompts(model: KosmosModel, prompts: Sequence[Sample], pad: int) -> tuple[DecodingState, torch.Tensor]:
    """Read a batch of prompts in one pass → (state, log-probabilities [B, V] of the next token of each)."""
    device = model.decoder.embed_tokens.weight.device
    length = max(len(prompt) for prompt in prompts)
    tokens = torch.full((len(prompts), length), pad)
    valid = torch.zeros(len(prompts), length, dtype=torch.bool)
    slots = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        begin = length - len(prompt)
        tokens[row, begin:] = torch.from_numpy(prompt.tokens)
        slots[row, begin:] = torch.from_numpy(prompt.image_slots)
        valid[row, begin:] = True
    images = [_decode(prompt, image, model.config) for prompt in prompts for image in prompt.images]
    images = torch.stack(images).to(device) if images else None
    state = DecodingState(model)
    hidden = state.extend(tokens.to(device), valid.to(device), slots.to(device), images)
    return state, log_probabilities(model, hidden[:, -1])


def log_probabilities(model: KosmosModel, hidden: torch.Tensor) -> torch.Tensor:
    """hidden […, E] → float32 log-probabilities […, V]"""
    return model.decoder.output_layer(hidden).float().log_softmax(dim=-1)


def _decode(prompt: Sample, image: Image, config: KosmosConfig) -> torch.Tensor:
    try:
        return decode_image(image.read(), config.image_size, config.image_fit)
    except BrokenImage as error:
        raise UserError(f"{prompt.id}: {image.name} cannot be read: {error}") from None
