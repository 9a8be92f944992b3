"""Greedy search and sampling, which choose one token after the other, for any number of sequences together."""

from collections.abc import Iterator

from kosmos_plugin.generation.ending import Ending
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.results import Hypothesis, TokenProbs
from kosmos_plugin.generation.sampling import Choice, Sampler, likeliest_token
from kosmos_plugin.generation.stepper import Row, Stepper
from kosmos_plugin.generation.text_stream import TextStream


class GrowingSequence:
    """A sequence that is being generated.

    Args:
        number: Which of all sequences it is.
        ending: What ends it.
        options: The options.

    Attributes:
        tokens: Those so far.
        logprobs: Of each of them.
        finish_reason: "stop" or "length" when it has ended.
    """

    def __init__(self, number: int, ending: Ending, options: SearchOptions):
        self.number = number
        self.ending = ending
        self.options = options
        self.tokens: list[int] = []
        self.logprobs: list[TokenProbs] = []
        self.finish_reason: str | None = None
        self._text = TextStream(ending.vocabulary, ending.stop) if ending.stop else None

    def add(self, token: int, logprobs: TokenProbs) -> None:
        """Append a token."""
        self.tokens.append(token)
        self.logprobs.append(logprobs)
        if self._text is not None:
            self._text.add(token)
        if token in self.ending.tokens or (self._text is not None and self._text.stopped_by is not None):
            self.finish_reason = "stop"
        elif len(self.tokens) == self.options.max_new_tokens:
            self.finish_reason = "length"

    def row(self) -> Row:
        """Its row in a step."""
        return Row(self.number, self.number // self.options.n, self.tokens)

    def hypothesis(self) -> Hypothesis:
        """The sequence when it has ended."""
        assert self.finish_reason is not None
        log_probability = sum(logprob for logprob, _ in self.logprobs)
        return Hypothesis(
            tuple(self.tokens),
            log_probability,
            log_probability / len(self.tokens) ** self.options.length_penalty,
            self.finish_reason,
            tuple(self.logprobs) if self.options.logprobs else (),
        )


def token_by_token(stepper: Stepper, options: SearchOptions, ending: Ending) -> Iterator[list[GrowingSequence]]:
    """Generate sequences, `n` for each prompt.

    Args:
        stepper: A new stepper, with `n` rows for each prompt.
        options: The options.
        ending: What ends a sequence.

    Yields:
        All sequences, each time that they have grown; in the end all have a finish reason.
    """
    sequences = [GrowingSequence(number, ending, options) for number in range(len(stepper.log_probs))]
    choice: Choice = likeliest_token
    if options.samples:
        numbers = [sequence.number % options.n for sequence in sequences]
        choice = Sampler([options] * len(sequences), numbers, stepper.log_probs.device)
    running = sequences
    while True:
        for step in stepper.choose(choice, [sequence.row() for sequence in running], options.max_new_tokens):
            for sequence, (token, logprobs) in zip(running, step, strict=True):
                if sequence.finish_reason is None:
                    sequence.add(token, logprobs)
        yield sequences
        going = [row for row, sequence in enumerate(running) if sequence.finish_reason is None]
        if not going:
            return
        running = [running[row] for row in going]
        stepper.advance(going, [sequence.tokens[-1] for sequence in running])
