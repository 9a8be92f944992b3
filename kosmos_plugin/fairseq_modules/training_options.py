"""Options of fairseq that a training refuses: those that this task cannot honour, and checkpoints that do not exist.

fairseq would go on without them: with other batches than were asked for, or from random weights.
"""

import os
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.file_io import PathManager
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError

from kosmos_plugin.data.config import SPLITS, DataConfig
from kosmos_plugin.errors import UserError, did_you_mean
from kosmos_plugin.fairseq_modules import fully_sharded
from kosmos_plugin.fairseq_modules.profiling import UpdateProfiler

_PER_UPDATE = "the data YAML says how many sequences an update takes, and --update-freq into how many batches they go"
_ORDER = "the order of the data depends on --seed alone"

# Option → what holds instead. They have an effect in fairseq's own tasks.
UNUSED = {
    "dataset.required_batch_size_multiple": _PER_UPDATE,
    "dataset.required_seq_len_multiple": "a row has --tokens-per-sample tokens",
    "dataset.skip_invalid_size_inputs_valid_test": "a sequence longer than a row is always skipped and counted",
    "dataset.dataset_impl": "the data YAML says what kind of data each stream has",
    "dataset.data_buffer_size": "--num-workers read ahead",
    "dataset.num_shards": "the ranks divide the data among themselves",
    "dataset.shard_id": "the ranks divide the data among themselves",
    "dataset.curriculum": _ORDER,
    "dataset.grouped_shuffling": _ORDER,
    "dataset.update_epoch_batch_itr": _ORDER,
    "dataset.update_ordered_indices_seed": _ORDER,
    "distributed_training.fix_batches_to_gpus": _ORDER,
    "optimization.sentence_avg": "the loss is the mean over all tokens in the loss",
    "optimization.skip_remainder_batch": "every update is complete",
    "common.use_plasma_view": "binarized text is mapped from the disk",
    "bpe": "the vocabulary's sentencepiece.model splits text into tokens",
    "tokenizer": "the vocabulary's sentencepiece.model splits text into tokens",
}


# Backend of fairseq → why it cannot train this model.
BACKENDS = {
    "fully_sharded": "fairscale joins the weights of a module, which must all be trained or all be frozen, and CLIP's "
    "last layer is trained alone; nor does it train in bf16",
    "slowmo": "the fairscale that TorchScale needs lacks it, and its ranks would take steps of their own",
}

# What a validation logs besides the losses of the streams.
VALIDATION_METRICS = (
    *("loss", "ppl", "packing_efficiency", "targets_per_second", "images_per_second"),
    *("bsz", "wpb", "wps", "num_updates"),  # fairseq's own
)


def check_training_options(task: Any, data: DataConfig | None = None) -> None:
    """Check the options of a training, before its model is built.

    Args:
        task: The task's options, in fairseq's configuration. Without one, as in a script, nothing is checked.
        data: The data YAML.

    Raises:
        UserError: An option cannot be honoured, or names a file that does not exist.
    """
    config = fairseq_config(task)
    if config is not None:
        _check_unused(config)
        _check_optimizer(config)
        _check_ranks(config)
        _check_checkpoints(config)
        if data is not None and not config.dataset.disable_validation:
            _check_best_checkpoint_metric(config, data)
        _check_profile(config)


def starts_from_model(task: Any) -> bool:
    """Whether a training has `--finetune-from-model`: that checkpoint, or later its own, replaces all weights."""
    config = fairseq_config(task)
    return config is not None and config.checkpoint.finetune_from_model is not None


def fairseq_config(task: Any) -> Any:
    """The whole configuration that the task's options are a part of; None if there is none, as in a script."""
    try:
        return OmegaConf.select(task, "..") if OmegaConf.is_config(task) else None
    except ConfigKeyError:
        return None


def _check_unused(config: Any) -> None:
    defaults = OmegaConf.structured(FairseqConfig)
    for key, instead in UNUSED.items():
        value = OmegaConf.select(config, key)
        if value is None or value == OmegaConf.select(defaults, key):
            continue
        name = f"--{key.rpartition('.')[2].replace('_', '-')}"
        given = name if isinstance(value, bool) else f"{name} {getattr(value, '_name', value)}"
        raise UserError(f"{given} has no effect with --task kosmos_multimodal: {instead}. Leave it out.")


def _check_optimizer(config: Any) -> None:
    if OmegaConf.select(config, "optimizer._name") != "fused_adamw":
        return
    for kind in ("fp16", "bf16"):
        if config.common[f"memory_efficient_{kind}"]:
            raise UserError(
                f"--optimizer fused_adamw updates float32 weights, and --memory-efficient-{kind} keeps none: "
                f"use --optimizer adam, or --{kind}."
            )


def _check_ranks(config: Any) -> None:
    options = config.distributed_training
    if options.ddp_backend in BACKENDS:
        raise UserError(
            f"--ddp-backend {options.ddp_backend} cannot train this model: {BACKENDS[options.ddp_backend]}. Leave it "
            "out, or use pytorch_ddp; --fully-shard divides weights and the optimizer's state among the GPUs, "
            "--zero-sharding os the latter alone."
        )
    if config.optimization.use_bmuf:
        raise UserError(
            "--use-bmuf lets ranks take steps of their own, but an update is one of all ranks: leave it out."
        )
    if OmegaConf.select(config, "task.fully_shard"):
        fully_sharded.check(config)
    if options.zero_sharding == "os" and options.distributed_world_size == 1:
        raise UserError(
            "--zero-sharding os divides the optimizer's state among ranks, but there is only one: leave it out."
        )


def _check_best_checkpoint_metric(config: Any, data: DataConfig) -> None:
    """Check that validation logs the metric; fairseq looks for it only then, which may be hours later."""
    subsets = [subset for subset in config.dataset.valid_subset.split(",") if subset in SPLITS]
    streams = [
        stream.name
        for stream in data.streams
        if all(any(corpus.paths(subset) for corpus in stream.corpora) for subset in subsets)
    ]
    known = [*VALIDATION_METRICS, *(f"{kind}_{stream}" for stream in streams for kind in ("loss", "ppl"))]
    name = config.checkpoint.best_checkpoint_metric
    if name not in known:
        raise UserError(
            f"--best-checkpoint-metric {name} is not logged in validation; what is: {', '.join(known)}."
            f"{did_you_mean(name.removeprefix('valid_'), known)}"
        )


def _check_profile(config: Any) -> None:
    updates, end = OmegaConf.select(config, "task.profile_updates"), config.optimization.max_update
    if updates is not None and 0 < end < UpdateProfiler(updates).last:
        raise UserError(f"--profile-updates {updates} goes beyond the end of the training (--max-update {end}).")


def _check_checkpoints(config: Any) -> None:
    """Check that the checkpoint to start from exists. On a first start, `checkpoint_last.pt` need not."""
    options = config.checkpoint
    suffix = options.checkpoint_suffix or ""
    last = os.path.join(options.save_dir, f"checkpoint_last{suffix}.pt")
    named = options.restore_file != "checkpoint_last.pt"
    if named and options.finetune_from_model is not None:
        raise UserError("Give either --restore-file or --finetune-from-model, not both.")
    if options.finetune_from_model is not None:
        for name in ("optimizer", "lr_scheduler", "meters", "dataloader"):
            if options[f"reset_{name}"]:
                raise UserError(
                    f"--finetune-from-model starts a new training on its first start, and goes on with it after "
                    f"that: leave out --reset-{name.replace('_', '-')}."
                )
    if named:
        path = options.restore_file.replace(".pt", f"{suffix}.pt")
        beside = os.path.normpath(os.path.join(options.save_dir, path))
        _require_file("--restore-file", path, f" Did you mean {beside}?" if PathManager.isfile(beside) else "")
    elif os.path.lexists(last):
        _require_file("The checkpoint to go on from", last)  # a folder, or a link to a file that is gone
    elif options.continue_once is not None:
        _require_file("--continue-once", options.continue_once)
    elif options.finetune_from_model is not None:
        _require_file("--finetune-from-model", options.finetune_from_model)
    if config.ema.store_ema and config.ema.ema_seed_model is not None:
        _require_file("--ema-seed-model", config.ema.ema_seed_model)


def _require_file(what: str, path: str, hint: str = "") -> None:
    """Require a file as fairseq reads it: local, or remote if iopath is installed."""
    if not PathManager.isfile(path):
        problem = "is not a file" if PathManager.exists(path) else "does not exist"
        raise UserError(f"{what} {path} {problem}.{hint}")
