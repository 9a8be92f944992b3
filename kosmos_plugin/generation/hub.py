"""A trained model in Python: fairseq's hub interface for prompts that mix text and images.

kosmos = KosmosModel.from_pretrained("checkpoints", "checkpoint_best.pt")
kosmos.generate("<image> Question: what is this? Answer:", ["cat.png"], beam=5)
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from fairseq import checkpoint_utils
from torch import nn

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.prompt import parse_prompt
from kosmos_plugin.generation.scoring import score_candidates
from kosmos_plugin.generation.search import Hypothesis, SearchOptions, generate, text_of
from kosmos_plugin.models.config import ARCHITECTURES


class KosmosHubInterface(nn.Module):
    """A model with its vocabulary: prompts in, text out."""

    def __init__(self, cfg, task, model):
        super().__init__()
        self.cfg = cfg
        self.task = task
        self.model = model.eval()
        self.vocabulary = task.vocabulary

    def prompt(self, text: str, images: Sequence[str | Path | bytes] = (), name: str = "prompt") -> Sample:
        """A prompt in the model's input format; `<image>` in the text stands for each of `images` in turn."""
        return self.task.sample_format.prompt(parse_prompt(text, images, name))

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
        longest = max(len(prompt) for prompt in prompts) + options.max_new_tokens
        if longest > self.model.max_positions():
            raise UserError(
                f"A prompt of {longest - options.max_new_tokens:,} tokens and {options.max_new_tokens:,} new ones are "
                f"more than the {self.model.max_positions():,} the model was trained on; ask for fewer new tokens."
            )
        return generate(self.model, self.vocabulary, prompts, options)

    def score(
        self, text: str, images: Sequence[str | Path | bytes] = (), candidates: Sequence[str] = ()
    ) -> list[float]:
        """The log-probability of each candidate text after the prompt."""
        tokens = [self.vocabulary.encode(candidate) for candidate in candidates]
        return score_candidates(self.model, self.vocabulary, self.prompt(text, images), tokens)


def load(path: str | Path, data: str | None = None, vocabulary: str | None = None) -> KosmosHubInterface:
    """A checkpoint of fairseq-train, in evaluation mode.

    Its vocabulary is found by the data YAML it was trained with; `data` names another place of that, `vocabulary` a
    folder with the vocabulary alone.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"The checkpoint {path} does not exist.")
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
    except Exception as error:  # torch raises anything from EOFError to UnpicklingError on a file that is none
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a checkpoint of fairseq: {reason}") from None
    architecture = (state.get("cfg") or {}).get("model") or {}
    if architecture.get("_name") not in ARCHITECTURES:
        raise UserError(
            f"{path} is a checkpoint of {architecture.get('_name') or 'an unknown architecture'}, not of a KOSMOS "
            f"model ({', '.join(ARCHITECTURES)})."
        )
    for name, value in (("data", data), ("vocabulary", vocabulary)):
        if value is not None:
            state["cfg"].task[name] = value
    try:
        models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], state=state)
    except UserError as error:
        raise UserError(f"{error} (Give --data or --vocabulary if the data the model was trained on moved.)") from None
    model = models[0]
    return KosmosHubInterface(cfg, task, model.cuda() if torch.cuda.is_available() else model)
