"""kosmos-generate: continue prompts of text and images with a trained model.

    kosmos-generate --path CHECKPOINT --prompt "<image> Question: what is this? Answer:" --image cat.png
    kosmos-generate --path CHECKPOINT < prompts.jsonl     # one per line: {"prompt": "<image> …", "images": ["cat.png"]}

The continuation of --prompt is printed as plain text, with --logprobs as a JSON line. Without --prompt, prompts are
JSON lines on standard input, and each result is a JSON line: the prompt's record with "output", "score" and
"finish_reason" ("stop" or "length"), with --n N a list "outputs" of these, and with --logprobs also "logprobs".
"""

import argparse
import io
import itertools
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fairseq_cli_ext import run_command
from fairseq_cli_ext.parser import CommandParser
from kosmos_plugin.errors import UserError
from kosmos_plugin.generation.options import DeviceOptions, ModelOptions, SearchOptions
from kosmos_plugin.options import add_options, option, parsed_options

if TYPE_CHECKING:
    from kosmos_plugin.generation.generator import Generator
    from kosmos_plugin.generation.results import Generation, TokenLogprob


@dataclass(frozen=True)
class GenerateOptions:
    """The prompts of kosmos-generate."""

    prompt: str | None = option(None, "text with <image> for each image (default: JSON lines on standard input)")
    image: tuple[str, ...] = option(
        (), "image file of --prompt; repeat it for each <image>", metavar="FILE", repeated=True, must_exist=True
    )
    batch_size: int = option(16, "prompts of standard input per batch", minimum=1)


def parser() -> CommandParser:
    """Build the command's parser."""
    parser = CommandParser("kosmos-generate", __doc__)
    add_options(parser, ModelOptions)
    add_options(parser, GenerateOptions)
    add_options(parser.add_argument_group("device"), DeviceOptions)
    add_options(parser.add_argument_group("search"), SearchOptions)
    return parser


def run(args: argparse.Namespace) -> None:
    """Print the continuation of --prompt, or of each line of standard input."""
    from kosmos_plugin.generation.generator import load

    model, where = parsed_options(args, ModelOptions), parsed_options(args, DeviceOptions)
    options, search = parsed_options(args, GenerateOptions), parsed_options(args, SearchOptions)
    if options.prompt is None and options.image:
        raise UserError("--image goes with --prompt; JSON lines name their own images.")
    kosmos = load(model.path, model.data, model.vocabulary, where.device, where.dtype)
    if options.prompt is not None:
        [generation] = kosmos.generations([kosmos.prompt(options.prompt, list(options.image), "--prompt")], search)
        if search.logprobs:
            print(json.dumps({"prompt": options.prompt, **_described(generation, search)}))
            return
        encoding = sys.stdout.encoding or "utf-8"
        for choice in generation.choices:
            print(choice.text.encode(encoding, "backslashreplace").decode(encoding))
        return
    if sys.stdin.isatty():
        print('Reading prompts from standard input, one {"prompt": "…"} per line; Ctrl-D ends.', file=sys.stderr)
    answer_standard_input(kosmos, options.batch_size, search)


def answer_standard_input(kosmos: "Generator", batch_size: int, search: SearchOptions) -> None:
    """Print a JSON line for each JSON line of standard input."""
    if isinstance(sys.stdin, io.TextIOWrapper):  # JSON is UTF-8, whatever the locale
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="surrogateescape")
    for result in _answer_lines(kosmos, batch_size, search):
        try:
            print(json.dumps(result, ensure_ascii=False), flush=True)
        except UnicodeEncodeError:  # a half of a character, or an output that is not UTF-8
            print(json.dumps(result), flush=True)


def _answer_lines(kosmos: "Generator", batch_size: int, search: SearchOptions) -> Iterator[dict[str, Any]]:
    lines = (pair for pair in enumerate(sys.stdin, start=1) if pair[1].strip())
    while batch := list(itertools.islice(lines, batch_size)):
        records = [_record(number, line) for number, line in batch]
        prompts = [
            kosmos.prompt(record["prompt"], record.get("images", []), f"line {number}")
            for (number, _), record in zip(batch, records, strict=True)
        ]
        for record, generation in zip(records, kosmos.generations(prompts, search), strict=True):
            yield {**record, **_described(generation, search)}


def _described(generation: "Generation", search: SearchOptions) -> dict[str, Any]:
    """The fields of a result."""
    choices = [
        {
            "output": choice.text,
            "score": choice.score,
            "finish_reason": choice.finish_reason,
            **({"logprobs": [_token(token) for token in choice.logprobs]} if choice.logprobs is not None else {}),
        }
        for choice in generation.choices
    ]
    return choices[0] if search.n == 1 else {"outputs": choices}


def _token(token: "TokenLogprob") -> dict[str, Any]:
    """The fields of a token, with the names of OpenAI's."""
    described: dict[str, Any] = {"token": token.text, "logprob": token.logprob, "bytes": list(token.bytes)}
    if token.top_logprobs:
        described["top_logprobs"] = [_token(other) for other in token.top_logprobs]
    return described


def _record(number: int, line: str) -> dict[str, Any]:
    try:
        line.encode()  # fails for bytes that are not UTF-8
        record = json.loads(line, parse_float=_finite, parse_constant=_finite)
        json.dumps(record)  # as it will be printed
    except UnicodeEncodeError:
        raise UserError(f"Standard input, line {number}, is not valid UTF-8.") from None
    except RecursionError:
        raise UserError(f"Standard input, line {number}, is nested too deeply.") from None
    except ValueError as error:
        raise UserError(f"Standard input, line {number}, is not valid JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise UserError(f'Standard input, line {number}: expected {{"prompt": "…", "images": […]}}.')
    images = record.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise UserError(f'Standard input, line {number}: "images" must be a list of paths.')
    return record


def _finite(number: str) -> float:
    """Parse a number. Raises ValueError for those that JSON does not have."""
    if not math.isfinite(value := float(number)):
        raise ValueError(f"the number {number[:50]} is not finite")
    return value


def cli_main(arguments: list[str] | None = None) -> None:
    """Run kosmos-generate."""
    run_command(parser(), run, arguments)


if __name__ == "__main__":
    cli_main()
