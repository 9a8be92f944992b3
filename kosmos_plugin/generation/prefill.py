"""Prefill: run prompts through the model once.

prompts (Samples)
  → ids_with_image_refs   token ids; each distinct image is encoded once, and its slots refer to it by index
  → shared prefixes       adjacent prompts with a common prefix (few-shot demonstrations) share one row for it
  → DecodingState         a row for each prompt, and the hidden state that predicts its next token
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kosmos_plugin.data.documents import Image
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.images import BrokenImage, decode_image
from kosmos_plugin.models.config import KosmosConfig
from kosmos_plugin.models.kosmos import Kosmos

# Shorter common prefixes are not shared: the additional pass costs about as much as this many tokens.
MIN_SHARED_PREFIX = 32


class ImageEmbeddings:
    """Embeddings of images, by index. Images with the same bytes are decoded and embedded once."""

    def __init__(self, model: Kosmos):
        self.model = model
        self._table: torch.Tensor | None = None  # [images, image_tokens, E]
        self._indices: dict[bytes, int] = {}

    def add(self, prompts: Sequence[Sample]) -> list[list[int]]:
        """Embed the images that are new, all in one batch.

        Returns:
            The indices of each prompt's images.

        Raises:
            UserError: An image cannot be decoded; nothing is added then.
        """
        new: dict[bytes, torch.Tensor] = {}
        keys: list[list[bytes]] = []
        for prompt in prompts:
            keys.append([])
            for image in prompt.images:
                encoded = image.read()
                key = hashlib.blake2b(encoded, digest_size=16).digest()
                if key not in self._indices and key not in new:
                    new[key] = decode_prompt_image(prompt, image, encoded, self.model.config)
                keys[-1].append(key)
        if new:
            pixels = torch.stack([*new.values()]).to(self.model.decoder.embed_tokens.weight.device)
            embeddings = self.model.embed_images(pixels)
            self._table = embeddings if self._table is None else torch.cat((self._table, embeddings))
            self._indices |= {key: index for index, key in enumerate(new, start=len(self._indices))}
        return [[self._indices[key] for key in prompt_keys] for prompt_keys in keys]

    def lookup(self, indices: np.ndarray) -> torch.Tensor:
        """Embeddings [N, image_tokens, E] of the images with these indices, int64 [N]."""
        assert self._table is not None
        return self._table[torch.from_numpy(indices).to(self._table.device)]


def prefill(model: Kosmos, prompts: Sequence[Sample], pad: int) -> tuple[DecodingState, torch.Tensor]:
    """Run the prompts through the model once.

    Adjacent prompts share a common prefix (few-shot demonstrations, the context of a question); each distinct image is
    encoded once.

    Args:
        model: The model, in evaluation mode.
        prompts: B prompts of any lengths.
        pad: The id of `<pad>`.

    Returns:
        The state, with a row for each prompt, and the hidden states [B, E] that predict the next tokens.

    Raises:
        UserError: An image cannot be decoded.
    """
    images = ImageEmbeddings(model)
    rows = [ids_with_image_refs(prompt, indices) for prompt, indices in zip(prompts, images.add(prompts), strict=True)]
    state = DecodingState(model)
    groups = _group_by_prefix(rows)
    if any(group.saved for group in groups):
        extend_rows(state, [rows[group.first][: group.prefix] for group in groups], pad, images)
        state = state.branch([number for number, group in enumerate(groups) for _ in range(group.size)])
        prefixes = [group.prefix for group in groups for _ in range(group.size)]
        rows = [row[prefix:] for row, prefix in zip(rows, prefixes, strict=True)]
    return state, extend_rows(state, rows, pad, images)


def ids_with_image_refs(prompt: Sample, image_indices: Sequence[int]) -> np.ndarray:
    """Token ids int64 [L]; image slots hold −1 − image_index, so equal ids mean equal content."""
    ids = prompt.tokens.copy()
    if image_indices:
        slots = prompt.image_slots
        ids[slots] = np.repeat(-1 - np.array(image_indices), slots.sum() // len(image_indices))
    return ids


def extend_rows(state: DecodingState, rows: Sequence[np.ndarray], pad: int, images: ImageEmbeddings) -> torch.Tensor:
    """Append a sequence to each row of the state, aligned at their ends.

    Args:
        state: The state to extend, of R rows or empty.
        rows: R sequences of ids with image references, int64 [L] of any lengths.
        pad: The id of `<pad>`.
        images: The images that the ids refer to.

    Returns:
        Hidden states [R, E] of the last position of each row.
    """
    lengths = np.array([len(row) for row in rows])
    longest = lengths.max()
    valid = np.arange(longest) >= (longest - lengths)[:, None]
    padded = np.full(valid.shape, pad)
    padded[valid] = np.concatenate(rows)
    slots = padded < 0
    device = state.model.decoder.embed_tokens.weight.device
    embeddings = None
    if slots.any():
        # All slots of an image hold its index.
        embeddings = images.lookup(-1 - padded[slots][:: state.model.config.image_tokens])
    return state.extend(
        torch.from_numpy(np.where(slots, pad, padded)).to(device),
        None if valid.all() else torch.from_numpy(valid).to(device),
        torch.from_numpy(slots).to(device),
        embeddings,
    )[:, -1]


@dataclass
class _PrefixGroup:
    """Adjacent rows with a common prefix."""

    first: int  # number of the first row
    size: int  # number of rows
    prefix: int  # length of their common prefix

    @property
    def saved(self) -> int:
        """Positions that sharing the prefix saves computing."""
        return (self.size - 1) * self.prefix


def _group_by_prefix(rows: Sequence[np.ndarray]) -> list[_PrefixGroup]:
    """Groups of adjacent rows whose common prefix is worth sharing; a row on its own is a group of one.

    A row joins the group before it if that saves at least as much as the group saves without it.
    """
    groups: list[_PrefixGroup] = []
    for number, row in enumerate(rows):
        if groups:
            group = groups[-1]
            prefix = _common_prefix_length(rows[group.first], row, group.prefix)
            joined = _PrefixGroup(group.first, group.size + 1, prefix)
            if joined.prefix >= MIN_SHARED_PREFIX and joined.saved >= group.saved:
                groups[-1] = joined
                continue
        groups.append(_PrefixGroup(number, 1, len(row) - 1))
    return groups


def _common_prefix_length(first: np.ndarray, second: np.ndarray, limit: int) -> int:
    """Length of the common prefix, at most `limit`. It leaves at least one position of each row."""
    length = min(limit, len(first) - 1, len(second) - 1)
    equal = first[:length] == second[:length]
    return length if equal.all() else int(equal.argmin())


def decode_prompt_image(prompt: Sample, image: Image, encoded: bytes, config: KosmosConfig) -> torch.Tensor:
    """Decode the image of a prompt, whose bytes are `encoded`, as the model takes it: uint8 [3, S, S].

    Raises:
        UserError: It cannot be decoded.
    """
    try:
        return decode_image(encoded, config.image_size, config.image_fit)
    except BrokenImage as error:
        raise UserError(f"{prompt.id}: {image.name} cannot be read: {error}") from None
