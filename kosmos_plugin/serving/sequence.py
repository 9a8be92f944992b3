"""A sequence that is being generated: one choice of a request."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from kosmos_plugin.models.paged_cache import BLOCK_SIZE


@dataclass(eq=False)  # each is itself
class RunningSequence:
    """The tokens of a sequence, and how far the model has read them.

    `content` is what the model reads: token ids, and a number below 0 at each image slot, which stands for the image.
    Equal content means equal keys and values.
    """

    content: list[int]  # of the prompt; generated tokens are appended
    computed: int = 0  # positions whose keys and values are in `blocks`
    blocks: list[int] = field(default_factory=list)
    cached: int | None = None  # positions of the prompt that were in the cache when the sequence began
    _keys: list[bytes] = field(default_factory=list)

    @property
    def remaining(self) -> int:
        """Positions to read before the next token is chosen."""
        return len(self.content) - self.computed

    def keys(self) -> list[bytes]:
        """A key for each full block: a digest of all content up to its end."""
        for start in range(len(self._keys) * BLOCK_SIZE, len(self.content) - BLOCK_SIZE + 1, BLOCK_SIZE):
            digest = hashlib.blake2b(self._keys[-1] if self._keys else b"", digest_size=16)
            digest.update(np.array(self.content[start : start + BLOCK_SIZE], dtype=np.int64).tobytes())
            self._keys.append(digest.digest())
        return self._keys


def blocks_for(positions: int) -> int:
    """How many blocks hold so many positions."""
    return -(-positions // BLOCK_SIZE)
