"""Greedy and beam search over a batch of prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.generation.cache import DecodingState, log_probabilities, read_prompts
from kosmos_plugin.models.kosmos import KosmosModel
from kosmos_plugin.vocabulary import Vocabulary


@dataclass(frozen=True)
class Hypothesis:
    """Generated tokens (with `</s>`, if it came to that) and the sum of their log-probabilities."""

    tokens: tuple[int, ...]
    log_probability: float
    score: float  # log-probability / length ** length_penalty, by which hypotheses compare


@dataclass(frozen=True)
class SearchOptions:
    beam: int = 1
    max_new_tokens: int = 64
    length_penalty: float = 1.0
    # Text at which generation ends, as `</s>` does.
    stop: tuple[str, ...] = ()


@torch.inference_mode()
def generate(
    model: KosmosModel, vocabulary: Vocabulary, prompts: Sequence[Sample], options: SearchOptions
) -> list[Hypothesis]:
    """The best continuation of each prompt. The model must be in evaluation mode."""
    assert not model.training
    ended = _end_test(vocabulary, options.stop)
    state, log_probs = read_prompts(model, prompts, vocabulary.pad)
    log_probs[:, vocabulary.pad] = -torch.inf
    if options.beam == 1:
        return _greedy(model, vocabulary, state, log_probs, options, ended)
    return _beam(model, vocabulary, state, log_probs, options, ended)


def text_of(vocabulary: Vocabulary, hypothesis: Hypothesis, stop: Sequence[str] = ()) -> str:
    """A hypothesis as text, up to the first of the `stop` strings."""
    text = vocabulary.decode(hypothesis.tokens)
    for mark in stop:
        text = text.partition(mark)[0]
    return text.strip()


def _end_test(vocabulary: Vocabulary, stop: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    def ended(tokens: Sequence[int]) -> bool:
        # A model that begins an image has said all it can: nothing here generates images.
        if tokens[-1] in (vocabulary.eos, vocabulary.image_begin):
            return True
        return bool(stop) and any(mark in vocabulary.decode(tokens) for mark in stop)

    return ended


def _hypothesis(tokens: Sequence[int], log_probability: float, options: SearchOptions) -> Hypothesis:
    return Hypothesis(tuple(tokens), log_probability, log_probability / len(tokens) ** options.length_penalty)


def _step(model: KosmosModel, vocabulary: Vocabulary, state: DecodingState, tokens: torch.Tensor) -> torch.Tensor:
    """Read one more token a row (int64 [B]) → log-probabilities [B, V] of the next."""
    valid = torch.ones_like(tokens, dtype=torch.bool)
    hidden = state.extend(tokens.unsqueeze(1), valid.unsqueeze(1))
    log_probs = log_probabilities(model, hidden[:, -1])
    log_probs[:, vocabulary.pad] = -torch.inf
    return log_probs


def _greedy(model, vocabulary, state, log_probs, options: SearchOptions, ended) -> list[Hypothesis]:
    tokens: list[list[int]] = [[] for _ in range(len(log_probs))]
    totals = [0.0] * len(log_probs)
    rows = list(range(len(log_probs)))  # the prompt of each row that still runs
    for step in range(options.max_new_tokens):
        best, chosen = log_probs.max(dim=-1)
        for row, token, value in zip(rows, chosen.tolist(), best.tolist(), strict=True):
            tokens[row].append(token)
            totals[row] += value
        running = [place for place, row in enumerate(rows) if not ended(tokens[row])]
        if not running or step + 1 == options.max_new_tokens:
            break
        if len(running) < len(rows):
            keep = torch.tensor(running, device=log_probs.device)
            state.select(keep)
            chosen = chosen[keep]
            rows = [rows[place] for place in running]
        log_probs = _step(model, vocabulary, state, chosen)
    return [_hypothesis(*pair, options) for pair in zip(tokens, totals, strict=True)]


class _Beams:
    """The beam search of one prompt: running beams, finished hypotheses, and the greedy path beside them.

    Beam search may drop the greedy path although it would have scored best in the end. Here it runs along as one more
    row, so that a wider beam never scores below greedy search.
    """

    def __init__(self, options: SearchOptions):
        self.options = options
        self.running: list[tuple[list[int], float]] = [([], 0.0)]
        self.finished: list[Hypothesis] = []
        self.greedy: tuple[list[int], float] = ([], 0.0)
        self.greedy_result: Hypothesis | None = None

    def done(self) -> bool:
        """No running beam can still beat the finished ones (as it stands, by its score at its present length)."""
        if self.greedy_result is None:
            return False
        if not self.running:
            return True
        if len(self.finished) < self.options.beam:
            return False
        best = _hypothesis(*self.running[0], self.options).score
        return best <= min(hypothesis.score for hypothesis in self.finished)

    def advance(self, scores: list[float], parents: list[int], tokens: list[int], ended) -> list[int]:
        """Take the best 2·beam continuations, best first; returns the parents of the beams that run on."""
        running, kept = [], []
        for rank, (score, parent, token) in enumerate(zip(scores, parents, tokens, strict=True)):
            if score == -torch.inf or len(running) == self.options.beam:
                break
            continued = [*self.running[parent][0], token]
            if ended(continued):
                if rank < self.options.beam:
                    self._finish(_hypothesis(continued, score, self.options))
            else:
                running.append((continued, score))
                kept.append(parent)
        self.running = running
        return kept

    def advance_greedy(self, score: float, token: int, ended) -> None:
        tokens, total = self.greedy
        self.greedy = ([*tokens, token], total + score)
        if ended(self.greedy[0]) or len(self.greedy[0]) == self.options.max_new_tokens:
            self.greedy_result = _hypothesis(*self.greedy, self.options)

    def _finish(self, hypothesis: Hypothesis) -> None:
        """Keep the `beam` best."""
        ranked = sorted([*self.finished, hypothesis], key=lambda hypothesis: -hypothesis.score)
        self.finished = ranked[: self.options.beam]

    def best(self) -> Hypothesis:
        unfinished = [_hypothesis(*beam, self.options) for beam in self.running] if not self.done() else []
        return max([*self.finished, *unfinished, self.greedy_result], key=lambda hypothesis: hypothesis.score)


def _beam(model, vocabulary, state, log_probs, options: SearchOptions, ended) -> list[Hypothesis]:
    searches = [_Beams(options) for _ in range(len(log_probs))]
    # Rows of the state, prompt by prompt: its running beams, then the greedy path while it runs.
    beam_rows = [[row] for row in range(len(searches))]
    greedy_row = list(range(len(searches)))
    for step in range(options.max_new_tokens):
        select, chosen = [], []
        for number, search in enumerate(searches):
            if search.done():
                continue
            parents = []
            rows = beam_rows[number]
            if search.running:
                totals = log_probs.new_tensor([total for _, total in search.running]).unsqueeze(1)
                continued = (totals + log_probs[rows]).flatten()
                best = continued.topk(min(2 * options.beam, len(continued)))
                vocabulary_size = log_probs.size(-1)
                parents = search.advance(
                    best.values.tolist(),
                    (best.indices // vocabulary_size).tolist(),
                    (best.indices % vocabulary_size).tolist(),
                    ended,
                )
            if search.greedy_result is None:
                value, token = log_probs[greedy_row[number]].max(dim=-1)
                search.advance_greedy(float(value), int(token), ended)
            if search.done():
                continue
            beam_rows[number] = list(range(len(select), len(select) + len(parents)))
            select += [rows[parent] for parent in parents]
            chosen += [tokens[-1] for tokens, _ in search.running]
            if search.greedy_result is None:
                select.append(greedy_row[number])
                greedy_row[number] = len(select) - 1
                chosen.append(search.greedy[0][-1])
        if not select or step + 1 == options.max_new_tokens:
            break
        state.select(torch.tensor(select, device=log_probs.device))
        log_probs = _step(model, vocabulary, state, torch.tensor(chosen, device=log_probs.device))
    return [search.best() for search in searches]
