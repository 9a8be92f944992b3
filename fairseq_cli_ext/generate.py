"""kosmos-generate: continue prompts of text and images with a trained model.

    kosmos-generate --path CHECKPOINT --prompt "<image> Question: what is this? Answer:" --image cat.png
    kosmos-generate --path CHECKPOINT < prompts.jsonl     # a line each: {"prompt": "<image> …", "images": ["cat.png"]}

Each result is a line of JSON on standard output for JSONL, or plain text for --prompt.
"""

import argparse
import itertools
import json
import sys

from fairseq_cli_ext import main_of_command, require_positive


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kosmos-generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", required=True, help="checkpoint of fairseq-train")
    parser.add_argument("--data", help="the data YAML, if it is not where it was in training")
    parser.add_argument("--vocabulary", help="folder of sentencepiece.model and dict.txt, instead of a data YAML")
    parser.add_argument("--prompt", help="text with <image> where an image stands (default: JSONL on standard input)")
    parser.add_argument("--image", action="append", default=[], help="an image of --prompt; once for each <image>")
    parser.add_argument("--beam", type=int, default=1, help="beams (1: greedy)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="most tokens to generate")
    parser.add_argument("--length-penalty", type=float, default=1.0, help="exponent of the length in a beam's score")
    parser.add_argument("--stop", action="append", default=[], help="text at which to stop; may be given several times")
    parser.add_argument("--batch-size", type=int, default=16, help="prompts of standard input at a time")
    return parser


def run(arguments: list[str] | None) -> None:
    args = parser().parse_args(arguments)
    from kosmos_plugin.errors import UserError
    from kosmos_plugin.generation.beam_search import SearchOptions, generated_text
    from kosmos_plugin.generation.generator import load

    require_positive(args, ("beam", "max_new_tokens", "batch_size"))
    if args.prompt is None and args.image:
        raise UserError("--image goes with --prompt; JSONL names its images itself.")
    kosmos = load(args.path, args.data, args.vocabulary)
    options = SearchOptions(args.beam, args.max_new_tokens, args.length_penalty, tuple(args.stop))
    if args.prompt is not None:
        hypothesis = kosmos.search([kosmos.prompt(args.prompt, args.image, "--prompt")], options)[0]
        print(generated_text(kosmos.vocabulary, hypothesis, options.stop))
        return
    lines = (pair for pair in enumerate(sys.stdin, start=1) if pair[1].strip())
    while batch := list(itertools.islice(lines, args.batch_size)):
        records = [_record(number, line) for number, line in batch]
        prompts = [
            kosmos.prompt(record["prompt"], record.get("images", []), f"line {number}")
            for (number, _), record in zip(batch, records, strict=True)
        ]
        for record, hypothesis in zip(records, kosmos.search(prompts, options), strict=True):
            output = generated_text(kosmos.vocabulary, hypothesis, options.stop)
            result = {**record, "output": output, "score": hypothesis.score}
            print(json.dumps(result, ensure_ascii=False), flush=True)


def _record(number: int, line: str) -> dict:
    from kosmos_plugin.errors import UserError

    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"Standard input, line {number}, is no JSON: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
        raise UserError(f'Standard input, line {number}: {{"prompt": "…", "images": […]}} is expected.')
    images = record.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise UserError(f'Standard input, line {number}: "images" must be a list of paths.')
    return record


def cli_main(arguments: list[str] | None = None) -> None:
    main_of_command(run, arguments)


if __name__ == "__main__":
    cli_main()
