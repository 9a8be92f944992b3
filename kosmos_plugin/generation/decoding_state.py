"""The decoder's state between steps: the KV cache of a batch of sequences."""

from collections.abc import Sequence

import torch

from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.kv_cache import KeyValueCache


class DecodingState:
    """The tokens that the model has processed so far, for a batch of rows of unequal lengths.

    Rows are aligned at their ends: `extend` takes padding before or after a row's tokens. Padding is never attended to
    and advances no position, so the results of a row do not depend on the other rows.
    """

    def __init__(self, model: Kosmos, cache: KeyValueCache | None = None):
        self.model = model
        self.cache = KeyValueCache(model.decoder.num_layers) if cache is None else cache

    def extend(
        self,
        tokens: torch.Tensor,
        valid: torch.Tensor | None = None,
        image_slots: torch.Tensor | None = None,
        image_embeddings: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Append T tokens to each row.

        Args:
            tokens: Token ids, int64 [R, T].
            valid: False at padding, bool [R, T]; None: there is no padding.
            image_slots: True where an image embedding replaces the token's, bool [R, T].
            image_embeddings: The embeddings for these slots in row-major order, [N, image_tokens, E].

        Returns:
            Hidden states [R, T, E]; zero at padding.
        """
        embeddings = self.model.embed(tokens, None, None)
        if image_embeddings is not None:
            assert image_slots is not None
            embeddings = embeddings.masked_scatter(image_slots.unsqueeze(-1), image_embeddings.to(embeddings.dtype))
        return self.model.decoder.extend(embeddings, self.cache, valid)

    def select(self, rows: Sequence[int]) -> None:
        """Rearrange the state to the given rows, in their order. A row may be repeated, as beam search does."""
        self.cache.select([int(row) for row in rows])

    def branch(self, parents: Sequence[int]) -> "DecodingState":
        """A new state whose row r continues row `parents[r]` of this one, whose cache is shared and not copied.

        This state must not be extended while the branch is in use.
        """
        return DecodingState(self.model, self.cache.branch(parents))
