"""``fairseq-train --bf16`` trains on TPUs alone.

The parser of fairseq's commands turns ``--bf16`` into ``--tpu``, and the trainer then asks torch_xla for a device
(https://github.com/facebookresearch/fairseq/issues/4696). Everything behind it trains in bf16 on GPUs and CPUs as it
is: ``fairseq-hydra-train common.bf16=true``, which has no such parser, does. Here ``--tpu`` alone asks for a TPU.
"""

import inspect
import sys

from fairseq import options

_parse_args_and_arch = options.parse_args_and_arch


def is_needed() -> bool:
    return "if args.bf16:\n        args.tpu = True" in inspect.getsource(_parse_args_and_arch)


def apply() -> None:
    options.parse_args_and_arch = parse_args_and_arch


def parse_args_and_arch(parser, input_args=None, parse_known=False, *args, **kwargs):
    """fairseq's function of this name."""
    parsed = _parse_args_and_arch(parser, input_args, parse_known, *args, **kwargs)
    namespace = parsed[0] if parse_known else parsed
    namespace.tpu = "--tpu" in (sys.argv[1:] if input_args is None else input_args)
    return parsed
