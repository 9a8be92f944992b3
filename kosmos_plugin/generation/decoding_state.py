"""The decoder's state between steps: the KV cache of a batch of sequences."""

from collections.abc import Sequence

import torch

from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.kv_cache import KeyValueCache


class DecodingState:
    """The tokens processed so far, for a batch of rows of different lengths.

    Rows are aligned at their ends: `extend` takes padding before or after a row's tokens. Padding is never attended to
    and advances no position, so the results of a row do not depend on the other rows.
    """

    def __init__(self, model: Kosmos, cache: KeyValueCache | None = None):
        self.model = model
        self.cache = KeyValueCache(model.decoder.num_layers) if cache is None else cache

    @property
    def length(self) -> int:
        """Positions of each row, padding included."""
        return sum(level.length for level in self.cache.levels)

    def extend(
        self,
        tokens: torch.Tensor,
        valid: torch.Tensor | None = None,
        image_slots: torch.Tensor | None = None,
        image_embeddings: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Append T tokens to each row.

        Args:
            tokens: int64 [R, T].
            valid: bool [R, T], False at padding; None: no padding.
            image_slots: bool [R, T], True where an image embedding replaces the token's.
            image_embeddings: [N, image_tokens, E], in row-major order of their slots.

        Returns:
            Hidden states [R, T, E]; zero at padding.
        """
        embeddings = self.model.decoder.embed_tokens(tokens)
        if image_embeddings is not None:
            assert image_slots is not None
            embeddings = embeddings.masked_scatter(image_slots.unsqueeze(-1), image_embeddings.to(embeddings.dtype))
        return self.model.decoder.extend(embeddings, self.cache, valid)

    def select(self, rows: Sequence[int]) -> None:
        """Rearrange the rows according to a new batch order, as beam search does. Rows may repeat."""
        self.cache.select(rows)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` positions, of one row without padding and without branches."""
        self.cache.truncate(length)

    def branch(self, parents: Sequence[int]) -> "DecodingState":
        """Start a new state whose row r continues row `parents[r]` of this one; the cache is shared, not copied.

        This state must not be extended while the branch is in use.
        """
        return DecodingState(self.model, self.cache.branch(parents))
