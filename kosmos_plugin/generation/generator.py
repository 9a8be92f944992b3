"""A trained model in Python: prompts of text and images in, text out.

kosmos = kosmos_plugin.load("checkpoints/checkpoint_best.pt")
kosmos.generate("<image> Question: what is this? Answer:", ["cat.png"], beam=5)

conversation = kosmos.conversation()
conversation.ask("<image> Question: what is this? Answer:", ["cat.png"], stop=(".",))
conversation.ask("Question: which color is it? Answer:", stop=(".",))
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Self

from kosmos_plugin.checkpoints.fairseq_checkpoint import KosmosCheckpoint, build_empty, read_kosmos
from kosmos_plugin.checkpoints.state_dict import require_matching_weights
from kosmos_plugin.data.samples import Sample, SampleBuilder
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.beam_search import Hypothesis, generate, generated_text
from kosmos_plugin.generation.conversation import Conversation
from kosmos_plugin.generation.device import inference_device, inference_dtype
from kosmos_plugin.generation.likelihood import score_batch
from kosmos_plugin.generation.options import SearchOptions
from kosmos_plugin.generation.prompt import parse_prompt
from kosmos_plugin.models.kosmos import Kosmos
from kosmos_plugin.tensor_files import first_line
from kosmos_plugin.vocabulary import Vocabulary


class Generator:
    """A trained model with its vocabulary and input format.

    Attributes:
        model: The model, in evaluation mode; `model.config` is its architecture.
        vocabulary: Text ⇄ token ids.
        sample_builder: Documents → token sequences in the model's input format.
    """

    def __init__(self, model: Kosmos, vocabulary: Vocabulary, sample_builder: SampleBuilder):
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.sample_builder = sample_builder

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

    def prompt(self, text: str, images: Sequence[str | Path | bytes] = (), name: str = "prompt") -> Sample:
        """Make a prompt in the model's input format.

        Args:
            text: The prompt, with one `<image>` for each of `images`.
            images: Paths of image files, or their bytes, in order.
            name: What error messages call the prompt.

        Raises:
            UserError: The numbers of `<image>` and of images differ, an image file does not exist, or the prompt is
                longer than the model's positions.
        """
        return self.sample_builder.prompt(parse_prompt(text, images, name))

    def generate(self, text: str, images: Sequence[str | Path | bytes] = (), **options: Any) -> str:
        """Continue one prompt.

        Args:
            text: The prompt, with one `<image>` for each of `images`.
            images: Paths of image files, or their bytes, in order.
            **options: The fields of SearchOptions.

        Raises:
            UserError: As for `prompt` and `search`.
        """
        search_options = SearchOptions(**options)
        [hypothesis] = self.search([self.prompt(text, images)], search_options)
        return generated_text(self.vocabulary, hypothesis, search_options.stop)

    def search(self, prompts: Sequence[Sample], options: SearchOptions) -> list[Hypothesis]:
        """Find the best hypothesis for each prompt, all in one batch.

        Raises:
            UserError: A prompt and its new tokens do not fit in the model's positions, or an image cannot be decoded.
        """
        if not prompts:
            return []
        longest = max(len(prompt) for prompt in prompts)
        if longest + options.max_new_tokens > self.model.max_positions():
            raise UserError(
                f"A prompt of {longest:,} tokens and {options.max_new_tokens:,} new ones do not fit in the "
                f"{self.model.max_positions():,} positions of the model; ask for fewer new tokens."
            )
        return generate(self.model, self.vocabulary, prompts, options)

    def score(
        self, text: str, images: Sequence[str | Path | bytes] = (), candidates: Sequence[str] = ()
    ) -> list[float]:
        """Compute the log-probability of each candidate text after one prompt. Arguments are as for `generate`."""
        return self.score_batch([self.prompt(text, images)], [candidates])[0]

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

    def conversation(self) -> Conversation:
        """Start a conversation."""
        return Conversation(self.model, self.vocabulary, self.sample_builder)


def load(
    path: str | Path,
    data: str | Path | None = None,
    vocabulary: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Generator:
    """Load a trained model for generation.

    Args:
        path: A checkpoint of fairseq-train or kosmos-convert, .pt or .safetensors.
        data: The data YAML of its training, if it moved; only its vocabulary is used.
        vocabulary: The vocabulary folder, if it moved. By default it is the folder `vocabulary` beside the checkpoint,
            or the vocabulary of the training.
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
    config = replace(checkpoint.config, compile=False)  # shapes change with every step
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
