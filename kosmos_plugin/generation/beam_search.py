"""Greedy search, sampling and beam search over a batch of prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.prefill import prefill
from kosmos_plugin.generation.sampling import Sampler, likeliest_token
from kosmos_plugin.generation.static_stepper import make_stepper
from kosmos_plugin.generation.stepper import Stepper
from kosmos_plugin.generation.token_trie import TokenTrie
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary


@dataclass(frozen=True)
class Hypothesis:
    """A generated sequence."""

    tokens: tuple[int, ...]  # with the `</s>` that ended it, if one did
    log_probability: float  # the sum over its tokens
    score: float  # log_probability / length ** length_penalty; hypotheses are ranked by it


@torch.inference_mode()
def generate(
    model: Kosmos,
    vocabulary: Vocabulary,
    prompts: Sequence[Sample],
    options: SearchOptions,
    allowed: TokenTrie | None = None,
) -> list[Hypothesis]:
    """Find the best continuation of each prompt.

    Args:
        model: The model, in evaluation mode.
        vocabulary: Its vocabulary.
        prompts: B prompts of any lengths, with room for the new tokens in the model's positions.
        options: Greedy search, sampling or beam search, and when to stop.
        allowed: The only sequences that may be generated; None: any. Probabilities are over the whole vocabulary, not
            renormalized over what is allowed.

    Returns:
        The hypothesis with the highest score for each prompt.

    Raises:
        UserError: An image cannot be decoded.
    """
    assert not model.training
    state, last = prefill(model, prompts, vocabulary.pad)
    return search(state, last, vocabulary, options, allowed)


@torch.inference_mode()
def search(
    state: DecodingState,
    last: torch.Tensor,
    vocabulary: Vocabulary,
    options: SearchOptions,
    allowed: TokenTrie | None = None,
) -> list[Hypothesis]:
    """Find the best continuation of each row of a prefilled state, which is not changed.

    Args:
        state: The state, of B rows.
        last: The hidden states [B, E] that predict the rows' next tokens.
        vocabulary: The model's vocabulary.
        options: Greedy search, sampling or beam search, and when to stop.
        allowed: As for `generate`.
    """
    stepper = make_stepper(state, last, vocabulary, options, allowed)
    return _one_by_one(stepper, options) if options.beam == 1 else _beam_search(stepper, options)


def generated_text(vocabulary: Vocabulary, hypothesis: Hypothesis, stop: Sequence[str] = ()) -> str:
    """The text of a hypothesis, up to the first of the `stop` strings."""
    text = vocabulary.decode(hypothesis.tokens)
    for mark in stop:
        text = text.partition(vocabulary.as_decoded(mark))[0]
    return text.strip()


@dataclass(frozen=True)
class _Path:
    """A sequence that is being generated: its tokens and the sum of their log-probabilities."""

    tokens: tuple[int, ...] = ()
    log_probability: float = 0.0

    def extended(self, token: int, log_probability: float) -> "_Path":
        return _Path((*self.tokens, token), self.log_probability + log_probability)

    def hypothesis(self, options: SearchOptions) -> Hypothesis:
        """The path with its score, as it is now."""
        score = self.log_probability / len(self.tokens) ** options.length_penalty
        return Hypothesis(self.tokens, self.log_probability, score)


def _one_by_one(stepper: Stepper, options: SearchOptions) -> list[Hypothesis]:
    """Greedy search and sampling, which choose one token after the other."""
    choice = Sampler(options, stepper.log_probs.device) if options.samples else likeliest_token
    paths = [_Path() for _ in stepper.log_probs]
    running = list(range(len(paths)))  # the path of each row
    steps = 0
    while True:
        prefixes = [paths[path].tokens for path in running]
        taken = stepper.choose(choice, prefixes, steps, options.max_new_tokens)
        steps += len(taken)
        rows = []
        for row, path in enumerate(running):
            for values, tokens in taken:
                paths[path] = paths[path].extended(tokens[row], values[row])
                if stepper.is_end(paths[path].tokens):
                    break
            else:
                rows.append(row)
        running = [running[row] for row in rows]
        if not running or steps == options.max_new_tokens:
            return [path.hypothesis(options) for path in paths]
        stepper.advance(rows, [paths[path].tokens[-1] for path in running])


def _beam_search(stepper: Stepper, options: SearchOptions) -> list[Hypothesis]:
    prompts = [_Beams(options) for _ in stepper.log_probs]
    for step in range(options.max_new_tokens):
        prefixes = [path.tokens for beams in prompts for path in beams.rows()]
        values, tokens = stepper.likeliest(2 * options.beam, prefixes)
        parents: list[int] = []
        start = 0
        for beams in prompts:
            end = start + len(beams.rows())
            if start < end:
                kept = beams.advance(values[start:end], tokens[start:end], stepper.is_end)
                parents += [start + row for row in kept]
            start = end
        if not parents or step + 1 == options.max_new_tokens:
            break
        stepper.advance(parents, [path.tokens[-1] for beams in prompts for path in beams.rows()])
    return [beams.best() for beams in prompts]


class _Beams:
    """The beam search of one prompt: running beams, finished hypotheses, and the greedy path.

    Beam search may drop the greedy path although it would have had the best score in the end. From then on it keeps a
    separate row for as long as it can still win, so that beam search never scores below greedy search.
    """

    def __init__(self, options: SearchOptions):
        self.options = options
        self.running: list[_Path] = [_Path()]
        self.finished: list[Hypothesis] = []  # best first, at most `beam`
        self.greedy: _Path | None = _Path()  # None once it has ended or can no longer win
        self.greedy_row = 0  # its row: one of the running beams', or the one after them
        self.finished_greedy: Hypothesis | None = None

    def rows(self) -> list[_Path]:
        """The path in each row: the running beams, then the greedy path if it is not one of them."""
        if self.greedy is not None and self.greedy_row == len(self.running):
            return [*self.running, self.greedy]
        return self.running

    def advance(
        self, values: list[list[float]], tokens: list[list[int]], is_end: Callable[[Sequence[int]], bool]
    ) -> list[int]:
        """Take one step.

        Args:
            values: Log-probabilities of the likeliest next tokens of each row, best first.
            tokens: These tokens.
            is_end: Whether generation ends after a path's tokens.

        Returns:
            For each new row, the row that it continues.
        """
        parents = self._advance_beams(values, tokens, is_end)
        if self.greedy is not None:
            row = self.greedy_row
            self._advance_greedy(self.greedy.extended(tokens[row][0], values[row][0]), is_end)
            if len(self.rows()) > len(parents):
                parents.append(row)
        return parents

    def best(self) -> Hypothesis:
        """The hypothesis with the highest score, finished or cut off."""
        hypotheses = [*self.finished, *(path.hypothesis(self.options) for path in self.running)]
        if self.finished_greedy is not None:
            hypotheses.append(self.finished_greedy)
        return max(hypotheses, key=lambda hypothesis: hypothesis.score)

    def _advance_beams(
        self, values: list[list[float]], tokens: list[list[int]], is_end: Callable[[Sequence[int]], bool]
    ) -> list[int]:
        candidates = [
            (path.log_probability + value, row, token)
            for row, path in enumerate(self.running)
            for value, token in zip(values[row], tokens[row], strict=True)
            if value > -torch.inf
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        beam = self.options.beam
        parents: list[int] = []
        running: list[_Path] = []
        for rank, (log_probability, row, token) in enumerate(candidates[: 2 * beam]):
            if len(running) == beam:
                break
            path = _Path((*self.running[row].tokens, token), log_probability)
            # As in fairseq and transformers, only the `beam` best candidates may end.
            if not is_end(path.tokens):
                parents.append(row)
                running.append(path)
            elif rank < beam:
                ranked = sorted([*self.finished, path.hypothesis(self.options)], key=lambda found: -found.score)
                self.finished = ranked[:beam]
        full = len(self.finished) == beam
        if full and running and running[0].hypothesis(self.options).score <= self.finished[-1].score:
            parents, running = [], []  # not even the best of them beats the finished ones now
        self.running = running
        return parents

    def _advance_greedy(self, path: _Path, is_end: Callable[[Sequence[int]], bool]) -> None:
        if is_end(path.tokens) or len(path.tokens) == self.options.max_new_tokens:
            self.greedy, self.finished_greedy = None, path.hypothesis(self.options)
        elif self.finished and self._bound(path) < self.finished[0].score:
            self.greedy = None
        else:
            self.greedy = path
            beams = [beam.tokens for beam in self.running]
            self.greedy_row = beams.index(path.tokens) if path.tokens in beams else len(beams)

    def _bound(self, path: _Path) -> float:
        """Upper bound on continuations' scores: log-probabilities only fall, and the length is limited."""
        lengths = (len(path.tokens), self.options.max_new_tokens)
        return max(path.log_probability / length**self.options.length_penalty for length in lengths)
