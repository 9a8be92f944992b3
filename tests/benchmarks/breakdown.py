"""Where the time of an update goes: the profiler's kernels (on a CPU, its operations) by the part of the update.

A kernel belongs to the first part that has a pattern in its own name or in the name of an operation that it was called
by: `record_function` ranges of fairseq's trainer, autograd functions, operations of torch.
"""

import re
from collections.abc import Callable

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.side_by_side import seconds_of

PARTS = {
    "output matrix and loss": r"crossentropy|cross_entropy|nll_loss|align1",
    "gradient norm and clipping": r"clip-grads|clip_grad|multiply-grads",
    "optimizer, with its copies": r"optimizer|adam",
    "attention": r"attention|flash|fmha|cudnn.*(sdpa|mha)",
    "gathering rows": r"index_select|index_add|index_copy|gather|scatter|aten::index|repeat_interleave",
    "matrices and convolutions": r"\b(add|b|badd)?mm\b|aten::(linear|matmul|convolution)|gemm|nvjet|cutlass|cudnn|conv",
    "LayerNorm, GELU and what is compiled with them": r"layer_?norm|gelu|triton",
}
REST = "additions, fills, copies and all else"
WAITING = "waiting: no kernel runs"


def breakdown(update: Callable[[], object]) -> tuple[float, dict[str, float]]:
    """Profile one call of `update`.

    Returns:
        Seconds of the call without the profiler, and those of each part. On a GPU the parts are of kernels, and what
        the sum of them lacks is waiting.
    """
    seconds = min(seconds_of(update) for _ in range(2))
    gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as profiled:
        seconds_of(update)
    parts = dict.fromkeys([*PARTS, REST], 0.0)
    for event in profiled.events():
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # a kernel is found at the operation that started it
        names = _names(event)
        if gpu:
            for kernel in event.kernels:
                if kernel.name == event.name:  # not a kernel: a `record_function` range as the GPU saw it
                    continue
                parts[part_of([kernel.name, *names])] += kernel.duration / 1e6
        else:
            parts[part_of(names)] += event.self_cpu_time_total / 1e6
    if gpu:
        parts[WAITING] = max(seconds - sum(parts.values()), 0.0)
    return seconds, parts


def part_of(names: list[str]) -> str:
    """The part of a kernel with these names: its own, and those of the operations that it was called by."""
    text = "\n".join(names)
    return next((part for part, pattern in PARTS.items() if re.search(pattern, text, re.IGNORECASE)), REST)


def _names(event: FunctionEvent | None) -> list[str]:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names
