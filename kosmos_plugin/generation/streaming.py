"""A text as it is generated, in parts that can be shown."""

from collections.abc import Generator, Iterator

import numpy as np
import torch

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.generation.beam_search import history
from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.ending import Ending
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.prefill import prefill
from kosmos_plugin.generation.results import Chunk, token_logprobs
from kosmos_plugin.generation.static_stepper import make_stepper
from kosmos_plugin.generation.text_stream import TextStream
from kosmos_plugin.generation.token_by_token import token_by_token
from kosmos_plugin.models.kosmos import Kosmos


@torch.inference_mode()
def stream(model: Kosmos, prompt: Sample, ending: Ending, options: SearchOptions) -> Iterator[Chunk]:
    """Continue one prompt by greedy search or sampling.

    Args:
        model: The model, in evaluation mode.
        prompt: The prompt.
        ending: What ends the text.
        options: The options, of one sequence.

    Yields:
        Parts of the text, the last one with its finish reason. Without log-probabilities a part but the last has text.
    """
    state, last = prefill(model, [prompt], ending.vocabulary.pad)
    yield from stream_from(state, last, ending, options, history(prompt))


def stream_from(
    state: DecodingState,
    last: torch.Tensor,
    ending: Ending,
    options: SearchOptions,
    prompt: np.ndarray,
    in_place: bool = False,
) -> Generator[Chunk, None, None]:
    """As `stream`, from a prefilled state of one row.

    Args:
        state: The state.
        last: The hidden state [1, E] that predicts the next token.
        ending: What ends the text.
        options: The options, of one sequence.
        prompt: The tokens that the state holds, for the penalties of repetition; see `history`.
        in_place: Whether the state may be extended by what is generated; otherwise it is not changed.
    """
    text = TextStream(ending.vocabulary, ending.stop)
    taken = 0
    stepper = make_stepper(state, last, ending.vocabulary, options, [prompt], in_place=in_place)
    try:
        for [sequence] in token_by_token(stepper, options, ending):
            new, logprobs = sequence.tokens[taken:], sequence.logprobs[taken:]
            taken = len(sequence.tokens)
            part = "".join(map(text.add, new))
            if sequence.finish_reason is not None:
                part += text.end()
            if part or options.logprobs or sequence.finish_reason is not None:
                described = token_logprobs(ending.vocabulary, new, logprobs) if options.logprobs else None
                yield Chunk(part, tuple(new), described, sequence.finish_reason)
    finally:
        stepper.finish()
