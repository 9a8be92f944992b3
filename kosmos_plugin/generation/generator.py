"""A trained model in Python: fairseq's hub interface for prompts that mix text and images.

kosmos = kosmos_plugin.load("checkpoints/checkpoint_best.pt")
kosmos.generate("<image> Question: what is this? Answer:", ["cat.png"], beam=5)
talk = kosmos.conversation()
talk.ask("<image> Question: what is this? Answer:", ["cat.png"], stop=(".",))
talk.ask("Question: which color is it? Answer:", stop=(".",))
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from fairseq import checkpoint_utils
from torch import nn

from kosmos_plugin.checkpoints.fairseq_checkpoint import read_kosmos
from kosmos_plugin.data.samples import Sample
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.beam_search import Hypothesis, SearchOptions, generate, text_of
from kosmos_plugin.generation.conversation import Conversation
from kosmos_plugin.generation.likelihood import score_batch
from kosmos_plugin.generation.prompt import parse_prompt


class Generator(nn.Module):
    """A model with its vocabulary: prompts in, text out."""

    def __init__(self, cfg, task, model):
        super().__init__()
        self.cfg = cfg
        self.task = task
        self.model = model.eval()
        self.vocabulary = task.vocabulary

    def prompt(self, text: str, images: Sequence[str | Path | bytes] = (), name: str = "prompt") -> Sample:
        """A prompt in the model's input format; `<image>` in the text stands for each of `images` in turn."""
        return self.task.sample_builder.prompt(parse_prompt(text, images, name))

    def generate(
        self,
        text: str,
        images: Sequence[str | Path | bytes] = (),
        **options,
    ) -> str:
        """The model's continuation of one prompt; `options` are those of SearchOptions."""
        options = SearchOptions(**options)
        hypothesis = self.search([self.prompt(text, images)], options)[0]
        return text_of(self.vocabulary, hypothesis, options.stop)

    def search(self, prompts: Sequence[Sample], options: SearchOptions) -> list[Hypothesis]:
        """The best hypothesis of each prompt, all in one batch."""
        longest = max(len(prompt) for prompt in prompts)
        if longest + options.max_new_tokens > self.model.max_positions():
            raise UserError(
                f"A prompt of {longest:,} tokens and {options.max_new_tokens:,} new ones are more than the "
                f"{self.model.max_positions():,} the model was trained on; ask for fewer new tokens."
            )
        return generate(self.model, self.vocabulary, prompts, options)

    def score(
        self, text: str, images: Sequence[str | Path | bytes] = (), candidates: Sequence[str] = ()
    ) -> list[float]:
        """The log-probability of each candidate text after the prompt."""
        return self.score_batch([self.prompt(text, images)], [candidates])[0]

    def score_batch(self, prompts: Sequence[Sample], candidates: Sequence[Sequence[str]]) -> list[list[float]]:
        """The log-probability of each prompt's own candidate texts after it, all prompts in one batch."""
        tokens = [[self.vocabulary.encode(candidate) for candidate in of_prompt] for of_prompt in candidates]
        for prompt, of_prompt in zip(prompts, tokens, strict=True):
            lengths = [len(candidate) for candidate in of_prompt]
            if 0 in lengths:
                raise UserError(f"{prompt.id}: candidate {lengths.index(0) + 1} is empty; a candidate needs text.")
            if len(prompt) + max(lengths, default=0) > self.model.max_positions():
                raise UserError(
                    f"{prompt.id} has {len(prompt):,} tokens and its longest candidate {max(lengths):,}; the model was "
                    f"trained on {self.model.max_positions():,}."
                )
        return score_batch(self.model, self.vocabulary, prompts, tokens)

    def conversation(self) -> Conversation:
        """Questions and answers whose text and images stay in the cache."""
        return Conversation(self.model, self.vocabulary, self.task.sample_builder)


def load(path: str | Path, data: str | None = None, vocabulary: str | None = None) -> Generator:
    """A checkpoint of fairseq-train (.pt) or kosmos-convert (.safetensors too), in evaluation mode.

    Its vocabulary is the folder `vocabulary` beside it, or else that of the data YAML it was trained with; `data` names
    another place of that, `vocabulary` a folder with the vocabulary alone.
    """
    path = Path(path)
    state = read_kosmos(path, data, vocabulary)
    state["cfg"].model.compile = False  # what is read grows with every step
    try:
        models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], state=state)
    except UserError as error:
        raise UserError(f"{error} (Give --data or --vocabulary if the data the model was trained on moved.)") from None
    model = models[0]
    return Generator(cfg, task, model.cuda() if torch.cuda.is_available() else model)
