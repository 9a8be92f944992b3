"""Repetition: what prompt and text have already makes tokens less likely, or impossible, as in transformers."""

from collections.abc import Sequence

import numpy as np
import torch

from kosmos_plugin.generation.options import SearchOptions


def penalize(scores: torch.Tensor, histories: Sequence[np.ndarray], options: Sequence[SearchOptions]) -> torch.Tensor:
    """Apply `repetition_penalty`, then `no_repeat_ngram_size`.

    Args:
        scores: Float32 [R, V]: logits, or in beam search log-probabilities.
        histories: For each row the tokens of prompt and text, int64 of any length; image slots are negative.
        options: For each row its options.

    Returns:
        The scores after it; `scores` itself is not changed.
    """
    if not any(one.looks_back for one in options):
        return scores
    scores = scores.clone()
    for row, history, one in zip(scores, histories, options, strict=True):
        if one.repetition_penalty != 1:
            seen = torch.from_numpy(np.unique(history[history >= 0])).to(scores.device)
            penalty, repeated = one.repetition_penalty, row[seen]
            row[seen] = torch.where(repeated < 0, repeated * penalty, repeated / penalty)
        if one.no_repeat_ngram_size:
            row[torch.from_numpy(_repeating(history, one.no_repeat_ngram_size)).to(scores.device)] = -torch.inf
    return scores


def _repeating(history: np.ndarray, size: int) -> np.ndarray:
    """The tokens that would repeat `size` tokens of the history, int64."""
    last = history[max(0, len(history) - size + 1) :]
    if len(history) < size or (last < 0).any():  # an image is no word that could be said again
        return np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(history, size)
    found = windows[(windows[:, :-1] == last).all(axis=1), -1]
    return found[found >= 0]
