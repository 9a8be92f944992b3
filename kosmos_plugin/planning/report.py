"""A plan as text for a terminal, with its differences from the paper."""

import textwrap

from kosmos_plugin.paper.settings import RUNS, Difference, differences
from kosmos_plugin.planning.costs import ADAM, ADAM_MOMENTS, GRADIENT_COPY, moment_bytes
from kosmos_plugin.planning.fit import fit
from kosmos_plugin.planning.plan import Plan
from kosmos_plugin.reporting.tables import Table
from kosmos_plugin.reporting.tables import as_text as table_as_text

MIB, GIB = 2**20, 2**30


def as_text(plan: Plan, found: list[Difference], width: int = 100) -> str:
    """The report on a plan.

    Args:
        plan: The plan.
        found: Its `differences_from_paper`.
        width: Columns of the terminal, to which paragraphs are wrapped.
    """
    sections: list[tuple[Table | str, ...]] = [
        (f"A plan of {plan.command.path}", _summary(plan)),
        (_parameter_table(plan), _parameter_note(plan)),
        (_stream_table(plan), _stream_note(plan)),
        *((table,) for table in _corpus_tables(plan)),
        ("Optimization", _optimization(plan)),
        (_memory_table(plan), _memory_note(plan)),
        (_activations_table(plan), fit(plan)),
        (_host_memory_table(plan), _host_memory_note(plan)),
        (_flops_table(plan), _flops_note(plan)),
    ]
    if claim := plan.command.claim:
        sections.append((_difference_table(claim, found) if found else _agreement(claim),))
    return "\n\n".join("\n".join(_block_as_text(block, width) for block in section) for section in sections)


def differences_from_paper(plan: Plan) -> list[Difference]:
    """Where the plan differs from the paper's run that its file claims to be; none if it claims nothing."""
    return differences(plan.command.claim, plan.figures()) if plan.command.claim else []


def _block_as_text(block: Table | str, width: int) -> str:
    if isinstance(block, Table):
        return table_as_text(block)
    lines = []
    for line in block.splitlines():
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
    return "\n".join(lines)


def _precision(plan: Plan) -> str:
    common = plan.command.config.common
    name = next((name for name in ("bf16", "fp16", "amp") if getattr(common, name)), None)
    if name in ("bf16", "fp16") and (common.memory_efficient_bf16 or common.memory_efficient_fp16):
        name = f"memory-efficient-{name}"
    if plan.command.config.model.bf16_autocast:
        name = f"{name} --bf16-autocast" if name else "bf16-autocast"
    return f"--{name}" if name else "float32"


def _gpus(plan: Plan) -> str:
    return f"{plan.command.ranks:,} GPU{'' if plan.command.ranks == 1 else 's'}"


def _summary(plan: Plan) -> str:
    ranks = f"{_gpus(plan)} ({plan.command.ranks_from}) × --update-freq {plan.update_freq}"
    return f"{plan.command.config.model._name} · {ranks} · {plan.updates:,} updates · {_precision(plan)}"


def _parameter_table(plan: Plan) -> Table:
    lines = [
        (part.name, f"{part.trainable:,}", f"{part.frozen:,}", f"{part.trainable + part.frozen:,}")
        for part in plan.parts
    ]
    lines.append(("all", f"{plan.trainable:,}", f"{plan.frozen:,}", f"{plan.trainable + plan.frozen:,}"))
    return Table("Parameters", ("part", "trainable", "frozen", "all"), lines)


def _parameter_note(plan: Plan) -> str:
    tied = "untied" if plan.command.config.model.untied_embeddings else "tied"
    return (
        f"  A decoder layer has {plan.layer_parameters:,}, the decoder with its {tied} embeddings "
        f"{plan.decoder_parameters:,}. The vocabulary has {plan.vocabulary_size:,} tokens ({plan.vocabulary_from})."
    )


def _stream_table(plan: Plan) -> Table:
    lines = [
        (
            stream.config.name,
            f"{stream.sequences:,}",
            f"{stream.tokens_each:,}",
            f"{stream.images_each:,}",
            f"{stream.tokens:,}",
            f"{stream.images:,}",
            f"{stream.rows:,}",
        )
        for stream in plan.streams
    ]
    sequences = sum(stream.sequences for stream in plan.streams)
    lines.append(("all", f"{sequences:,}", "", "", f"{plan.tokens:,}", f"{plan.images:,}", f"{plan.rows:,}"))
    header = ("stream", "sequences", "tokens each", "images each", "tokens", "images", "rows")
    return Table(f"An update ({plan.data.path})", header, lines)


def _stream_note(plan: Plan) -> str:
    config, micro_batches = plan.command.config, plan.command.ranks * plan.update_freq
    row = config.task.tokens_per_sample
    limits: list[tuple[int, str]] = []
    if config.dataset.batch_size:
        limits.append((config.dataset.batch_size, "--batch-size"))
    if config.dataset.max_tokens is not None:
        limits.append((config.dataset.max_tokens // row, "--max-tokens"))
    most, text = -(-plan.rows // micro_batches), f"  {plan.rows:,} rows of {row:,} tokens"
    if plan.rows < micro_batches:
        text += f" are too few for {micro_batches:,} micro-batches: the training would be refused."
    else:
        text += f": each of {micro_batches:,} micro-batches" if micro_batches > 1 else ": the only micro-batch"
        text += f" has at most {most:,} rows, on average {plan.tokens / micro_batches:,.0f} tokens and"
        text += f" {plan.images / micro_batches:,.0f} images."
    if limits:
        limit, option = min(limits)
        text += f" {option} allows {limit:,} rows" + (": the training would be refused." if most > limit else ".")
    if assumed := ", ".join(dict.fromkeys(filter(None, (stream.assumed for stream in plan.streams)))):
        text += f" Assumed averages: {assumed}; an image takes {config.task.image_tokens} of these tokens."
    tokens = plan.tokens * plan.updates
    whole = f"{tokens / 1e9:,.1f} billion tokens" if tokens > 1e9 else f"{tokens:,} tokens"
    return f"{text}\n  {plan.updates:,} updates: {whole} and {plan.images * plan.updates:,} images."


def _corpus_tables(plan: Plan) -> list[Table]:
    """A table for each stream whose corpora have weights."""
    tables = []
    for stream in plan.streams:
        weights = [(corpus.name, corpus.weight) for corpus in stream.config.corpora if corpus.weight and corpus.train]
        if len(weights) < 2:
            continue
        total = sum(weight for _, weight in weights)
        tokens = stream.tokens * plan.updates / total / 1e6
        lines = [(name, f"{weight:g}", f"{weight / total:.1%}", f"{weight * tokens:,.0f}") for name, weight in weights]
        lines.append(("all", f"{total:.5g}", "100.0%", f"{total * tokens:,.0f}"))
        header = ("corpus", "weight", "share", "million tokens")
        tables.append(Table(f"Corpora of {stream.config.name}, in all updates", header, lines))
    return tables


def _optimization(plan: Plan) -> str:
    config = plan.command.config
    optimizer, schedule, rates = config.optimizer, config.lr_scheduler, config.optimization.lr
    text = f"  {optimizer._name}"
    if optimizer._name in ADAM:
        text += f", β {plan.figures()['optimizer.adam_betas']}, ε {optimizer.adam_eps:g}"
    if "weight_decay" in optimizer:
        text += f", weight decay {optimizer.weight_decay:g}"
    clip = config.optimization.clip_norm
    text += f", {f'gradients clipped at norm {clip:g}' if clip > 0 else 'no gradient clipping'}"
    text += f"\n  learning rate {', '.join(f'{rate:g}' for rate in rates)}, {schedule._name}"
    if "warmup_updates" in schedule:
        text += f" after {schedule.warmup_updates:,} updates of warm-up"
    if schedule._name == "polynomial_decay":
        text += f", power {schedule.power:g}, to {schedule.end_learning_rate:g} at {schedule.total_num_update:,.0f}"
    return text


def _memory_table(plan: Plan) -> Table:
    lines = [
        (item.what, f"{item.count:,}", f"{item.bytes_each:.3g}", f"{item.bytes / GIB:,.2f}") for item in plan.memory
    ]
    lines.append(("all", "", "", f"{sum(item.bytes for item in plan.memory) / GIB:,.2f}"))
    return Table("Memory of each GPU after an update", ("what", "parameters", "bytes each", "GiB"), lines)


def _memory_note(plan: Plan) -> str:
    config, notes = plan.command.config, ["Activations come on top, in place of the copy of the gradients"]
    if not any(item.what == GRADIENT_COPY for item in plan.memory):
        notes = ["Activations come on top"]
    if config.optimizer._name not in ADAM:
        notes.append(f"the state of --optimizer {config.optimizer._name} is not included")
    if saved := _saved_by_sharding(plan):
        notes.append(saved)
    return f"  {'; '.join(notes)}."


def _saved_by_sharding(plan: Plan) -> str:
    """What --zero-sharding os saves, or would save if it makes a difference; "" if it does not."""
    moments = ADAM_MOMENTS * moment_bytes(plan.command.config)
    saved = moments * (plan.trainable - plan.largest_shard) / GIB
    if plan.command.config.distributed_training.zero_sharding == "os":
        return f"--zero-sharding os saves {saved:,.2f} GiB on the GPU with the largest share of the moments"
    return f"--zero-sharding os would save {saved:,.2f} GiB of moments" if saved >= 0.1 else ""


def _activations_table(plan: Plan) -> Table:
    items = plan.activations(plan.micro_batch_rows)
    lines = [
        (item.what, f"{item.count:,} {item.unit}", f"{item.bytes_each:,.3g}", f"{item.bytes / GIB:,.2f}")
        for item in items
    ]
    lines.append(("all", "", "", f"{sum(item.bytes for item in items) / GIB:,.2f}"))
    title = f"Memory of a micro-batch of {plan.micro_batch_rows:,} rows, before its backward pass"
    return Table(title, ("what", "of", "bytes each", "GiB"), lines)


def _host_memory_table(plan: Plan) -> Table:
    items = plan.host_memory
    lines = [
        (item.what, f"{item.count:,} {item.unit}", f"{item.bytes_each / MIB:,.3g}", f"{item.bytes / GIB:,.2f}")
        for item in items
    ]
    lines.append(("all", "", "", f"{sum(item.bytes for item in items) / GIB:,.2f}"))
    return Table("Host memory of each rank", ("what", "of", "MiB each", "GiB"), lines)


def _host_memory_note(plan: Plan) -> str:
    parts = "; ".join(f"{item.what}: {item.bytes / GIB:,.2f}" for item in plan.checkpoint)
    whole = sum(item.bytes for item in plan.checkpoint) / GIB
    built = 4 * (plan.trainable + plan.frozen) / GIB
    return (
        f"  On rank 0 a checkpoint of {whole:,.2f} GiB comes on top while it is written ({parts}). At start each rank "
        f"builds the model in float32 first, {built:,.2f} GiB."
    )


def _flops_table(plan: Plan) -> Table:
    scale, unit = _flop_unit(plan)
    lines = [(item.part, f"{item.flops / scale:,.3f}", item.formula) for item in plan.flops]
    lines.append(("all", f"{sum(item.flops for item in plan.flops) / scale:,.3f}", ""))
    return Table("Floating-point operations of an update, forward and backward", ("part", unit, "formula"), lines)


def _flop_unit(plan: Plan) -> tuple[float, str]:
    total = sum(item.flops for item in plan.flops)
    return next(((scale, unit) for scale, unit in ((1e15, "PFLOP"), (1e12, "TFLOP")) if total >= scale), (1e9, "GFLOP"))


def _flops_note(plan: Plan) -> str:
    assumed, model, (scale, unit) = plan.assumptions, plan.command.config.model, _flop_unit(plan)
    days = plan.gpu_hours / plan.command.ranks / 24
    time = f"{days:,.1f} days" if days >= 2 else f"{24 * days:.3g} hours"
    hours = f"{plan.gpu_hours:,.0f}" if plan.gpu_hours >= 100 else f"{plan.gpu_hours:.3g}"
    update = f"{sum(item.flops for item in plan.flops) / scale:,.2f} {unit}"
    text = "  Text tokens are all tokens but image slots. Padding and dropout are not included"
    if str(model.checkpoint_activations) != "none":
        text += ", nor is the second forward pass of --checkpoint-activations"
    if model.cache_vision_features:
        text += ", nor what --cache-vision-features saves"
    return (
        f"{text}.\n  {update} × {plan.updates:,} updates at {assumed.utilization:.0%} of {assumed.tflops:g} "
        f"TFLOP/s (--utilization, --gpu-tflops): {hours} GPU-hours, {time} on {_gpus(plan)}, "
        f"{plan.seconds_per_update:,.2f} seconds per update."
    )


def _agreement(claim: str) -> str:
    return f"All {len(RUNS[claim])} values of the paper's {claim.replace('_', ' ')} match."


def _difference_table(claim: str, found: list[Difference]) -> Table:
    lines = [
        (f"{item.value.where} ({item.value.source})", item.value.name, _shown(item.value.expected), _shown(item.found))
        for item in found
    ]
    title = f"Differences from the paper's {claim.replace('_', ' ')}"
    return Table(title, ("where", "value", "expected", "found"), lines)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
