"""KOSMOS as a model of lmms-eval.

    lmms-eval --model kosmos --model_args path=CHECKPOINT[,data=DATA.yaml,vocabulary=FOLDER] --tasks … --batch_size 16
    torchrun --nproc_per_node 8 -m lmms_eval --model kosmos …

A context is read as a document: `<s>`, the images, the text; or with each image at an `<image>` of the text, if it has
any. Answers are generated until `</s>`, one of the task's `until`, or `max_new_tokens`. `--batch_size` is the number of
contexts per batch, each with all of its continuations.

The models of lmms-eval return a loss where its interface says log-likelihood, and it chooses the lowest (`acc`, and
`acc_norm` divided by the choice's length in characters). So `loglikelihood` returns the negative log-likelihood of the
whole continuation. Then both metrics are those of the same names in lm_eval and kosmos-evaluate.
"""

from collections.abc import Callable, Sequence
from typing import Any

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.api.registry import register_model
from tqdm import tqdm

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.harnesses.adapter import (
    Context,
    load_model,
    log_likelihoods,
    make_prompt,
    number_of_contexts,
    search_options,
    texts,
)
from kosmos_plugin.evaluation.requests import Prompt


@register_model("kosmos")
class KosmosLmms(lmms):
    """A checkpoint of fairseq-train or kosmos-convert. Under torchrun, each rank answers its share of a task.

    Args:
        path: The checkpoint.
        data: The data YAML, if it is not where it was in training.
        vocabulary: The folder of the vocabulary, instead of a data YAML.
        batch_size: lmms-eval's `--batch_size`.
        max_batch_size: lmms-eval's `--max_batch_size`.
        device: lmms-eval's `--device`.
        dtype: float32, bfloat16 or float16 (default: bfloat16 on a GPU, float32 on a CPU).
    """

    def __init__(
        self,
        path: str,
        data: str | None = None,
        vocabulary: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ):
        super().__init__()
        self.accelerator = Accelerator()  # with several ranks, it selects this rank's GPU
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self.kosmos = load_model(path, data, vocabulary, device if self.world_size == 1 else None, dtype)
        self.batch_size = number_of_contexts(batch_size, max_batch_size)

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Compute (negative log-likelihood, whether greedy search would generate the continuation) for each request."""
        # lmms-eval 0.7 turns a bare pair into a string, but not the pair in a GenerationResult.
        continuations = [self._continuation(request) for request in requests]
        found = log_likelihoods(self.kosmos, self._contexts(requests), continuations, self.batch_size)
        answers = dict(tqdm(found, desc="Log-likelihoods", total=len(requests), disable=self.rank > 0))
        likelihoods = [answers[index] for index in range(len(requests))]
        return [GenerationResult((-likelihood.log_probability, likelihood.greedy)) for likelihood in likelihoods]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Generate the text of each request."""
        options = [search_options(request.args[1]) for request in requests]
        found = texts(self.kosmos, self._contexts(requests), options, self.batch_size)
        answers = dict(tqdm(found, desc="Answers", total=len(requests), disable=self.rank > 0))
        return [answers[index] for index in range(len(requests))]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse: a task of several rounds is not supported."""
        raise UserError("KOSMOS answers in one round; the task asks in several rounds.")

    def _contexts(self, requests: Sequence[Instance]) -> list[Context]:
        return [self._context(*request.args) for request in requests]

    def _context(
        self, text: str, _: Any, doc_to_visual: Callable[[Any], list[Any] | None], index: int, task: str, split: str
    ) -> Context:
        def prompt() -> Prompt:
            return make_prompt(text, doc_to_visual(self.task_dict[task][split][index]) or [])

        return Context(text, (task, split, index), prompt)

    def _continuation(self, request: Instance) -> str:
        _, target, _, index, task, split = request.args
        return target if isinstance(target, str) else target(self.task_dict[task][split][index])
