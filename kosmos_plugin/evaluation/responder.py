"""Answers a batch of requests with a model: texts for Generate, log-probabilities for Choose."""

from collections.abc import Sequence
from typing import Protocol

from kosmos_plugin.data.documents import Document, Text
from kosmos_plugin.data.samples import PromptTooLong, Sample
from kosmos_plugin.evaluation.requests import Choice, Choose, Generate, Prompt, Request, distinct_prompts
from kosmos_plugin.generation.beam_search import SearchOptions, generate, generated_text
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.likelihood import score_batch
from kosmos_plugin.generation.token_trie import TokenTrie
from kosmos_plugin.vocabulary import Vocabulary


class Responder(Protocol):
    """Answers requests: a model, or in tests a stand-in that knows the answers."""

    def problem(self, request: Request) -> str:
        """Say why the request cannot be answered (it is longer than the model's context); "" if it can."""
        ...

    def generate(self, requests: Sequence[Generate]) -> list[str]:
        """Generate the text of each request."""
        ...

    def score(self, requests: Sequence[Choose]) -> list[list[float]]:
        """Compute the summed log-probability of each request's choices."""
        ...


class KosmosResponder:
    """Answers requests with a KOSMOS model.

    A batch may mix requests of any kind and length; the answer to a request does not depend on the others.
    """

    def __init__(self, kosmos: Generator):
        self.model = kosmos.model
        self.vocabulary = kosmos.vocabulary
        self.sample_builder = kosmos.sample_builder
        self._constraints: dict[tuple[str, ...], _Constraint] = {}

    def problem(self, request: Request) -> str:
        """Say why the request does not fit in the model's context; "" if it does."""
        try:
            lengths = [len(self._sample(prompt)) for prompt in distinct_prompts(request)]
        except PromptTooLong as error:
            return str(error)
        if isinstance(request, Generate):
            new_tokens = self._max_new_tokens(request)
        else:
            new_tokens = max(len(self._continuation(choice, request)) for choice in request.choices)
        if max(lengths) + new_tokens > self.model.max_positions():
            return f"{max(lengths):,} tokens and {new_tokens:,} new ones do not fit in {self.model.max_positions():,}"
        return ""

    def generate(self, requests: Sequence[Generate]) -> list[str]:
        """Generate the text of each request; requests with equal options go in one batch."""
        batches: dict[tuple[SearchOptions, tuple[str, ...] | None], list[int]] = {}
        for index, request in enumerate(requests):
            options = SearchOptions(
                num_beams=request.num_beams, max_new_tokens=self._max_new_tokens(request), stop=request.stop
            )
            batches.setdefault((options, request.among), []).append(index)
        texts: dict[int, str] = {}
        for (options, among), indices in batches.items():
            prompts = [self._sample(requests[index].full_prompt) for index in indices]
            constraint = None if among is None else self._constraint(among)
            trie = constraint.trie if constraint else None
            for index, hypothesis in zip(
                indices, generate(self.model, self.vocabulary, prompts, options, trie), strict=True
            ):
                if constraint:
                    texts[index] = constraint.texts[hypothesis.tokens]
                else:
                    texts[index] = generated_text(self.vocabulary, hypothesis, options.stop)
        return [texts[index] for index in range(len(requests))]

    def score(self, requests: Sequence[Choose]) -> list[list[float]]:
        """Compute the summed log-probability of each request's choices. A prompt that they share is read once."""
        prompts: list[Sample] = []
        candidates: list[list[list[int]]] = []  # token ids of the continuations of each prompt
        for request in requests:
            for prompt, choices in _by_prompt(request).items():
                prompts.append(self._sample(prompt))
                candidates.append([self._continuation(choice, request) for choice in choices])
        scores = iter(score_batch(self.model, self.vocabulary, prompts, candidates))
        results = []
        for request in requests:
            scores_by_prompt = {prompt: iter(next(scores)) for prompt in _by_prompt(request)}
            results.append([next(scores_by_prompt[request.full_prompt(choice)]) for choice in request.choices])
        return results

    def _sample(self, prompt: Prompt) -> Sample:
        return self.sample_builder.prompt(Document("of an item", prompt))

    def _constraint(self, texts: tuple[str, ...]) -> "_Constraint":
        if texts not in self._constraints:
            self._constraints[texts] = _Constraint(self.vocabulary, texts)
        return self._constraints[texts]

    def _max_new_tokens(self, request: Generate) -> int:
        return request.max_new_tokens if request.among is None else self._constraint(request.among).trie.longest

    def _continuation(self, choice: Choice, request: Choose) -> list[int]:
        return continuation_tokens(self.vocabulary, request.full_prompt(choice), choice.continuation)


class _Constraint:
    """The texts that can be generated, by their tokens: decoding the tokens need not give back the exact text."""

    def __init__(self, vocabulary: Vocabulary, texts: Sequence[str]):
        self.texts = {(*vocabulary.encode(text), vocabulary.eos): text for text in texts}
        self.trie = TokenTrie(self.texts)


def continuation_tokens(vocabulary: Vocabulary, prompt: Prompt, continuation: str) -> list[int]:
    """Tokenize a continuation as it is tokenized after the last text of its prompt.

    Args:
        vocabulary: The vocabulary.
        prompt: The full prompt.
        continuation: The text after it, with the space before it if there is one.
    """
    before = prompt[-1].text if prompt and isinstance(prompt[-1], Text) else ""
    tokens = vocabulary.encode(before)
    together = vocabulary.encode(before + continuation)
    if together[: len(tokens)] == tokens and len(together) > len(tokens):
        return together[len(tokens) :]
    return vocabulary.encode(continuation)


def _by_prompt(request: Choose) -> dict[Prompt, list[Choice]]:
    """Group a request's choices by their full prompts."""
    groups: dict[Prompt, list[Choice]] = {}
    for choice in request.choices:
        groups.setdefault(request.full_prompt(choice), []).append(choice)
    return groups
