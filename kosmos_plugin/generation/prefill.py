"""Prompts → a DecodingState: what neighbors begin with is read once, and each distinct image is encoded once."""

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

# A common beginning shorter than this is read with each prompt: one pass more costs about as much as so many tokens.
SHORTEST_COMMON_BEGINNING = 32


class ImageEmbeddings:
    """Embeddings of images by number, each distinct image (by its encoded bytes) decoded and encoded once."""

    def __init__(self, model: Kosmos):
        self.model = model
        self.table: torch.Tensor | None = None  # [images, image_tokens, E]
        self._numbers: dict[bytes, int] = {}

    def add(self, prompts: Sequence[Sample]) -> list[list[int]]:
        """The numbers of each prompt's images in `table`; those that are new are encoded, all in one batch."""
        new: dict[bytes, torch.Tensor] = {}
        keys = []
        for prompt in prompts:
            keys.append([])
            for image in prompt.images:
                encoded = image.read()
                key = hashlib.blake2b(encoded, digest_size=16).digest()
                if key not in self._numbers and key not in new:
                    new[key] = _decode(prompt, image, encoded, self.model.config)
                keys[-1].append(key)
        if new:
            pixels = torch.stack([*new.values()]).to(self.model.decoder.embed_tokens.weight.device)
            embeddings = self.model.embed_images(pixels)
            self.table = embeddings if self.table is None else torch.cat((self.table, embeddings))
            self._numbers |= {key: number for number, key in enumerate(new, start=len(self._numbers))}
        return [[self._numbers[key] for key in of_prompt] for of_prompt in keys]


def read_prompts(model: Kosmos, prompts: Sequence[Sample], pad: int) -> tuple[DecodingState, torch.Tensor]:
    """Read a batch of prompts → (state, hidden states [B, E] from which each one's next token is predicted).

    Neighbors with a common beginning (candidates' contexts, the demonstrations of several questions) share it.
    """
    images = ImageEmbeddings(model)
    contents = [content(prompt, numbers) for prompt, numbers in zip(prompts, images.add(prompts), strict=True)]
    state = DecodingState(model)
    groups = _groups(contents)
    if any(group.saved for group in groups):
        read(state, [contents[group.first][: group.beginning] for group in groups], pad, images)
        state = state.branch([number for number, group in enumerate(groups) for _ in range(group.size)])
        beginnings = [group.beginning for group in groups for _ in range(group.size)]
        contents = [rest[beginning:] for rest, beginning in zip(contents, beginnings, strict=True)]
    return state, read(state, contents, pad, images)


def content(prompt: Sample, numbers: Sequence[int]) -> np.ndarray:
    """What a prompt says, int64 [L]: its tokens, and −1 − n in each slot of an image whose number is n."""
    slots = prompt.image_slots
    tokens = prompt.tokens.copy()
    if numbers:
        tokens[slots] = np.repeat(-1 - np.array(numbers), slots.sum() // len(numbers))
    return tokens


def read(state: DecodingState, contents: Sequence[np.ndarray], pad: int, images: ImageEmbeddings) -> torch.Tensor:
    """Read one content a row, aligned at their ends → hidden states [B, E] of the last place of each."""
    lengths = np.array([len(row) for row in contents])
    longest = lengths.max()
    places = np.arange(longest) >= (longest - lengths)[:, None]
    padded = np.full(places.shape, pad)
    padded[places] = np.concatenate(contents)
    slots = padded < 0
    device = state.model.decoder.embed_tokens.weight.device
    tokens = torch.from_numpy(np.where(slots, pad, padded)).to(device)
    valid = None if places.all() else torch.from_numpy(places).to(device)
    embeddings = None
    if slots.any():
        numbers = -1 - padded[slots][:: state.model.config.image_tokens]  # an image's slots all hold its number
        embeddings = images.table[torch.from_numpy(numbers).to(device)]
    return state.extend(tokens, valid, torch.from_numpy(slots).to(device), embeddings)[:, -1]


@dataclass
class _Group:
    """Neighboring contents: the first one's number, how many there are, and how many places all of them share."""

    first: int
    size: int
    beginning: int

    @property
    def saved(self) -> int:
        """Places that need not be read again."""
        return (self.size - 1) * self.beginning


def _groups(contents: Sequence[np.ndarray]) -> list[_Group]:
    """Contents in groups that are worth to be read from their common beginnings.

    A content joins the group before it if more is saved with it than without. At least one place of each is left over.
    """
    groups: list[_Group] = []
    for number, row in enumerate(contents):
        if groups:
            group = groups[-1]
            joined = _Group(group.first, group.size + 1, _common_beginning(contents[group.first], row, group.beginning))
            if joined.beginning >= SHORTEST_COMMON_BEGINNING and joined.saved >= group.saved:
                groups[-1] = joined
                continue
        groups.append(_Group(number, 1, len(row) - 1))
    return groups


def _common_beginning(first: np.ndarray, second: np.ndarray, most: int) -> int:
    """How many places two contents begin with alike, at most `most`; at least one place of each is left over."""
    longest = min(most, len(first) - 1, len(second) - 1)
    alike = first[:longest] == second[:longest]
    return longest if alike.all() else int(alike.argmin())


def _decode(prompt: Sample, image: Image, encoded: bytes, config: KosmosConfig) -> torch.Tensor:
    try:
        return decode_image(encoded, config.image_size, config.image_fit)
    except BrokenImage as error:
        raise UserError(f"{prompt.id}: {image.name} cannot be read: {error}") from None
