"""What a benchmark asks the model: to continue a prompt, or to choose the likeliest of several continuations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.generation.prompt import IMAGE_MARK

Prompt = tuple[Text | Image, ...]


@dataclass(frozen=True)
class Generate:
    """Continue a prompt until `</s>`, greedily or by beam search. The generated text is the prediction."""

    prompt: Prompt  # without the demonstrations
    num_beams: int = 1
    max_new_tokens: int = 32
    stop: tuple[str, ...] = ()  # texts that end generation, as `</s>` does, and are left out
    among: tuple[str, ...] | None = None  # constrains decoding: only these texts can be generated
    # Chain of thought: makes the next request from the generated text, which is a rationale.
    then: Callable[[str], "Request"] | None = None
    demonstrations: tuple[Prompt, ...] = ()  # few-shot examples, read before the prompt

    @property
    def full_prompt(self) -> Prompt:
        """All that the model reads: the demonstrations, then the prompt."""
        return join(*self.demonstrations, self.prompt)


@dataclass(frozen=True)
class Choice:
    """One of the continuations that a Choose ranks."""

    prompt: Prompt  # without the demonstrations
    continuation: str  # with the space before it, if there is one
    label: str  # the prediction if this choice is the likeliest
    # Characters that the length-normalized likelihood divides by; None: the continuation's, less one space before it.
    length: int | None = None


@dataclass(frozen=True)
class Choose:
    """Rank choices by the likelihood of each continuation after its prompt. The best one's label is the prediction."""

    choices: tuple[Choice, ...]
    # Whether to divide the summed log-probability by the choice's length in characters, as `acc_norm` does in
    # lm-evaluation-harness.
    by_length: bool = False
    demonstrations: tuple[Prompt, ...] = ()  # few-shot examples, read before each choice's prompt

    def full_prompt(self, choice: Choice) -> Prompt:
        """All that the model reads before the choice's continuation: the demonstrations, then its prompt."""
        return join(*self.demonstrations, choice.prompt)

    def best(self, log_probabilities: Sequence[float], by_length: bool) -> str:
        """Return the label of the likeliest choice, the first one in a tie.

        Args:
            log_probabilities: The summed log-probability of each choice's continuation.
            by_length: Whether to divide them by the choices' lengths.
        """
        lengths = [_length(choice) if by_length else 1 for choice in self.choices]
        scores = [value / length for value, length in zip(log_probabilities, lengths, strict=True)]
        return self.choices[scores.index(max(scores))].label


def _length(choice: Choice) -> int:
    return len(choice.continuation.removeprefix(" ")) if choice.length is None else choice.length


Request = Generate | Choose


def question(text: str, *images: Image) -> Prompt:
    """Put the images before the text, as in every prompt of the paper with one image."""
    return (*images, Text(text))


def join(*prompts: Prompt) -> Prompt:
    """Concatenate prompts. Adjacent texts of two prompts are merged, so that they are tokenized as one text."""
    joined: list[Text | Image] = []
    for prompt in prompts:
        if joined and prompt and isinstance(joined[-1], Text) and isinstance(prompt[0], Text):
            joined[-1:] = [Text(joined[-1].text + prompt[0].text), *prompt[1:]]
        else:
            joined += prompt
    return tuple(joined)


def prompt_text(prompt: Prompt) -> str:
    """Write a prompt with `<image>` for each image, as `kosmos-generate` takes it."""
    return " ".join(segment.text if isinstance(segment, Text) else IMAGE_MARK for segment in prompt)


def distinct_prompts(request: Request) -> list[Prompt]:
    """List the full prompts of a request, each once. Choices often share one."""
    if isinstance(request, Generate):
        return [request.full_prompt]
    return list(dict.fromkeys(request.full_prompt(choice) for choice in request.choices))


def distinct_images(request: Request) -> list[Image]:
    """List the images of a request in reading order, each once."""
    images = [segment for prompt in distinct_prompts(request) for segment in prompt if isinstance(segment, Image)]
    return list(dict.fromkeys(images))
