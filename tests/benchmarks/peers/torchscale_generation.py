"""Beam search on TorchScale's own `Decoder`, with its own incremental decoding.

TorchScale keeps unrotated keys: at each step every layer appends the new key to its cache, and xPos rotates all of it
again. The search does what fairseq's `SequenceGenerator` does: 2·beam candidates of the summed log-probabilities at
each step, and the whole cache reordered by `index_select`. That class itself would feed the prompt token by token.
"""

from typing import NamedTuple

import torch
from torchscale.architecture.decoder import Decoder


class ReadPrompt(NamedTuple):
    """A prompt [1, T] after prefill: each layer's state, and log-probabilities [1, V] of the next token."""

    tokens: torch.Tensor
    layers: dict[int, dict[str, torch.Tensor]]
    log_probs: torch.Tensor


def read_prompt(decoder: Decoder, tokens: torch.Tensor) -> ReadPrompt:
    """Read a prompt [1, T] in one pass."""
    state = {"is_first_step": True}
    hidden, _ = decoder(tokens, incremental_state=state, features_only=True)
    state.pop("is_first_step")
    return ReadPrompt(tokens, state, decoder.output_layer(hidden[:, -1]).log_softmax(dim=-1))


def beam_search(decoder: Decoder, prompt: ReadPrompt, beam: int, new_tokens: int) -> list[int]:
    """The best continuation of exactly `new_tokens` tokens."""
    log_probs, layers, tokens = prompt.log_probs, prompt.layers, prompt.tokens
    totals = log_probs.new_zeros(1, 1)
    for step in range(new_tokens):
        vocabulary = log_probs.size(-1)
        best = (totals + log_probs).view(-1).topk(2 * beam)
        totals = best.values[:beam].unsqueeze(1)
        order, chosen = best.indices[:beam] // vocabulary, best.indices[:beam] % vocabulary
        tokens = torch.cat((tokens.index_select(0, order), chosen.unsqueeze(1)), dim=1)
        if step + 1 < new_tokens:
            layers = {
                number: {name: cached.index_select(0, order) for name, cached in layer.items()}
                for number, layer in layers.items()
            }
            log_probs = decoder(tokens, incremental_state=layers)[0][:, -1].log_softmax(dim=-1)
    return tokens[int(totals.argmax()), prompt.tokens.size(1) :].tolist()
