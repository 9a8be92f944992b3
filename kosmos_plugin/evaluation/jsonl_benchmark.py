r"""A benchmark as a file of JSON lines, for `kosmos-evaluate --benchmark FILE.jsonl`. A line is an item:

    {"prompt": "<image> Question: what is it? Answer:", "images": ["a.png"], "answer": "a dog"}
    {"prompt": "<image> This is", "images": ["a.png"], "candidates": ["a dog", "a cat"], "answer": "a dog"}

The answer is generated, or it is the likeliest of the candidates.

    prompt          text with an `<image>` for each of the images, in their order; any number, also none
    images          files, relative to FILE's folder
    candidates      texts that may follow the prompt, after a space
    answer          the right text, never its number; without candidates also a list of right texts. If no line has one,
                    the predictions are written, without metrics
    id              of the item; default: the line's number
    metric          with candidates: accuracy (the default) or roc_auc (of the first candidate's probability; two
                    candidates, the same in all lines). Without: exact_match (the default: equal but for white space;
                    SQuAD's EM, which ignores case, punctuation and articles, is reported beside it), f1 (SQuAD's),
                    cider, or vqa (the answers of ten people)
    num_beams, max_new_tokens, stop     of generation; default: greedy, 32 tokens
    by_length       whether candidates are ranked by log-probability per character; default: false

The values from `metric` on must be the same in all lines. For `--shots`, demonstrations are drawn from
FILE.train.jsonl, which has the same format: a demonstration is a prompt and its (most frequent) answer, and an empty
line if text follows. The name of the benchmark is FILE's, without `.jsonl`.
"""

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from kosmos_plugin.data.documents import Image, Text
from kosmos_plugin.errors import UserError, require_file
from kosmos_plugin.evaluation.benchmark import Answer, Benchmark, Scores
from kosmos_plugin.evaluation.jsonl_lines import Line, read_lines
from kosmos_plugin.evaluation.jsonl_metrics import METRICS
from kosmos_plugin.evaluation.requests import Choice, Choose, Generate, Prompt, Request, join

SUFFIX = ".jsonl"


class JsonLines(Benchmark[Line]):
    """The benchmark of a file.

    Args:
        path: The file.
        split: "test", which is the file.

    Raises:
        UserError: The file is wrong; the message names the line.
    """

    splits = ("test",)
    few_shot = True

    def __init__(self, path: Path, split: str | None = None):
        require_file(path)
        self.name = self.title = path.name[: -len(SUFFIX)]
        self.training_file = path.with_name(f"{self.name}.train{SUFFIX}")
        self.source = f"{self.training_file.name} has the demonstrations; without it, evaluate with --shots 0."
        super().__init__(path.parent, split)
        self.lines = read_lines(path)
        self.settings = self.lines[0].settings
        self.has_images = _have_images(self.lines)
        self.defined_in = (path, *([self.training_file] if self.training_file.is_file() else []))

    def files(self, few_shot: bool) -> list[str]:
        return [self.training_file.name] if few_shot else []

    def check_files(self, few_shot: bool) -> None:
        super().check_files(few_shot)
        if few_shot and _have_images(self._training_lines) and not self.has_images:
            raise UserError(f"{self.training_file} has images, and {self.name}{SUFFIX} has none.")

    def check_tools(self) -> None:
        METRICS[self.settings.metric].check_tools()

    def items(self) -> list[Line]:
        return self.lines

    def training_items(self) -> list[Line]:
        return self._training_lines

    def request(self, item: Line, demonstrations: Sequence[Line]) -> Request:
        prompts = [*map(_solved, demonstrations), item.prompt]
        shown = tuple(join(prompt, _separator(following)) for prompt, following in itertools.pairwise(prompts))
        if not item.candidates:
            decoding = self.settings
            return Generate(
                item.prompt, decoding.num_beams, decoding.max_new_tokens, decoding.stop, demonstrations=shown
            )
        space = " " if isinstance(item.prompt[-1], Text) else ""
        choices = (Choice(item.prompt, f"{space}{text}", text) for text in item.candidates)
        return Choose(tuple(choices), self.settings.by_length, shown)

    def score(self, items: Sequence[Line], answers: Sequence[Answer]) -> Scores:
        return METRICS[self.settings.metric].score(items, answers)

    @cached_property
    def _training_lines(self) -> list[Line]:
        lines = read_lines(self.training_file, ids="train ")
        if not lines[0].answers:
            raise UserError(f'{self.training_file}: a line must have an "answer", to be a demonstration.')
        return lines


def _have_images(lines: Sequence[Line]) -> bool:
    return any(isinstance(segment, Image) for line in lines for segment in line.prompt)


def _solved(line: Line) -> Prompt:
    """Return a prompt with its answer: of several the most frequent one, the first of them in a tie."""
    answer = max(line.answers, key=line.answers.count)
    if isinstance(line.prompt[-1], Text):
        return (*line.prompt[:-1], Text(f"{line.prompt[-1].text} {answer}"))
    return (*line.prompt, Text(answer))


def _separator(following: Prompt) -> Prompt:
    """Return what ends a demonstration: an empty line before text, nothing before an image."""
    return (Text("\n\n"),) if isinstance(following[0], Text) else ()
