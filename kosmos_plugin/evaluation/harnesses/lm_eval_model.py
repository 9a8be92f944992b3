r"""KOSMOS as a model of EleutherAI's lm-evaluation-harness (`lm_eval`).

    python -m kosmos_plugin.evaluation.harnesses.lm_eval_model --model kosmos \
      --model_args path=CHECKPOINT[,data=DATA.yaml,vocabulary=FOLDER] --tasks … --batch_size 16
    torchrun --nproc_per_node 8 -m kosmos_plugin.evaluation.harnesses.lm_eval_model --model kosmos …

All other options are lm_eval's own.

A context is read as a document: `<s>`, then the text, with an image for each `<image>` in tasks that have images. The
likelihood of a text (`loglikelihood_rolling`) is that after `<s>`. Answers are generated until `</s>`, one of the
task's `until`, or `max_gen_toks` tokens. A vocabulary that does not encode newlines never generates an `until` of
newlines; to one that does, a run of them is the same as one. `--batch_size` is the number of contexts per batch, each
with all of its continuations.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from kosmos_plugin.data.samples import Sample
from kosmos_plugin.errors import UserError, missing_package
from kosmos_plugin.evaluation.harnesses.adapter import (
    Context,
    load_model,
    log_likelihoods,
    make_prompt,
    number_of_contexts,
    search_options,
    texts,
)
from kosmos_plugin.evaluation.ranks import Ranks
from kosmos_plugin.evaluation.requests import Prompt
from kosmos_plugin.generation.likelihood import likelihoods

try:
    import lm_eval.models  # noqa: F401 - it names lm_eval's own models only to a registry that is still empty
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    raise missing_package("lm-eval's harness", error, "lm-eval") from None

_T = TypeVar("_T")


@register_model("kosmos")
class KosmosLM(LM):
    """A checkpoint of fairseq-train or kosmos-convert. Under torchrun, each rank answers its share of a task.

    Args:
        path: The checkpoint.
        data: The data YAML, if it is not where it was in training.
        vocabulary: The folder of the vocabulary, instead of a data YAML.
        batch_size: lm_eval's `--batch_size`.
        max_batch_size: lm_eval's `--max_batch_size`.
        device: lm_eval's `--device`.
        dtype: float32, bfloat16 or float16 (default: bfloat16 on a GPU, float32 on a CPU).
    """

    MULTIMODAL = True

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
        ranks = Ranks.join()
        self._rank, self._world_size = ranks.rank, ranks.count
        # With several ranks, each has its own GPU.
        self.kosmos = load_model(path, data, vocabulary, device if ranks.count == 1 else None, dtype)
        self.batch_size = number_of_contexts(batch_size, max_batch_size)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Compute (log-likelihood of the continuation, whether greedy search would generate it) for each request."""
        answers = {}
        continuations = [request.args[1] for request in requests]
        found = log_likelihoods(self.kosmos, _contexts(requests), continuations, self.batch_size)
        for index, likelihood in self._progress(found, requests, "Log-likelihoods"):
            answers[index] = (likelihood.log_probability, likelihood.greedy)
            self.cache_hook.add_partial("loglikelihood", requests[index].args, answers[index])
        return [answers[index] for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Compute the log-likelihood of each request's text, in windows if it is long."""
        totals = [0.0] * len(requests)
        windows = [(index, *window) for index, request in enumerate(requests) for window in self._windows(request)]
        batches = [windows[begin : begin + self.batch_size] for begin in range(0, len(windows), self.batch_size)]
        for batch in tqdm(batches, desc="Log-likelihoods of windows", disable=self.rank > 0):
            samples = [_sample(context) for _, context, _ in batch]
            candidates = [[tokens] for _, _, tokens in batch]
            found = likelihoods(self.kosmos.model, self.kosmos.vocabulary, samples, candidates)
            for (index, _, _), [likelihood] in zip(batch, found, strict=True):
                totals[index] += likelihood.log_probability
        return totals

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Generate the text of each request."""
        answers = {}
        options = [search_options(request.args[1]) for request in requests]
        found = texts(self.kosmos, _contexts(requests), options, self.batch_size)
        for index, text in self._progress(found, requests, "Answers"):
            answers[index] = text
            self.cache_hook.add_partial("generate_until", requests[index].args, text)
        return [answers[index] for index in range(len(requests))]

    # lm_eval deals the documents to the ranks, and gathers their metrics with the following methods.

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        torch.distributed.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        gathered = [None] * self.world_size if self.rank == dst else None
        torch.distributed.gather_object(obj, gathered, dst)
        return gathered

    def barrier(self) -> None:
        torch.distributed.barrier()

    def _windows(self, request: Instance) -> Iterator[tuple[list[int], list[int]]]:
        """Split a text into windows (tokens read, tokens scored); each token is scored once."""
        [text] = request.args
        windows = get_rolling_token_windows(
            self.kosmos.vocabulary.encode(text),
            prefix_token=self.kosmos.vocabulary.bos,
            max_seq_len=self.kosmos.model.max_positions(),
            context_len=1,
        )
        return map(make_disjoint_window, windows)

    def _progress(self, answers: Iterator[_T], requests: Sequence[Instance], title: str) -> Iterator[_T]:
        return tqdm(answers, desc=title, total=len(requests), disable=self.rank > 0)


def _contexts(requests: Sequence[Instance]) -> list[Context]:
    return [_context(*request.args) for request in requests]


def _context(text: str, _: Any, extra: dict[str, Any] | None = None) -> Context:
    extra = extra or {}
    if extra.get("audio"):
        raise UserError("KOSMOS reads text and images; the task has audio.")
    images = extra.get("visual") or []
    images = images if isinstance(images, list) else [images]

    def prompt() -> Prompt:
        return make_prompt(text, images)

    return Context(text, tuple(map(id, images)), prompt)


def _sample(tokens: list[int]) -> Sample:
    """Make a sample of exactly these tokens."""
    array = np.array(tokens)
    return Sample("a window of a text", array, targets=array, image_slots=np.zeros(len(tokens), dtype=bool))


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
