"""`--fully-shard`: each GPU keeps a part of the weights, of their gradients and of the optimizer's state (FSDP2).

torch's `fully_shard` stands in for fairseq's DistributedDataParallel:

    each decoder layer    gathered before its forward and backward pass, and given back after
    the rest              embeddings, resampler, trained layers of the vision encoder: gathered once a micro-batch
    frozen vision layers  whole on every GPU

Every micro-batch sends its gradients to the ranks that have the weights, so that they take no more memory with
--update-freq. Checkpoints are those of a training without the option: rank 0 collects them, and every rank reads its
part of them.
"""

import functools
from typing import Any

import torch
from fairseq import models

from kosmos_plugin.compat.exact_resume import WEIGHTS
from kosmos_plugin.divided_tensors import divided_as, is_divided
from kosmos_plugin.errors import UserError
from kosmos_plugin.models.kosmos import Kosmos

_distributed_fairseq_model = models.DistributedFairseqModel


def check(config: Any) -> None:
    """Check the options of a training with --fully-shard.

    Args:
        config: fairseq's configuration.

    Raises:
        UserError: An option does not go with it.
    """
    if config.optimizer._name != "fused_adamw":
        raise UserError(f"--fully-shard needs --optimizer fused_adamw, not {config.optimizer._name}.")
    refused = {
        "--fp16": (config.common.fp16, "give --bf16 instead"),
        "--amp": (config.common.amp, "give --bf16-autocast instead"),
        "--store-ema": (config.ema.store_ema, "an EMA needs the whole weights"),
        "--zero-sharding": (config.distributed_training.zero_sharding == "os", "the optimizer's state is divided, too"),
    }
    for option, (given, why) in refused.items():
        if given:
            raise UserError(f"{option} does not go with --fully-shard: {why}.")
    if config.distributed_training.distributed_world_size == 1:
        raise UserError("--fully-shard divides the weights among ranks, but there is only one: leave it out.")


def shard(model: Kosmos, config: Any) -> None:
    """Divide a model's weights among all ranks, in place, and leave out fairseq's DistributedDataParallel.

    Args:
        model: The model, with the same weights on every rank.
        config: fairseq's configuration.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kind = "cuda" if torch.cuda.is_available() and not config.common.cpu else "cpu"
    mesh = init_device_mesh(kind, (config.distributed_training.distributed_world_size,))
    vision = model.vision.parameters() if model.vision is not None else ()
    frozen = {weight for weight in vision if not weight.requires_grad}
    divide = functools.partial(fully_shard, mesh=mesh, ignored_params=frozen)
    for layer in model.decoder.layers:
        divide(layer)
    divide(model)
    model.to(torch.device(kind, config.distributed_training.device_id) if kind == "cuda" else kind)  # what is whole
    config.checkpoint.load_checkpoint_on_all_dp_ranks = True
    models.DistributedFairseqModel = _distributed_model


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether `shard` has divided the model."""
    return any(map(is_divided, model.parameters()))


def shard_state(state: dict[str, Any], model: torch.nn.Module) -> None:
    """Divide the weights and the optimizer's state of a checkpoint, in place, as the model is divided."""
    weights = model.state_dict()
    state["model"] = {name: divided_as(tensor, weights.get(name)) for name, tensor in state["model"].items()}
    optimizer = state.get("last_optimizer_state")
    if not optimizer:
        return
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for number, moments in optimizer["state"].items():
        for name, value in moments.items():
            if value.shape == trained[number].shape:  # the count of steps is one number
                moments[name] = divided_as(value, trained[number])
    if WEIGHTS in optimizer:
        optimizer[WEIGHTS] = list(map(divided_as, optimizer[WEIGHTS], trained))


def _distributed_model(args: Any, model: Any, process_group: Any, device: torch.device) -> Any:
    """fairseq's `DistributedFairseqModel`, which wraps a model for its communication; a divided one has it already."""
    return model if is_sharded(model) else _distributed_fairseq_model(args, model, process_group, device)
