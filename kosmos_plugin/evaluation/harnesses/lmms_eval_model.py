"""KOSMOS as a model of lmms-eval.

    lmms-eval --model kosmos --model_args path=CHECKPOINT[,data=DATA.yaml,vocabulary=FOLDER] --tasks … --batch_size 16
    torchrun --nproc_per_node 8 -m lmms_eval --model kosmos …

A context is a document: `<s>`, the images, the text; or the images where the text has its `<image>`, if it has as many.
Answers are generated until `</s>`, one of the task's `until`, or `max_new_tokens`. `--batch_size` counts contexts, each
with all of its continuations.

lmms-eval's models return a loss where its interface says log-likelihood, and it takes the choice with the least (`acc`,
and `acc_norm` divided by the choice's characters). So `loglikelihood` gives the negative log-likelihood of the whole
continuation here: then both are what lm_eval and kosmos-evaluate have under these names.
"""

from collections.abc import Sequence

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.api.registry import register_model
from tqdm import tqdm

from kosmos_plugin.errors import UserError
from kosmos_plugin.evaluation.harnesses.adapter import (
    Question,
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
    """A checkpoint of fairseq-train or kosmos-convert. Under torchrun each rank answers for its share of a task."""

    def __init__(
        self,
        path: str,
        data: str | None = None,
        vocabulary: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
    ):
        super().__init__()
        self.accelerator = Accelerator()  # with several ranks, it chooses this one's GPU
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self.kosmos = load_model(path, data, vocabulary, device if self.world_size == 1 else None)
        self.batch_size = number_of_contexts(batch_size, max_batch_size)

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Pairs of a loss and whether greedy search would find the continuation; 0.7 makes a string of a bare pair."""
        continuations = [self._continuation(request) for request in requests]
        found = log_likelihoods(self.kosmos, self._questions(requests), continuations, self.batch_size)
        answers = dict(tqdm(found, desc="Log-likelihoods", total=len(requests), disable=self.rank > 0))
        likelihoods = [answers[number] for number in range(len(requests))]
        return [GenerationResult((-likelihood.log_probability, likelihood.greedy)) for likelihood in likelihoods]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        options = [search_options(request.args[1]) for request in requests]
        found = texts(self.kosmos, self._questions(requests), options, self.batch_size)
        answers = dict(tqdm(found, desc="Answers", total=len(requests), disable=self.rank > 0))
        return [answers[number] for number in range(len(requests))]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise UserError("KOSMOS answers once; the task asks in several rounds.")

    def _questions(self, requests: Sequence[Instance]) -> list[Question]:
        return [self._question(*request.args) for request in requests]

    def _question(self, context: str, _, doc_to_visual, number: int, task: str, split: str) -> Question:
        def prompt() -> Prompt:
            return make_prompt(context, doc_to_visual(self.task_dict[task][split][number]) or [])

        return Question(context, (task, split, number), prompt)

    def _continuation(self, request: Instance) -> str:
        _, target, _, number, task, split = request.args
        return target if isinstance(target, str) else target(self.task_dict[task][split][number])
