"""Log-probabilities of candidates after their prompts; each prompt is run through the model once."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.generation.prefill import prefill
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary

TOKENS_AT_ONCE = 1024  # candidates' tokens in one forward pass, padding included
LOGITS_AT_ONCE = 256  # positions whose logits are in memory at a time


class Likelihood(NamedTuple):
    """How likely a candidate is after its prompt."""

    log_probability: float  # the sum over its tokens
    greedy: bool  # whether greedy search would generate it: each of its tokens is the likeliest


def score_candidates(
    model: Kosmos, vocabulary: Vocabulary, prompt: Sample, candidates: Sequence[Sequence[int]]
) -> list[float]:
    """The log-probability of each candidate after one prompt; see `likelihoods`."""
    return score_batch(model, vocabulary, [prompt], [candidates])[0]


def score_batch(
    model: Kosmos,
    vocabulary: Vocabulary,
    prompts: Sequence[Sample],
    candidates: Sequence[Sequence[Sequence[int]]],
) -> list[list[float]]:
    """The log-probability of each candidate after its prompt; see `likelihoods`."""
    found = likelihoods(model, vocabulary, prompts, candidates)
    return [[likelihood.log_probability for likelihood in prompt_likelihoods] for prompt_likelihoods in found]


@torch.inference_mode()
def likelihoods(
    model: Kosmos,
    vocabulary: Vocabulary,
    prompts: Sequence[Sample],
    candidates: Sequence[Sequence[Sequence[int]]],
) -> list[list[Likelihood]]:
    """Compute the log-likelihood of each candidate after its prompt.

        prompt p, prefilled once         its candidates a and b, each a row that continues it

        input      p0  p1  p2  p3  ──┬──→  a0  a1       the last token, a2, is not fed in
                                │    └──→  b0
                                ↓          ↓   ↓
        predicts                a0, b0     a1  a2  b1

    The prompt's last position scores the first token of every candidate, so candidates of one token need no further
    pass. Candidates of all prompts go through the model together, TOKENS_AT_ONCE tokens at a time.

    Args:
        model: The model, in evaluation mode.
        vocabulary: Its vocabulary.
        prompts: B prompts of any lengths.
        candidates: For each prompt, token ids of any number of candidates, of at least one token each.

    Returns:
        For each prompt, the likelihoods of its candidates, in order.

    Raises:
        UserError: An image cannot be decoded.
    """
    assert not model.training
    state, last = prefill(model, prompts, vocabulary.pad)
    first_log_probs = model.decoder.output_layer(last).float().log_softmax(dim=-1)  # [B, V]
    first_likeliest = _likeliest(first_log_probs, vocabulary.pad)
    rows = [(prompt, candidate) for prompt, group in enumerate(candidates) for candidate in group]
    found: list[Likelihood] = []
    for chunk in _chunks(rows):
        parents = [prompt for prompt, _ in chunk]
        tokens = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(candidate) for _, candidate in chunk], batch_first=True, padding_value=vocabulary.pad
        ).to(last.device)
        valid = tokens.ne(vocabulary.pad)
        log_probs, likeliest = first_log_probs.new_zeros(tokens.shape), tokens.clone()
        log_probs[:, 0], likeliest[:, 0] = first_log_probs[parents, tokens[:, 0]], first_likeliest[parents]
        if tokens.size(1) > 1:
            predicts = valid[:, 1:]  # positions that predict a token of the candidate
            hidden = state.branch(parents).extend(tokens[:, :-1], predicts)
            log_probs[:, 1:][predicts], likeliest[:, 1:][predicts] = _log_probabilities(
                model, hidden[predicts], tokens[:, 1:][predicts], vocabulary.pad
            )
        greedy = likeliest.eq(tokens).all(dim=1)
        found += itertools.starmap(Likelihood, zip(log_probs.sum(dim=1).tolist(), greedy.tolist(), strict=True))
    remaining = iter(found)
    return [list(itertools.islice(remaining, len(group))) for group in candidates]


def _chunks(rows: list[tuple[int, Sequence[int]]]) -> list[list[tuple[int, Sequence[int]]]]:
    """(prompt, candidate) in order, in chunks of at most TOKENS_AT_ONCE tokens after padding, or of one candidate."""
    chunks: list[list[tuple[int, Sequence[int]]]] = []
    longest = 0
    for row in rows:
        longest = max(longest, len(row[1]))
        if not chunks or longest * (len(chunks[-1]) + 1) > TOKENS_AT_ONCE:
            chunks.append([])
            longest = len(row[1])
        chunks[-1].append(row)
    return chunks


def _log_probabilities(
    model: Kosmos, hidden: torch.Tensor, tokens: torch.Tensor, pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """For hidden [M, E]: float32 log-probabilities [M] of `tokens` [M], and the likeliest tokens [M]."""
    log_probs, likeliest = [], []
    for hidden_chunk, token_chunk in zip(hidden.split(LOGITS_AT_ONCE), tokens.split(LOGITS_AT_ONCE), strict=True):
        logits = model.decoder.output_layer(hidden_chunk).float()
        log_probs.append(-F.cross_entropy(logits, token_chunk, reduction="none"))
        likeliest.append(_likeliest(logits, pad))
    return torch.cat(log_probs), torch.cat(likeliest)


def _likeliest(scores: torch.Tensor, pad: int) -> torch.Tensor:
    """scores [M, V] → the token [M] that greedy search takes, which is never `pad`. Overwrites the scores of `pad`."""
    scores[:, pad] = -torch.inf
    return scores.argmax(dim=-1)
