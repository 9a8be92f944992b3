"""Whether a training fits the memory of its GPUs: the largest micro-batch, or what to do."""

import dataclasses
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kosmos_plugin.gpus import GPUS, Gpu, gpu_named
from kosmos_plugin.planning.plan import Plan

GIB = 2**30
# Not for tensors: CUDA's context and the buffers of its libraries, and what fragmentation costs.
RESERVED_GIB, FRAGMENTED = 1.5, 0.04
# What takes less memory, the fastest first.
SAVINGS: dict[str, dict[str, Any]] = {
    "--compile": {"model.compile": True},
    "--checkpoint-activations selective": {"model.checkpoint_activations": "selective"},
    "--checkpoint-activations full": {"model.checkpoint_activations": "full"},
    "--memory-efficient-bf16 --optimizer adam --checkpoint-activations full": {
        "common.bf16": True,
        "common.memory_efficient_bf16": True,
        "optimizer._name": "adam",
        "model.checkpoint_activations": "full",
    },
}
# With more than one GPU: what takes least.
DIVIDED_OPTIONS = "--fully-shard --bf16 --optimizer fused_adamw --checkpoint-activations full"
DIVIDED = {
    "task.fully_shard": True,
    "common.bf16": True,
    "common.memory_efficient_bf16": False,
    "optimizer._name": "fused_adamw",
    "model.checkpoint_activations": "full",
}
RANKS = [2**n for n in range(1, 11)]


def usable(gpu: Gpu) -> float:
    """GiB of a GPU that tensors can use."""
    return (gpu.memory - RESERVED_GIB) * (1 - FRAGMENTED)


def largest_micro_batch(plan: Plan, gpu: Gpu) -> int:
    """The most rows of which a micro-batch fits; 0 if not even one does."""
    room = usable(gpu) * GIB
    if plan.peak_memory(1) > room:
        return 0
    per_row = (plan.peak_memory(10_001) - plan.peak_memory(10_000)) or 1
    rows = max(int((room - plan.peak_memory(1)) // per_row), 1)
    while plan.peak_memory(rows + 1) <= room and rows < plan.rows:
        rows += 1
    while plan.peak_memory(rows) > room:
        rows -= 1
    return min(rows, plan.rows)


def fit(plan: Plan) -> str:
    """The note on memory: the peak, whether it fits, and the largest micro-batch or what to change."""
    gpu, rows = gpu_named(plan.assumptions.gpu, "--gpu"), plan.micro_batch_rows
    peak = plan.peak_memory(rows) / GIB
    text = f"  At most {peak:,.1f} GiB at a time; of the {gpu.memory:g} GiB of one {gpu.name} (--gpu), tensors can use "
    text += f"{usable(gpu):,.1f}: "
    most = largest_micro_batch(plan, gpu)
    if most == 0:
        return f"{text}does not fit, not even with one row. {_saving(plan, gpu) or _too_large(plan, gpu)}"
    ranks, steps = plan.command.ranks, plan.command.ranks * plan.update_freq
    if rows > most:
        needed = -(-plan.rows // (most * ranks))
        text += f"does not fit. Micro-batches of up to {most:,} rows do: --update-freq {needed}. {_saving(plan, gpu)}"
        return text.rstrip()
    text += f"fits. Micro-batches of up to {most:,} rows do"
    # Fewer, larger ones into which the same rows go evenly.
    fewer = [n for n in range(ranks, steps, ranks) if steps % n == 0 and -(-plan.rows // n) <= most]
    if fewer:
        large = -(-plan.rows // fewer[0])
        text += f": --update-freq {fewer[0] // ranks} makes them {large:,} rows, with fewer kernels to launch"
    return text + "."


def _saving(plan: Plan, gpu: Gpu) -> str:
    """The first of the savings with which this micro-batch fits."""
    for options, changes in {**SAVINGS, DIVIDED_OPTIONS: DIVIDED}.items():
        changed = _with(plan, changes)
        if largest_micro_batch(changed, gpu) >= plan.micro_batch_rows:
            return f"With {options} it fits, at {changed.peak_memory(plan.micro_batch_rows) / GIB:,.1f} GiB."
    return ""


def _too_large(plan: Plan, gpu: Gpu) -> str:
    """What to do if nothing makes the micro-batch fit."""
    divided = {ranks: _on(_with(plan, DIVIDED), ranks) for ranks in RANKS}
    if enough := next((ranks for ranks, each in divided.items() if largest_micro_batch(each, gpu)), None):
        return f"{enough:,} GPUs hold it together with {DIVIDED_OPTIONS}."
    most = divided[RANKS[-1]]
    larger = [each.name for each in GPUS if largest_micro_batch(most, each)]
    text = f"Nor do {RANKS[-1]:,} GPUs hold it together with {DIVIDED_OPTIONS}: one row takes "
    text += f"{most.peak_memory(1) / GIB:,.1f} GiB; "
    return text + (f"GPUs that have that: {', '.join(larger)}." if larger else "no GPU in its table has that.")


def _on(plan: Plan, ranks: int) -> Plan:
    return dataclasses.replace(plan, command=dataclasses.replace(plan.command, ranks=ranks))


def _with(plan: Plan, changes: dict[str, Any]) -> Plan:
    config = OmegaConf.create(OmegaConf.to_container(plan.command.config, enum_to_str=True))
    assert isinstance(config, DictConfig)
    for name, value in changes.items():
        OmegaConf.update(config, name, value)
    return dataclasses.replace(plan, command=dataclasses.replace(plan.command, config=config))
