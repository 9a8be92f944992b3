"""How likely each of several candidates is as the continuation of its prompt, which is read once for all of them."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.generation.prefill import read_prompts
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary

# Most candidates' tokens (with padding) read at a time, and most positions whose logits are in memory at a time.
TOKENS_AT_ONCE = 1024
LOGITS_AT_ONCE = 256


class Likelihood(NamedTuple):
    """Of a candidate: the sum of its tokens' log-probabilities, and whether greedy search would find it.

    Greedy search does if each token is the likeliest one after those before it.
    """

    log_probability: float
    greedy: bool


def score_candidates(
    model: Kosmos, vocabulary: Vocabulary, prompt: Sample, candidates: Sequence[Sequence[int]]
) -> list[float]:
    """Sum of log-probabilities of each candidate's tokens (at least one each) after the prompt."""
    return score_batch(model, vocabulary, [prompt], [candidates])[0]


def score_batch(
    model: Kosmos,
    vocabulary: Vocabulary,
    prompts: Sequence[Sample],
    candidates: Sequence[Sequence[Sequence[int]]],
) -> list[list[float]]:
    """`score_candidates` of several prompts, each with `candidates` of its own."""
    found = likelihoods(model, vocabulary, prompts, candidates)
    return [[likelihood.log_probability for likelihood in of_prompt] for of_prompt in found]


@torch.inference_mode()
def likelihoods(
    model: Kosmos,
    vocabulary: Vocabulary,
    prompts: Sequence[Sample],
    candidates: Sequence[Sequence[Sequence[int]]],
) -> list[list[Likelihood]]:
    """As `score_batch`, also with whether greedy search would find each candidate."""
    assert not model.training
    state, last = read_prompts(model, prompts, vocabulary.pad)
    first = model.decoder.output_layer(last).float().log_softmax(dim=-1)  # of the first tokens, [B, V]
    first_likeliest = _likeliest(first, vocabulary.pad)
    rows = [(row, candidate) for row, of_prompt in enumerate(candidates) for candidate in of_prompt]
    found: list[Likelihood] = []
    for chunk in _chunks(rows):
        parents = [row for row, _ in chunk]
        tokens = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(candidate) for _, candidate in chunk], batch_first=True, padding_value=vocabulary.pad
        ).to(last.device)
        valid = tokens.ne(vocabulary.pad)
        log_probs, likeliest = first.new_zeros(tokens.shape), tokens.clone()
        log_probs[:, 0], likeliest[:, 0] = first[parents, tokens[:, 0]], first_likeliest[parents]
        if tokens.size(1) > 1:
            following = valid[:, 1:]  # a token is read if another is to be predicted from it
            hidden = state.branch(parents).extend(tokens[:, :-1], following)
            log_probs[:, 1:][following], likeliest[:, 1:][following] = _log_probabilities(
                model, hidden[following], tokens[:, 1:][following], vocabulary.pad
            )
        greedy = likeliest.eq(tokens).all(dim=1)
        found += itertools.starmap(Likelihood, zip(log_probs.sum(dim=1).tolist(), greedy.tolist(), strict=True))
    each = iter(found)
    return [list(itertools.islice(each, len(of_prompt))) for of_prompt in candidates]


def _chunks(rows: list[tuple[int, Sequence[int]]]) -> list[list[tuple[int, Sequence[int]]]]:
    """(prompt, candidate) in order, as many at a time as make TOKENS_AT_ONCE tokens, padded to the longest."""
    chunks, longest = [], 0
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
    """hidden [N, E] → float32 log-probabilities [N] of `tokens` [N] there, and the likeliest tokens [N]."""
    log_probs, likeliest = [], []
    for some_hidden, some_tokens in zip(hidden.split(LOGITS_AT_ONCE), tokens.split(LOGITS_AT_ONCE), strict=True):
        logits = model.decoder.output_layer(some_hidden).float()
        log_probs.append(-F.cross_entropy(logits, some_tokens, reduction="none"))
        likeliest.append(_likeliest(logits, pad))
    return torch.cat(log_probs), torch.cat(likeliest)


def _likeliest(scores: torch.Tensor, pad: int) -> torch.Tensor:
    """scores [N, V] → the token [N] that greedy search would take, which is never `pad`; overwrites pad's scores."""
    scores[:, pad] = -torch.inf
    return scores.argmax(dim=-1)
