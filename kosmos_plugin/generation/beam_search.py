"""The continuations of a batch of prompts, by greedy search, sampling or beam search."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.ending import Ending
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.prefill import prefill
from kosmos_plugin.generation.results import Hypothesis, TokenProbs
from kosmos_plugin.generation.static_stepper import make_stepper
from kosmos_plugin.generation.stepper import Row, Stepper
from kosmos_plugin.generation.text_stream import text_of
from kosmos_plugin.generation.token_by_token import token_by_token
from kosmos_plugin.generation.token_trie import TokenTrie
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary

__all__ = ["Hypothesis", "SearchOptions", "generate", "generate_n", "generated_text", "history", "search"]


@torch.inference_mode()
def generate(
    model: Kosmos,
    vocabulary: Vocabulary,
    prompts: Sequence[Sample],
    options: SearchOptions,
    allowed: TokenTrie | None = None,
) -> list[Hypothesis]:
    """Find the best continuation of each prompt; see `generate_n`."""
    return [hypotheses[0] for hypotheses in generate_n(model, vocabulary, prompts, options, allowed)]


@torch.inference_mode()
def generate_n(
    model: Kosmos,
    vocabulary: Vocabulary,
    prompts: Sequence[Sample],
    options: SearchOptions,
    allowed: TokenTrie | None = None,
) -> list[list[Hypothesis]]:
    """Find continuations of each prompt.

    Args:
        model: The model, in evaluation mode.
        vocabulary: Its vocabulary.
        prompts: B prompts of any lengths, with room for the new tokens in the model's positions.
        options: Greedy search, sampling or beam search, and when to stop.
        allowed: The only sequences that may be generated; None: any. Probabilities are over the whole vocabulary, not
            renormalized over what is allowed.

    Returns:
        For each prompt its `n` hypotheses; of beams the best ones, and fewer if no more are allowed.

    Raises:
        UserError: An image cannot be decoded, or a stop token is not in the vocabulary.
    """
    assert not model.training
    ending = Ending(vocabulary, options)  # before what takes time
    state, last = prefill(model, prompts, vocabulary.pad)
    return search(state, last, ending, options, [history(prompt) for prompt in prompts], allowed)


@torch.inference_mode()
def search(
    state: DecodingState,
    last: torch.Tensor,
    ending: Ending,
    options: SearchOptions,
    prompts: Sequence[np.ndarray] = (),
    allowed: TokenTrie | None = None,
    in_place: bool = False,
) -> list[list[Hypothesis]]:
    """Find continuations of each row of a prefilled state.

    Args:
        state: The state, of B rows.
        last: The hidden states [B, E] that predict the rows' next tokens.
        ending: What ends a sequence.
        options: Greedy search, sampling or beam search.
        prompts: The tokens of each row, as `history` gives them; needed by the penalties of repetition.
        allowed: As for `generate_n`.
        in_place: For one sequence: the state may be extended by what is generated; otherwise it is not changed.

    Returns:
        As `generate_n`.
    """
    stepper = make_stepper(state, last, ending.vocabulary, options, prompts, allowed, in_place)
    if options.num_beams > 1:
        return _beam_search(stepper, options, ending, len(last))
    *_, sequences = token_by_token(stepper, options, ending)
    stepper.finish()
    found = [sequence.hypothesis() for sequence in sequences]
    return [found[first : first + options.n] for first in range(0, len(found), options.n)]


def history(prompt: Sample) -> np.ndarray:
    """The tokens of a prompt, int64, and −1 in image slots: what the penalties of repetition look at."""
    return np.where(prompt.image_slots, -1, prompt.tokens)


def generated_text(vocabulary: Vocabulary, hypothesis: Hypothesis, stop: Sequence[str] = ()) -> str:
    """The text of a hypothesis, up to the first of the `stop` strings."""
    return text_of(vocabulary, hypothesis.tokens, stop)


@dataclass(frozen=True)
class _Path:
    """A beam: its tokens, and the sum of their log-probabilities after penalties."""

    tokens: tuple[int, ...] = ()
    total: float = 0.0
    logprobs: tuple[TokenProbs, ...] = ()  # before penalties

    def score(self, options: SearchOptions) -> float:
        """What beams are ranked by."""
        return self.total / len(self.tokens) ** options.length_penalty

    def hypothesis(self, options: SearchOptions, finish_reason: str) -> Hypothesis:
        """The path with its score, as it is now."""
        measured = options.logprobs or options.looks_back
        log_probability = sum(logprob for logprob, _ in self.logprobs) if measured else self.total
        logprobs = self.logprobs if options.logprobs else ()
        return Hypothesis(self.tokens, log_probability, self.score(options), finish_reason, logprobs)


def _beam_search(stepper: Stepper, options: SearchOptions, ending: Ending, prompts: int) -> list[list[Hypothesis]]:
    all_beams = [_Beams(options, ending) for _ in range(prompts)]
    # Even if all tokens that end a sequence are among a beam's likeliest, as many go on as there are beams.
    count = (1 + len(ending.tokens)) * options.num_beams
    while True:
        rows = [Row(prompt, prompt, path.tokens) for prompt, beams in enumerate(all_beams) for path in beams.rows()]
        values, tokens = stepper.likeliest(count, rows)
        measured = stepper.measure(tokens) if options.logprobs or options.looks_back else None
        parents: list[int] = []
        start = 0
        for beams in all_beams:
            end = start + len(beams.rows())
            if start < end:
                of_prompt = slice(start, end)
                kept = beams.advance(values[of_prompt], tokens[of_prompt], measured and measured[of_prompt])
                parents += [start + row for row in kept]
            start = end
        if not parents:
            return [beams.best() for beams in all_beams]
        stepper.advance(parents, [path.tokens[-1] for beams in all_beams for path in beams.rows()])


class _Beams:
    """The beam search of one prompt, as fairseq and transformers do it: running beams and finished hypotheses.

    With `keep_greedy` there is also the greedy path. Beam search may drop it although it would have had the best score
    in the end; from then on it has a separate row for as long as it can still win.

    Args:
        options: The options.
        ends: Whether a sequence ends after given tokens.
    """

    def __init__(self, options: SearchOptions, ends: Callable[[Sequence[int]], bool]):
        self.options = options
        self.ends = ends
        self.running: list[_Path] = [_Path()]
        self.finished: list[Hypothesis] = []  # best first, at most `num_beams`
        self.greedy: _Path | None = _Path() if options.keep_greedy else None  # None if it has ended or cannot win
        self.greedy_row = 0  # its row: one of the running beams', or the one after them
        self.finished_greedy: list[Hypothesis] = []  # the greedy path when it has ended

    def rows(self) -> list[_Path]:
        """The path in each row: the running beams, then the greedy path if it is not one of them."""
        if self.greedy is not None and self.greedy_row == len(self.running):
            return [*self.running, self.greedy]
        return self.running

    def advance(
        self,
        values: Sequence[Sequence[float]],
        tokens: Sequence[Sequence[int]],
        measured: Sequence[Sequence[TokenProbs]] | None = None,
    ) -> list[int]:
        """Take one step.

        Args:
            values: Log-probabilities, after penalties, of the likeliest next tokens of each row, best first.
            tokens: These tokens.
            measured: Their log-probabilities before penalties; None: the same.

        Returns:
            For each new row, the row that it continues.
        """

        def extended(path: _Path, row: int, place: int) -> _Path:
            more = () if measured is None else (measured[row][place],)
            return _Path((*path.tokens, tokens[row][place]), path.total + values[row][place], path.logprobs + more)

        greedy, greedy_row = self.greedy, self.greedy_row
        candidates = [
            (path.total + value, row, place)
            for row, path in enumerate(self.running)
            for place, value in enumerate(values[row])
            if value > -torch.inf
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        parents: list[int] = []
        running: list[_Path] = []
        for rank, (_, row, place) in enumerate(candidates):
            if len(running) == self.options.num_beams:
                break
            path = extended(self.running[row], row, place)
            reason = self._finish_reason(path)
            if reason is None:
                parents.append(row)
                running.append(path)
            elif rank < self.options.num_beams:  # only the best candidates may end
                self._finish(path.hypothesis(self.options, reason))
        full = len(self.finished) == self.options.num_beams
        if full and running and running[0].score(self.options) <= self.finished[-1].score:
            parents, running = [], []  # not even the best of them beats the finished ones now
        self.running = running
        if greedy is not None:
            self._advance_greedy(extended(greedy, greedy_row, 0))
            if len(self.rows()) > len(parents):
                parents.append(greedy_row)
        return parents

    def best(self) -> list[Hypothesis]:
        """The `n` best hypotheses, when no row goes on."""
        found = {hypothesis.tokens: hypothesis for hypothesis in (*self.finished, *self.finished_greedy)}
        return sorted(found.values(), key=lambda hypothesis: -hypothesis.score)[: self.options.n]

    def _finish_reason(self, path: _Path) -> str | None:
        if self.ends(path.tokens):
            return "stop"
        return "length" if len(path.tokens) == self.options.max_new_tokens else None

    def _finish(self, hypothesis: Hypothesis) -> None:
        ranked = sorted([*self.finished, hypothesis], key=lambda found: -found.score)
        self.finished = ranked[: self.options.num_beams]

    def _advance_greedy(self, path: _Path) -> None:
        reason = self._finish_reason(path)
        if reason is not None:
            self.greedy, self.finished_greedy = None, [path.hypothesis(self.options, reason)]
        elif self.finished and self._bound(path) < self.finished[0].score:
            self.greedy = None
        else:
            self.greedy = path
            beams = [beam.tokens for beam in self.running]
            self.greedy_row = beams.index(path.tokens) if path.tokens in beams else len(beams)

    def _bound(self, path: _Path) -> float:
        """Upper bound on continuations' scores: log-probabilities only fall, and the length is limited."""
        lengths = (len(path.tokens), self.options.max_new_tokens)
        return max(path.total / length**self.options.length_penalty for length in lengths)
