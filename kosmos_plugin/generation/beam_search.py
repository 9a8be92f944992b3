"""Greedy and beam search over a batch of prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.generation.decoding_state import DecodingState
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.prefill import read_prompts
from kosmos_plugin.generation.token_trie import TokenTrie
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.vocabulary import Vocabulary

EndTest = Callable[[Sequence[int]], bool]  # whether generation ends after these tokens
# Up to so many rows, MKL makes V × E · E × R in about half the time of R × E · E × V (at 64,007 × 768).
FEW_ROWS = 6


@dataclass(frozen=True)
class Hypothesis:
    """Generated tokens (with `</s>`, if it came to that) and the sum of their log-probabilities."""

    tokens: tuple[int, ...]
    log_probability: float
    score: float  # log-probability / length ** length_penalty, by which hypotheses compare


@torch.inference_mode()
def generate(
    model: Kosmos,
    vocabulary: Vocabulary,
    prompts: Sequence[Sample],
    options: SearchOptions,
    allowed: TokenTrie | None = None,
) -> list[Hypothesis]:
    """The best continuation of each prompt. The model must be in evaluation mode.

    With `allowed` it is one of the trie's sequences; they compare by the model's own probabilities, over all words.
    """
    assert not model.training
    state, last = read_prompts(model, prompts, vocabulary.pad)
    return search(state, last, vocabulary, options, allowed)


def search(
    state: DecodingState,
    last: torch.Tensor,
    vocabulary: Vocabulary,
    options: SearchOptions,
    allowed: TokenTrie | None = None,
) -> list[Hypothesis]:
    """The best continuation of each row of `state`, which stays as it is; `last` [B, E] are its last hidden states."""
    ended = _end_test(vocabulary, options.stop)
    state = state.branch(range(len(last)))
    function = _greedy if options.beam == 1 else _beam
    return function(state, last, vocabulary, options, ended, allowed)


def text_of(vocabulary: Vocabulary, hypothesis: Hypothesis, stop: Sequence[str] = ()) -> str:
    """A hypothesis as text, up to the first of the `stop` strings."""
    text = vocabulary.decode(hypothesis.tokens)
    for mark in stop:
        text = text.partition(mark)[0]
    return text.strip()


def _end_test(vocabulary: Vocabulary, stop: Sequence[str]) -> EndTest:
    def ended(tokens: Sequence[int]) -> bool:
        # A model that begins an image has said all it can: nothing here generates images.
        if tokens[-1] in (vocabulary.eos, vocabulary.image_begin):
            return True
        return bool(stop) and any(mark in vocabulary.decode(tokens) for mark in stop)

    return ended


@dataclass(frozen=True)
class _Path:
    """Tokens generated so far and the sum of their log-probabilities."""

    tokens: tuple[int, ...] = ()
    log_probability: float = 0.0

    def continued(self, token: int, value: float) -> "_Path":
        return _Path((*self.tokens, token), self.log_probability + value)


def _hypothesis(path: _Path, options: SearchOptions) -> Hypothesis:
    score = path.log_probability / len(path.tokens) ** options.length_penalty
    return Hypothesis(path.tokens, path.log_probability, score)


def _logits(model: Kosmos, hidden: torch.Tensor) -> torch.Tensor:
    """hidden [R, E] → logits [R, V]"""
    if hidden.device.type == "cpu" and hidden.dtype == torch.float32 and len(hidden) <= FEW_ROWS:
        return (model.decoder.output_projection.weight @ hidden.t()).t().contiguous()
    return model.decoder.output_layer(hidden)


def _likeliest(
    state: DecodingState,
    hidden: torch.Tensor,
    vocabulary: Vocabulary,
    count: int,
    allowed: TokenTrie | None,
    paths: Sequence[_Path],
) -> tuple[list[list[float]], list[list[int]]]:
    """The `count` likeliest tokens after each of R paths, best first: log-probabilities and tokens.

    hidden [R, E] are the paths' last states; of tokens that `allowed` does not let follow the log-probability is −∞.
    """
    log_probs = _logits(state.model, hidden).float().log_softmax(dim=-1)
    log_probs[:, vocabulary.pad] = -torch.inf
    if allowed is not None:
        log_probs = allowed.mask(log_probs, (path.tokens for path in paths))
    values, tokens = log_probs.topk(min(count, log_probs.size(-1)))
    return values.tolist(), tokens.tolist()


def _step(state: DecodingState, rows: Sequence[int], tokens: Sequence[int], device: torch.device) -> torch.Tensor:
    """Keep the rows `rows` and read one more token in each → hidden states [R, E]."""
    state.select(rows)
    return state.extend(torch.tensor(tokens, device=device).unsqueeze(1))[:, -1]


def _greedy(
    state: DecodingState, hidden, vocabulary, options: SearchOptions, ended: EndTest, allowed: TokenTrie | None
) -> list[Hypothesis]:
    paths = [_Path() for _ in hidden]
    running = list(range(len(paths)))  # the path of each row
    for step in range(options.max_new_tokens):
        values, tokens = _likeliest(state, hidden, vocabulary, 1, allowed, [paths[path] for path in running])
        for path, value, token in zip(running, values, tokens, strict=True):
            paths[path] = paths[path].continued(token[0], value[0])
        rows = [row for row, path in enumerate(running) if not ended(paths[path].tokens)]
        running = [running[row] for row in rows]
        if not running or step + 1 == options.max_new_tokens:
            break
        hidden = _step(state, rows, [paths[path].tokens[-1] for path in running], hidden.device)
    return [_hypothesis(path, options) for path in paths]


class _Beams:
    """The beam search of one prompt: running beams, finished hypotheses, and the greedy path among or beside them.

    Beam search may drop the greedy path although it would have scored best in the end. From then on it runs along in a
    row of its own, as long as it can still win, so that a wider beam never scores below greedy search.
    """

    def __init__(self, options: SearchOptions):
        self.options = options
        self.running: list[_Path] = [_Path()]
        self.finished: list[Hypothesis] = []
        self.greedy: _Path | None = _Path()  # None once it has ended or cannot win any more
        self.greedy_row = 0  # its row: one of the running beams', or the one after them
        self.best_greedy: Hypothesis | None = None

    def rows(self) -> list[_Path]:
        """What the rows hold: the running beams, then the greedy path if it is none of them."""
        own_row = self.greedy is not None and self.greedy_row == len(self.running)
        return [*self.running, self.greedy] if own_row else self.running

    def advance(self, values: list[list[float]], tokens: list[list[int]], ended: EndTest) -> list[int]:
        """Take a step, given each row's likeliest next tokens; returns the rows that the new rows go on from."""
        parents = self._advance_beams(values, tokens, ended)
        if self.greedy is not None:
            row = self.greedy_row
            self._advance_greedy(self.greedy.continued(tokens[row][0], values[row][0]), ended)
            if len(self.rows()) > len(parents):
                parents.append(row)
        return parents

    def _advance_beams(self, values, tokens, ended: EndTest) -> list[int]:
        continued = [
            (path.log_probability + value, row, token)
            for row, path in enumerate(self.running)
            for value, token in zip(values[row], tokens[row], strict=True)
            if value > -torch.inf
        ]
        continued.sort(key=lambda candidate: -candidate[0])
        beam, parents, running = self.options.beam, [], []
        for rank, (total, row, token) in enumerate(continued[: 2 * beam]):
            if len(running) == beam:
                break
            path = _Path((*self.running[row].tokens, token), total)
            if not ended(path.tokens):
                parents.append(row)
                running.append(path)
            elif rank < beam:
                ranked = sorted([*self.finished, _hypothesis(path, self.options)], key=lambda found: -found.score)
                self.finished = ranked[:beam]
        full = len(self.finished) == beam
        if full and running and _hypothesis(running[0], self.options).score <= self.finished[-1].score:
            parents, running = [], []  # as they stand, none of them beats the finished ones
        self.running = running
        return parents

    def _advance_greedy(self, path: _Path, ended: EndTest) -> None:
        if ended(path.tokens) or len(path.tokens) == self.options.max_new_tokens:
            self.greedy, self.best_greedy = None, _hypothesis(path, self.options)
        elif self.finished and self._bound(path) < self.finished[0].score:
            self.greedy = None
        else:
            self.greedy = path
            beams = [beam.tokens for beam in self.running]
            self.greedy_row = beams.index(path.tokens) if path.tokens in beams else len(beams)

    def _bound(self, path: _Path) -> float:
        """No continuation of `path` scores more: its log-probability only falls, at a length from here to the most."""
        lengths = (len(path.tokens), self.options.max_new_tokens)
        return max(path.log_probability / length**self.options.length_penalty for length in lengths)

    def best(self) -> Hypothesis:
        running = [_hypothesis(path, self.options) for path in self.running]
        greedy = [] if self.best_greedy is None else [self.best_greedy]
        return max([*self.finished, *running, *greedy], key=lambda hypothesis: hypothesis.score)


def _beam(
    state: DecodingState, hidden, vocabulary, options: SearchOptions, ended: EndTest, allowed: TokenTrie | None
) -> list[Hypothesis]:
    searches = [_Beams(options) for _ in hidden]
    for step in range(options.max_new_tokens):
        paths = [path for beams in searches for path in beams.rows()]
        values, tokens = _likeliest(state, hidden, vocabulary, 2 * options.beam, allowed, paths)
        parents, begin = [], 0
        for beams in searches:
            end = begin + len(beams.rows())
            if begin < end:
                parents += [begin + row for row in beams.advance(values[begin:end], tokens[begin:end], ended)]
            begin = end
        if not parents or step + 1 == options.max_new_tokens:
            break
        chosen = [path.tokens[-1] for beams in searches for path in beams.rows()]
        hidden = _step(state, parents, chosen, hidden.device)
    return [beams.best() for beams in searches]
