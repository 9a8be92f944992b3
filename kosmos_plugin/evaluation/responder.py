"""The model as benchmarks see it: texts for Generate, log-probabilities for Choose, many requests in one batch."""

from collections.abc import Sequence
from typing import Protocol

from kosmos_plugin.data.documents import Document, Text
from kosmos_plugin.data.samples import PromptTooLong, Sample
from kosmos_plugin.evaluation.requests import Choice, Choose, Generate, Prompt, Request, prompts_of
from kosmos_plugin.generation.beam_search import SearchOptions, generate, generated_text
from kosmos_plugin.generation.generator import Generator
from kosmos_plugin.generation.likelihood import score_batch
from kosmos_plugin.generation.token_trie import TokenTrie
from kosmos_plugin.vocabulary import Vocabulary


class Responder(Protocol):
    """Who answers requests: a model, or in tests somebody who knows the answers."""

    def problem(self, request: Request) -> str:
        """Why the request cannot be answered (it is longer than the model reads), or nothing."""
        ...

    def generate(self, requests: Sequence[Generate]) -> list[str]: ...

    def score(self, requests: Sequence[Choose]) -> list[list[float]]:
        """The log-probability of each request's choices."""
        ...


class KosmosResponder:
    """A trained model. Requests of any kind and length go in one batch; each gets what it would get alone."""

    def __init__(self, kosmos: Generator):
        self.model = kosmos.model
        self.vocabulary = kosmos.vocabulary
        self.sample_builder = kosmos.sample_builder
        self._names_of: dict[tuple[str, ...], _Names] = {}

    def problem(self, request: Request) -> str:
        try:
            if isinstance(request, Generate):
                new = [self._new_tokens(request)]
                lengths = [len(self._sample(request.prompt))]
            else:
                new = [len(self._continuation(choice)) for choice in request.choices]
                lengths = [len(self._sample(prompt)) for prompt in prompts_of(request)]
        except PromptTooLong as error:
            return str(error)
        if max(lengths) + max(new) > self.model.max_positions():
            return f"{max(lengths):,} tokens and {max(new):,} new ones do not fit in {self.model.max_positions():,}"
        return ""

    def generate(self, requests: Sequence[Generate]) -> list[str]:
        alike: dict[tuple, list[int]] = {}  # requests by their options
        for number, request in enumerate(requests):
            options = SearchOptions(request.beam, self._new_tokens(request))
            alike.setdefault((options, request.among), []).append(number)
        texts: dict[int, str] = {}
        for (options, among), numbers in alike.items():
            prompts = [self._sample(requests[number].prompt) for number in numbers]
            names = None if among is None else self._names(among)
            found = generate(self.model, self.vocabulary, prompts, options, names.trie if names else None)
            for number, hypothesis in zip(numbers, found, strict=True):
                texts[number] = names.texts[hypothesis.tokens] if names else generated_text(self.vocabulary, hypothesis)
        return [texts[number] for number in range(len(requests))]

    def score(self, requests: Sequence[Choose]) -> list[list[float]]:
        prompts: list[Sample] = []
        candidates: list[list[list[int]]] = []  # of each prompt
        for request in requests:
            for prompt, choices in _by_prompt(request).items():
                prompts.append(self._sample(prompt))
                candidates.append([self._continuation(choice) for choice in choices])
        scores = iter(score_batch(self.model, self.vocabulary, prompts, candidates))
        scores_of_requests = []
        for request in requests:
            found = {prompt: iter(next(scores)) for prompt in _by_prompt(request)}
            scores_of_requests.append([next(found[choice.prompt]) for choice in request.choices])
        return scores_of_requests

    def _sample(self, prompt: Prompt) -> Sample:
        return self.sample_builder.prompt(Document("of an item", prompt))

    def _names(self, texts: tuple[str, ...]) -> "_Names":
        if texts not in self._names_of:
            self._names_of[texts] = _Names(self.vocabulary, texts)
        return self._names_of[texts]

    def _new_tokens(self, request: Generate) -> int:
        return request.max_new_tokens if request.among is None else self._names(request.among).trie.longest

    def _continuation(self, choice: Choice) -> list[int]:
        return continuation_tokens(self.vocabulary, choice.prompt, choice.continuation)


class _Names:
    """Texts one of which is to be generated, by their tokens: the vocabulary may not give a text back as it was."""

    def __init__(self, vocabulary: Vocabulary, texts: Sequence[str]):
        self.texts = {(*vocabulary.encode(text), vocabulary.eos): text for text in texts}
        self.trie = TokenTrie(self.texts)


def continuation_tokens(vocabulary: Vocabulary, prompt: Prompt, continuation: str) -> list[int]:
    """The tokens of `continuation` where it stands, after the last text of `prompt`."""
    before = prompt[-1].text if prompt and isinstance(prompt[-1], Text) else ""
    tokens = vocabulary.encode(before)
    together = vocabulary.encode(before + continuation)
    if together[: len(tokens)] == tokens and len(together) > len(tokens):
        return together[len(tokens) :]
    return vocabulary.encode(continuation)


def _by_prompt(request: Choose) -> dict[Prompt, list[Choice]]:
    """A request's choices by their prompts; each prompt is read once."""
    found: dict[Prompt, list[Choice]] = {}
    for choice in request.choices:
        found.setdefault(choice.prompt, []).append(choice)
    return found
