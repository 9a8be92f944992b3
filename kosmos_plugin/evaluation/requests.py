"""What a benchmark asks the model: a continuation of a prompt, or which of several choices is the likeliest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.generation.prompt import IMAGE_MARK

Prompt = tuple[Text | Image, ...]


@dataclass(frozen=True)
class Generate:
    """Continue `prompt` until `</s>`, greedily or with beams; a prediction is the text.

    `among`: if given, the continuation is one of these texts (constrained decoding). `then`: if given, the text is no
    prediction yet but goes into a further request (chain of thought).
    """

    prompt: Prompt
    beam: int = 1
    max_new_tokens: int = 32
    among: tuple[str, ...] | None = None
    then: Callable[[str], "Request"] | None = None


@dataclass(frozen=True)
class Choice:
    """`continuation` after `prompt`, with the space before it if there is one; `label` is what it predicts."""

    prompt: Prompt
    continuation: str
    label: str


@dataclass(frozen=True)
class Choose:
    """A prediction is the label of the choice whose continuation is the likeliest.

    Likelihoods are the summed log-probabilities, or if `by_length` those divided by the continuation's length in
    characters, the one space before it left out (as EleutherAI's harness has it in `acc_norm`).
    """

    choices: tuple[Choice, ...]
    by_length: bool = False

    def best(self, log_probabilities: Sequence[float], by_length: bool) -> str:
        """The label of the likeliest choice; the first of equal ones."""
        lengths = [len(choice.continuation.removeprefix(" ")) if by_length else 1 for choice in self.choices]
        scores = [value / length for value, length in zip(log_probabilities, lengths, strict=True)]
        return self.choices[scores.index(max(scores))].label


Request = Generate | Choose


def question(text: str, *images: Image) -> Prompt:
    """`images`, then `text`: the form of every prompt of the paper that has one image."""
    return (*images, Text(text))


def shown(prompt: Prompt) -> str:
    """A prompt as a reader sees it, and as kosmos-generate takes it."""
    return " ".join(segment.text if isinstance(segment, Text) else IMAGE_MARK for segment in prompt)


def prompts_of(request: Request) -> list[Prompt]:
    """The different prompts of a request."""
    if isinstance(request, Generate):
        return [request.prompt]
    return list(dict.fromkeys(choice.prompt for choice in request.choices))


def images_of(request: Request) -> list[Image]:
    """The different images of a request, in the order in which they come."""
    images = [segment for prompt in prompts_of(request) for segment in prompt if isinstance(segment, Image)]
    return list(dict.fromkeys(images))
