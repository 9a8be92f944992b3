"""A micro-batch of a training, made by the same code as in fairseq-train, and the report on it."""

import os

from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.task import KosmosMultimodalTask
from kosmos_plugin.fairseq_modules.task_options import KosmosMultimodalConfig
from kosmos_plugin.inspection import micro_batch, tables
from kosmos_plugin.inspection.options import BatchOptions, MicroBatchOptions


def micro_batch_report(data: str, training: BatchOptions, options: MicroBatchOptions) -> tuple[micro_batch.Report, int]:
    """Make one micro-batch of the training and describe it. No model is built.

    Returns:
        The report, and the number of records and images skipped as broken.

    Raises:
        UserError: The data YAML is wrong, or there is no such micro-batch.
    """
    _check_index("rank", options.rank, "ranks", training.ranks)
    _check_index("accumulation-step", options.accumulation_step, "update-freq", training.update_freq)
    task = _task(data, training)
    task.load_dataset(options.split)
    mixture = task.dataset(options.split)
    if options.split == "valid" and options.update >= len(mixture):
        raise UserError(f"--update must be below {len(mixture)}, the batches of the split valid, not {options.update}.")
    batches = task.get_batch_iterator(mixture, num_shards=training.ranks, shard_id=options.rank).micro_batches
    item = options.update * training.update_freq + options.accumulation_step
    batch = batches[item]

    root = os.path.join(os.path.normpath(os.path.dirname(data) or "."), "")
    names = micro_batch.sample_names(batch, batches.rows(item), root)
    rows = micro_batch.describe(batch, task.vocabulary, task.stream_names, names)
    shown, note = micro_batch.first_rows_of_each_stream(rows, options.rows)
    report = micro_batch.Report(
        title=f"A micro-batch of {data}",
        where=f"{options.split} · update {options.update} (epoch {options.update // len(mixture) + 1}) · rank "
        f"{options.rank} of {training.ranks} · accumulation step {options.accumulation_step} of {training.update_freq} "
        f"· seed {training.seed}",
        tables=[tables.stream_table(mixture), tables.batch_table(rows, task.stream_names, "This micro-batch")],
        rows=shown,
        images=batch["images"],
        note=note,
    )
    return report, task.skips.skipped


def _check_index(name: str, index: int, total: str, number: int) -> None:
    if not 0 <= index < number:
        raise UserError(f"--{name} must be 0 … {number - 1} with --{total} {number}, not {index}.")


def _task(data: str, training: BatchOptions) -> KosmosMultimodalTask:
    config = KosmosMultimodalConfig(
        data=data,
        vocabulary=training.vocabulary,
        image_tokens=training.image_tokens,
        image_size=training.image_size,
        image_fit=training.image_fit,
        image_decoding=training.image_decoding,
        tokens_per_sample=training.tokens_per_sample,
    )
    config.seed, config.update_freq = training.seed, [training.update_freq]
    return KosmosMultimodalTask.setup_task(config)
