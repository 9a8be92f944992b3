"""A trained model in Python: prompts of text and images in, text out.

kosmos = kosmos_plugin.load("checkpoints/checkpoint_best.pt")
kosmos.generate("<image> Question: what is this? Answer:", "cat.png", num_beams=5)
for part in kosmos.stream("<image> An image of", "cat.png"):
    print(part, end="", flush=True)
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import torch
from typing_extensions import Self, Unpack

from kosmos_plugin.checkpoints.fairseq_checkpoint import KosmosCheckpoint, build_empty, read_kosmos
from kosmos_plugin.checkpoints.state_dict import require_matching_weights
from kosmos_plugin.data.samples import Sample, SampleBuilder
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.attention_map import AttentionMap, attention_map
from kosmos_plugin.generation.beam_search import generate_n, generated_text
from kosmos_plugin.generation.conversation import Conversation
from kosmos_plugin.generation.device import inference_device, inference_dtype
from kosmos_plugin.generation.ending import Ending
from kosmos_plugin.generation.image_sources import FetchUrl, ImageSource
from kosmos_plugin.generation.likelihood import score_batch
from kosmos_plugin.generation.options import SearchArguments, SearchOptions, TextArguments
from kosmos_plugin.generation.prompt import parse_prompt, require_text
from kosmos_plugin.generation.results import Choice, Chunk, Generation, Hypothesis, token_logprobs
from kosmos_plugin.generation.streaming import stream
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.tensor_files import first_line
from kosmos_plugin.vocabulary import Vocabulary

Images = ImageSource | Sequence[ImageSource] | None
"""The images of one prompt: one, several in order, or none."""

Prompts = list[str] | tuple[str, ...]

PROMPTS_AT_ONCE = 32  # of a list that `generate` is given


class Generator:
    """A trained model with its vocabulary and input format.

    Attributes:
        model: The model, in evaluation mode; `model.config` is its architecture.
        vocabulary: Text ⇄ token ids.
        sample_builder: Documents → token sequences in the model's input format.
        fetch_url: What reads the image at a URL, which is an error while this is None.
    """

    def __init__(self, model: Kosmos, vocabulary: Vocabulary, sample_builder: SampleBuilder):
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.sample_builder = sample_builder
        self.fetch_url: FetchUrl | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.decoder.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its weights and activations."""
        return self.model.decoder.embed_tokens.weight.dtype

    def to(self, device: str | torch.device) -> Self:
        """Move the model to a device."""
        self.model.to(device)
        return self

    @overload
    def generate(self, prompt: str, images: Images = None, **options: Unpack[TextArguments]) -> str: ...
    @overload
    def generate(
        self, prompt: Prompts, images: Sequence[Images] | None = None, **options: Unpack[TextArguments]
    ) -> list[str]: ...
    @overload
    def generate(
        self, prompt: str, images: Images = None, *, details: bool = ..., **options: Unpack[SearchArguments]
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompt: Prompts,
        images: Sequence[Images] | None = None,
        *,
        details: bool = ...,
        **options: Unpack[SearchArguments],
    ) -> list[Generation]: ...
    def generate(
        self, prompt: Any, images: Any = None, *, details: bool = False, **options: Unpack[SearchArguments]
    ) -> Any:
        """Continue one prompt, or several, which are batched.

        Args:
            prompt: The prompt, with one `<image>` for each image; or a list of prompts.
            images: The image of the prompt, or several in order; for a list of prompts, a list with those of each. An
                image is a path, the bytes of a file, a file object, a data URI, an image of Pillow, an array
                [H, W, 3] or a tensor [3, H, W].
            details: Give a Generation with tokens, log-probabilities and what ended the text.
            **options: The fields of SearchOptions: `max_new_tokens`, `num_beams`, `do_sample`, `temperature`, `top_p`,
                `top_k`, `min_p`, `seed`, `n`, `repetition_penalty`, `no_repeat_ngram_size`, `logprobs`,
                `top_logprobs`, `stop`, `stop_tokens` and others.

        Returns:
            The text. With `details`, `logprobs` or an `n` above 1 a Generation. For a list of prompts a list of these.

        Raises:
            UserError: An option is out of its range; the numbers of `<image>` and of images differ; an image cannot be
                read; or a prompt and its new tokens do not fit in the model's positions.
        """
        search_options = SearchOptions.of(**options)
        samples = self._samples(prompt, images)
        if samples:
            self._require_room(samples, search_options)
        found: list[Any] = []
        for first in range(0, len(samples), PROMPTS_AT_ONCE):
            found += self.generations(samples[first : first + PROMPTS_AT_ONCE], search_options)
        if not (details or search_options.logprobs or search_options.n > 1):
            found = [generation.text for generation in found]
        return found[0] if isinstance(prompt, str) else found

    @overload
    def stream(self, prompt: str, images: Images = None, **options: Unpack[TextArguments]) -> Iterator[str]: ...
    @overload
    def stream(
        self, prompt: str, images: Images = None, *, details: bool = ..., **options: Unpack[SearchArguments]
    ) -> Iterator[Chunk]: ...
    def stream(
        self, prompt: str, images: Images = None, *, details: bool = False, **options: Unpack[SearchArguments]
    ) -> Iterator[Any]:
        """Continue one prompt, and give its text as it is generated.

        The parts together are the text that `generate` gives. None ends within a character, be it an emoji of several,
        or shows a part of a stop text. To cancel, close the iterator or drop it.

        Args:
            prompt: The prompt, with one `<image>` for each image.
            images: See `generate`.
            details: Give Chunks, with log-probabilities and, in the last one, what ended the text.
            **options: As for `generate`; one text, so neither beams nor `n`.

        Returns:
            An iterator of parts of the text, none of them empty; of Chunks with `details` or `logprobs`.

        Raises:
            UserError: As for `generate`. An image that cannot be decoded is found with the first part.
        """
        search_options = SearchOptions.of(**options)
        if search_options.num_beams > 1 or search_options.n > 1:
            raise UserError("A stream is one text: leave out num_beams and n, or use generate.")
        [sample] = self._samples([prompt], [images])
        self._require_room([sample], search_options)
        chunks = stream(self.model, sample, Ending(self.vocabulary, search_options), search_options)
        if details or search_options.logprobs:
            return chunks
        return (chunk.text for chunk in chunks if chunk.text)

    @overload
    def score(self, prompt: str, images: Images = None, candidates: Sequence[str] = ()) -> list[float]: ...
    @overload
    def score(
        self, prompt: Prompts, images: Sequence[Images] | None = None, candidates: Sequence[Sequence[str]] = ()
    ) -> list[list[float]]: ...
    def score(self, prompt: Any, images: Any = None, candidates: Any = ()) -> Any:
        """Compute the log-probability of each candidate text after its prompt.

        Args:
            prompt: The prompt, with one `<image>` for each image; or a list of prompts.
            images: See `generate`.
            candidates: The texts that may follow; for a list of prompts, a list with those of each.

        Returns:
            The log-probabilities of the candidates, summed over their tokens; for a list of prompts a list of these.

        Raises:
            UserError: As for `generate`; or a candidate is empty.
        """
        samples = self._samples(prompt, images)
        if isinstance(prompt, str):
            return self.score_batch(samples, [candidates])[0]
        if isinstance(candidates, str) or len(candidates) != len(samples):
            raise UserError(f"candidates must be a list with those of each of the {len(samples)} prompts.")
        return self.score_batch(samples, candidates)

    def attention_map(
        self, prompt: str, images: Images, answer: str, layers: int | Sequence[int] | None = None
    ) -> AttentionMap:
        """Find where the model looks when it predicts each token of an answer.

        Args:
            prompt: The prompt, with one `<image>` for each image.
            images: See `generate`; one at least.
            answer: The text after the prompt: what `generate` gave, or any other.
            layers: The layers of the decoder to average, one or several, counted from 0 or, if negative, from the end
                (default: all).

        Returns:
            Of each token and image a map over the encoder's patches, and a method that draws it over the picture.

        Raises:
            UserError: As for `generate`; or there is no image or no such layer, or the answer is empty or too long.
        """
        return attention_map(self.model, self.vocabulary, self.prompt(prompt, images), answer, layers)

    def chat(
        self, template: str | Path = "plain", chain_of_thought: bool = False, drop_oldest: bool = False
    ) -> Conversation:
        """Start a conversation, whose text and images stay in the cache.

        Args:
            template: How a turn is asked: "plain", "question-answer", or a file with `{text}` in it.
            chain_of_thought: Have the model describe the images of a turn before it answers (§4.5).
            drop_oldest: Drop the oldest turns when the model's positions are full; otherwise that is an error.
        """
        return Conversation(
            self.model,
            self.vocabulary,
            self.sample_builder,
            template=template,
            chain_of_thought=chain_of_thought,
            drop_oldest=drop_oldest,
            fetch=self.fetch_url,
        )

    def prompt(self, text: str, images: Images = None, name: str = "prompt") -> Sample:
        """Make a prompt in the model's input format.

        Args:
            text: The prompt, with one `<image>` for each of `images`.
            images: See `generate`.
            name: What error messages call the prompt.

        Raises:
            UserError: The numbers of `<image>` and of images differ, one is not an image, or the prompt is longer than
                the model's positions.
        """
        return self.sample_builder.prompt(parse_prompt(text, images, name, self.fetch_url))

    def generations(self, prompts: Sequence[Sample], options: SearchOptions) -> list[Generation]:
        """Continue prompts that were made with `prompt`, all in one batch; see `generate`."""
        return [
            Generation(tuple(self._choice(found, options) for found in hypotheses), len(prompt))
            for prompt, hypotheses in zip(prompts, self._search(prompts, options), strict=True)
        ]

    def search(self, prompts: Sequence[Sample], options: SearchOptions) -> list[Hypothesis]:
        """Find the best hypothesis for each prompt, all in one batch.

        Raises:
            UserError: A prompt and its new tokens do not fit in the model's positions, or an image cannot be decoded.
        """
        return [hypotheses[0] for hypotheses in self._search(prompts, options)]

    def score_batch(self, prompts: Sequence[Sample], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """Compute the log-probability of each candidate text after its prompt, all prompts in one batch.

        Args:
            prompts: B prompts.
            candidates: For each prompt, any number of texts.

        Raises:
            UserError: A candidate is empty or does not fit in the model's positions, or an image cannot be decoded.
        """
        if not prompts:
            return []
        if any(isinstance(texts, str) for texts in candidates):
            raise UserError("The candidates of a prompt are a list of texts, not one text.")
        for prompt, texts in zip(prompts, candidates, strict=True):
            for number, text in enumerate(texts, start=1):
                require_text(text, f"{prompt.id}: candidate {number}")
        tokens = [[self.vocabulary.encode(text) for text in texts] for texts in candidates]
        for prompt, prompt_candidates in zip(prompts, tokens, strict=True):
            lengths = [len(candidate) for candidate in prompt_candidates]
            if 0 in lengths:
                raise UserError(f"{prompt.id}: candidate {lengths.index(0) + 1} is empty; a candidate needs text.")
            if len(prompt) + max(lengths, default=0) > self.model.max_positions():
                raise UserError(
                    f"{prompt.id} has {len(prompt):,} tokens and its longest candidate {max(lengths):,}, which do not "
                    f"fit in the {self.model.max_positions():,} positions of the model."
                )
        return score_batch(self.model, self.vocabulary, prompts, tokens)

    def _samples(self, prompt: str | Sequence[str], images: Any) -> list[Sample]:
        """The prompts of a call, each with its images."""
        if isinstance(prompt, str):
            return [self.prompt(prompt, images)]
        if not isinstance(prompt, list | tuple):
            raise UserError(f"A prompt is a text or a list of texts, not of type {type(prompt).__name__}.")
        if images is None:
            images = [None] * len(prompt)
        if not isinstance(images, list | tuple) or len(images) != len(prompt):
            raise UserError(f"images must be a list with those of each of the {len(prompt)} prompts.")
        names = ["prompt"] if len(prompt) == 1 else [f"prompt {number + 1}" for number in range(len(prompt))]
        return [self.prompt(*each) for each in zip(prompt, images, names, strict=True)]

    def _require_room(self, prompts: Sequence[Sample], options: SearchOptions) -> None:
        longest = max(len(prompt) for prompt in prompts)
        if longest + options.max_new_tokens > self.model.max_positions():
            raise UserError(
                f"A prompt of {longest:,} tokens and {options.max_new_tokens:,} new ones do not fit in the "
                f"{self.model.max_positions():,} positions of the model; ask for fewer new tokens (max_new_tokens)."
            )

    def _search(self, prompts: Sequence[Sample], options: SearchOptions) -> list[list[Hypothesis]]:
        if not prompts:
            return []
        self._require_room(prompts, options)
        return generate_n(self.model, self.vocabulary, prompts, options)

    def _choice(self, found: Hypothesis, options: SearchOptions) -> Choice:
        return Choice(
            generated_text(self.vocabulary, found, options.stop),
            found.tokens,
            found.finish_reason,
            found.log_probability,
            found.score,
            token_logprobs(self.vocabulary, found.tokens, found.logprobs) if options.logprobs else None,
        )


def load(
    path: str | Path,
    data: str | Path | None = None,
    vocabulary: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Generator:
    """Load a trained model for generation.

    Args:
        path: A checkpoint of fairseq-train or kosmos-convert, .pt or .safetensors, or its folder.
        data: A data YAML, to use its vocabulary.
        vocabulary: A vocabulary folder, to use it instead of the vocabulary that the checkpoint carries. One of version
            0.1 carries none: then it is the folder `vocabulary` beside it, or that of the training.
        device: Where the model runs. By default it is the GPU if there is one.
        dtype: float32, bfloat16 or float16, of weights and activations. By default it is bfloat16 on a GPU, float32 on
            a CPU.

    Raises:
        UserError: The file is not a checkpoint of a KOSMOS model, its weights do not match its configuration, there is
            no vocabulary, or no such device or precision.
    """
    device = inference_device(device)  # before what takes time
    dtype = inference_dtype(dtype, device)
    return build_generator(read_kosmos(Path(path), data, vocabulary), path, device, dtype)


def build_generator(
    checkpoint: KosmosCheckpoint,
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Generator:
    """Build the model of a checkpoint that was read from `path`; see `load`."""
    device = inference_device(device)
    dtype = inference_dtype(dtype, device)
    # What made the training faster: compiled shapes change with every step, and a cache of features grows for ever.
    config = replace(checkpoint.config, compile=False, cache_vision_features=False)
    try:
        expected = build_empty(config, checkpoint.vocabulary).state_dict()  # first without memory for its weights
    except UserError:
        raise
    except Exception as error:  # torch, TorchScale and open_clip raise anything for options that contradict each other
        raise UserError(f"The model of {path} cannot be built: {first_line(error)}") from None
    require_matching_weights(checkpoint.weights, expected, path)
    model = Kosmos.build(config, len(checkpoint.vocabulary), checkpoint.vocabulary.pad, pretrained_vision=False)
    model.load_state_dict(checkpoint.weights)
    model.to(device, dtype)
    sample_builder = SampleBuilder(checkpoint.vocabulary, config.image_tokens, config.tokens_per_sample)
    return Generator(model, checkpoint.vocabulary, sample_builder)
