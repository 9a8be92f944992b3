"""The decoder's state between steps: what each row of a batch has read."""

from collections.abc import Sequence

import torch

from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.models.kv_cache import KeyValueCache


class DecodingState:
    """What the model has read so far, for a batch of rows of unequal lengths.

    Rows are aligned at their ends: `extend` takes padding before or after a row's tokens, and padding is seen by no
    other place and counts in no position, so a row's results are those of the row alone.
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
        """Read tokens [B, T] → hidden states [B, T, E].

        `valid` (bool [B, T]) is False where there is padding (None: nowhere); `image_embeddings` [N, image_tokens, E]
        stand where `image_slots` (bool [B, T]) is True, row by row.
        """
        embeddings = self.model.embed(tokens, None, None)
        if image_embeddings is not None:
            embeddings = embeddings.masked_scatter(image_slots.unsqueeze(-1), image_embeddings.to(embeddings.dtype))
        return self.model.decoder.extend(embeddings, self.cache, valid)

    def select(self, rows: Sequence[int]) -> None:
        """Keep the rows `rows`, in that order; a row may be kept several times."""
        self.cache.select([int(row) for row in rows])

    def branch(self, parents: Sequence[int]) -> "DecodingState":
        """A state whose rows go on after the rows `parents`, which are not copied and must not go on meanwhile."""
        return DecodingState(self.model, self.cache.branch(parents))
