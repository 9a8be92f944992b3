"""`fairseq-train --bf16` trains only on TPUs.

The parser of fairseq's commands sets `--tpu` for `--bf16`, and the trainer then asks torch_xla for a device
(https://github.com/facebookresearch/fairseq/issues/4696). The rest of fairseq trains in bf16 on GPUs and CPUs, as
`fairseq-hydra-train common.bf16=true` does, which does not use that parser. With this patch only `--tpu` means a TPU.
"""

import inspect
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from fairseq import options

_parse_args_and_arch = options.parse_args_and_arch


def is_needed() -> bool:
    """Whether the parser turns --bf16 into --tpu."""
    return "if args.bf16:\n        args.tpu = True" in inspect.getsource(_parse_args_and_arch)


def apply() -> None:
    """Replace `options.parse_args_and_arch`."""
    options.parse_args_and_arch = parse_args_and_arch


def parse_args_and_arch(
    parser: ArgumentParser,
    input_args: Sequence[str] | None = None,
    parse_known: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """fairseq's function of this name."""
    parsed = _parse_args_and_arch(parser, input_args, parse_known, *args, **kwargs)
    namespace = parsed[0] if parse_known else parsed
    namespace.tpu = "--tpu" in (sys.argv[1:] if input_args is None else input_args)
    return parsed
