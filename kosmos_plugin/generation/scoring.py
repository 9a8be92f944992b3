"""How likely each of several candidates is as the continuation of a prompt, which is read once for all of them."""

from collections.abc import Sequence

import torch

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.generation.cache import log_probabilities, read_prompts
from kosmos_plugin.models.kosmos import KosmosModel
from kosmos_plugin.vocabulary import Vocabulary


@torch.inference_mode()
def score_candidates(
    model: KosmosModel, vocabulary: Vocabulary, prompt: Sample, candidates: Sequence[Sequence[int]]
) -> list[float]:
    """Sum of log-probabilities of each candidate's tokens (at least one each) after the prompt."""
    assert not model.training
    state, first = read_prompts(model, [prompt], vocabulary.pad)
    tokens = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(candidate) for candidate in candidates], batch_first=True, padding_value=vocabulary.pad
    ).to(first.device)
    valid = tokens.ne(vocabulary.pad)
    scores = first[0, tokens[:, 0]]
    if tokens.size(1) > 1:
        state.select(torch.zeros(len(tokens), dtype=torch.int64, device=first.device))
        hidden = state.extend(tokens[:, :-1], valid[:, :-1])
        following = tokens[:, 1:].unsqueeze(-1)
        log_probs = log_probabilities(model, hidden).gather(-1, following).squeeze(-1)
        scores = scores + (log_probs * valid[:, 1:]).sum(dim=1)
    return scores.tolist()
