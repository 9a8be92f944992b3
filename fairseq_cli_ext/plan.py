"""kosmos-inspect --plan: what a training takes, from its command alone."""

import argparse
import shutil
import sys


def add_options(add) -> None:
    """The options of a plan, by a parser's or a group's `add_argument`."""
    add(
        "--plan",
        metavar="COMMAND",
        help="a script that calls fairseq-train or fairseq-hydra-train (by torchrun or itself), or a Hydra YAML. The "
        "script is run as far as that call, which is read and not made",
    )
    add("--caption-tokens", type=int, default=85, help="average length of a caption with its image (default: 85)")
    add("--page-tokens", type=int, default=1250, help="average length of an interleaved document (default: 1250)")
    add("--page-images", type=int, default=2, help="images of an interleaved document (default: 2; the paper: 1 to 5)")
    add("--instruction-tokens", type=int, default=200, help="average length of an instruction with its answer (200)")
    add("--vocabulary-size", type=int, default=64_007, help="if the vocabulary is not there (default: the paper's)")
    add("--utilization", type=float, default=0.4, help="share of the GPUs' peak that a training reaches (default: 0.4)")
    add("--gpu-tflops", type=float, default=312.0, help="a GPU's peak in TFLOP/s (default: 312, an A100's in bf16)")


def run(args: argparse.Namespace) -> None:
    """Print the plan. Exit status 1 if its file claims to be one of the paper's runs and is not."""
    from kosmos_plugin.planning.command import read_training_command
    from kosmos_plugin.planning.plan import Assumptions, make_plan
    from kosmos_plugin.planning.report import as_text, differences_from_paper

    assumptions = Assumptions(
        caption_tokens=args.caption_tokens,
        page_tokens=args.page_tokens,
        page_images=args.page_images,
        instruction_tokens=args.instruction_tokens,
        vocabulary_size=args.vocabulary_size,
        utilization=args.utilization,
        gpu_tflops=args.gpu_tflops,
    )
    assumptions.check()
    plan = make_plan(read_training_command(args.plan), assumptions)
    found = differences_from_paper(plan)
    print(as_text(plan, found, min(shutil.get_terminal_size((100, 24)).columns, 120)))
    if found:
        number = "one value is" if len(found) == 1 else f"{len(found)} values are"
        print(f"error: {number} not the paper's (the last table).", file=sys.stderr)
        sys.exit(1)
