"""Low-rank adaptation (LoRA, Hu et al. 2021) of a trained model: `--lora-rank N`, by PEFT.

An adapted linear layer computes W x + (alpha / N) B A x, with A [N, in] and B [out, N]. Only A and B are trained; the
rest of the model is frozen, the vision encoder as a whole. B is zero at first, and the output that of the base.

The state dict of an adapted model holds A and B alone, which makes checkpoints small. `checkpoints.adapter` merges them
into W for all other uses.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from kosmos_plugin.errors import UserError, did_you_mean, missing_package
from kosmos_plugin.models.config import KosmosConfig

if TYPE_CHECKING:
    from kosmos_plugin.models.kosmos import Kosmos

# Ends of the names that PEFT gives A and B; "default" is the adapter's name.
A_SUFFIX, B_SUFFIX = ".lora_A.default.weight", ".lora_B.default.weight"
TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "dense")


def check_lora(config: KosmosConfig) -> None:
    """Raise UserError if options of LoRA contradict each other."""
    if config.lora_rank < 0:
        raise UserError(f"--lora-rank must be at least 0, not {config.lora_rank}.")
    if config.lora_rank == 0:
        if config.lora_base is not None:
            raise UserError(
                "--lora-base goes with --lora-rank N. To train all of a model, give it as --finetune-from-model."
            )
        return
    if config.lora_base is None:
        raise UserError("--lora-rank adapts a trained model: give its checkpoint, --lora-base CHECKPOINT.")
    if config.decoder_weights is not None:
        raise UserError("--decoder-weights has no effect with --lora-base, which holds the whole model. Leave it out.")
    if not 0 <= config.lora_dropout < 1:
        raise UserError(f"--lora-dropout must be at least 0 and less than 1, not {config.lora_dropout:g}.")
    for target in lora_targets(config):
        if target not in TARGETS:
            raise UserError(
                f"--lora-targets {target!r} is unknown: choose among {','.join(TARGETS)}."
                f"{did_you_mean(target, TARGETS)}"
            )


def lora_targets(config: KosmosConfig) -> list[str]:
    """The last parts of the names of the layers to adapt."""
    return [target.strip() for target in config.lora_targets.split(",")]


def lora_alpha(rank: int, alpha: float | None) -> float:
    """The option `--lora-alpha`, or its default."""
    return 2.0 * rank if alpha is None else alpha


def add_adapter(model: "Kosmos") -> None:
    """Adapt the linear layers of `model.config.lora_targets`, and freeze everything else.

    Raises:
        UserError: PEFT is not installed, or the model has no such layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise missing_package("--lora-rank", error, "lora") from None
    config = model.config
    alpha: Any = lora_alpha(config.lora_rank, config.lora_alpha)  # PEFT says int, and takes any number
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=alpha,
        lora_dropout=config.lora_dropout,
        target_modules=lora_targets(config),
        exclude_modules=r"vision\..*" if model.vision is not None else None,
    )
    try:
        inject_adapter_in_model(settings, model)
    except ValueError:  # no layer has such a name
        raise UserError(f"--lora-targets {config.lora_targets}: the model has no such layers.") from None
    model.register_state_dict_post_hook(_leave_out_base)
    model.register_load_state_dict_post_hook(_keep_base)


def is_of_adapter(name: str) -> bool:
    """Whether a weight of this name is an adapter's."""
    return name.endswith((A_SUFFIX, B_SUFFIX))


def _leave_out_base(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any]) -> None:
    for name in [name for name in state if name.startswith(prefix) and not is_of_adapter(name)]:
        del state[name]


def _keep_base(module: nn.Module, incompatible: Any) -> None:
    """Allow a state dict of the adapter alone: the base's weights were loaded before."""
    incompatible.missing_keys[:] = filter(is_of_adapter, incompatible.missing_keys)
