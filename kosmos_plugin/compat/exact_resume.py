"""A training in 16 bits that is resumed differs from an uninterrupted one: fairseq saves only a part of its state.

With --fp16 and --bf16 fairseq's optimizer updates float32 copies of the weights. Checkpoints hold the 16-bit weights
alone, so each restart rounds every weight. Of the loss scaler of --fp16 they hold the scale, but not when it changed
last; of --amp's they hold nothing; and --ema-update-freq counts from zero again.

This patch saves the copies and the scaler's state with the optimizer's state, and restores them if a checkpoint has
them. Plain fairseq ignores the additional entries. They are as large as the weights are in float32.
"""

from typing import Any

import torch
from fairseq import optim
from fairseq.models.ema.ema import EMA
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler

WEIGHTS = "float32_weights"  # list of tensors, in the order of the optimizer's state
SCALER = "loss_scaler"  # attributes of DynamicLossScaler, or the state of torch's GradScaler

_SCALER_ATTRIBUTES = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")

_fp16_state_dict = optim.FP16Optimizer.state_dict
_fp16_load_state_dict = optim.FP16Optimizer.load_state_dict
_memory_efficient_state_dict = optim.MemoryEfficientFP16Optimizer.state_dict
_memory_efficient_load_state_dict = optim.MemoryEfficientFP16Optimizer.load_state_dict
_amp_state_dict = optim.AMPOptimizer.state_dict
_amp_load_state_dict = optim.AMPOptimizer.load_state_dict
_ema_step = EMA.step

Overrides = dict[str, Any] | None


def is_needed() -> bool:
    """Return True: no version of fairseq saves all of its state."""
    return True


def apply() -> None:
    """Replace `state_dict` and `load_state_dict` of fairseq's 16-bit optimizers, and `EMA.step`."""
    optim.FP16Optimizer.state_dict = fp16_state_dict
    optim.FP16Optimizer.load_state_dict = fp16_load_state_dict
    optim.MemoryEfficientFP16Optimizer.state_dict = memory_efficient_state_dict
    optim.MemoryEfficientFP16Optimizer.load_state_dict = memory_efficient_load_state_dict
    optim.AMPOptimizer.state_dict = amp_state_dict
    optim.AMPOptimizer.load_state_dict = amp_load_state_dict
    EMA.step = ema_step


def fp16_state_dict(self: optim.FP16Optimizer) -> dict[str, Any]:
    """The state of the optimizer of --fp16 and --bf16."""
    copies = [copy.data for copy in _float32_copies(self)]
    return {**_fp16_state_dict(self), WEIGHTS: copies, **_scaler_state(self.scaler)}


def fp16_load_state_dict(
    self: optim.FP16Optimizer, state_dict: dict[str, Any], optimizer_overrides: Overrides = None
) -> None:
    """Load a state into an optimizer that was just built from the checkpoint's weights, as the trainer does.

    A weight that was changed in the checkpoint later, e.g. by averaging several, is not its float32 copy rounded to 16
    bits. It stays as it is in the checkpoint.
    """
    _fp16_load_state_dict(self, state_dict, optimizer_overrides)
    if WEIGHTS in state_dict:
        dtype = self.fp16_params[0].dtype
        for copy, saved in zip(_float32_copies(self), state_dict[WEIGHTS], strict=True):
            saved = saved.to(copy.device)
            copy.data.copy_(torch.where(saved.to(dtype) == copy.data.to(dtype), saved, copy.data))
    _load_scaler_state(self.scaler, state_dict)


def _float32_copies(optimizer: optim.FP16Optimizer) -> list[torch.Tensor]:
    """One tensor for each weight; with flattened gradients, the default of --fp16, one for each device."""
    copies = optimizer.fp32_params
    return list(copies.values()) if isinstance(copies, dict) else copies


def memory_efficient_state_dict(self: optim.MemoryEfficientFP16Optimizer) -> dict[str, Any]:
    """The state of the optimizer of --memory-efficient-fp16 and -bf16, which has no float32 copies."""
    return {**_memory_efficient_state_dict(self), **_scaler_state(self.scaler)}


def memory_efficient_load_state_dict(
    self: optim.MemoryEfficientFP16Optimizer, state_dict: dict[str, Any], optimizer_overrides: Overrides = None
) -> None:
    """Load the state of the optimizer of --memory-efficient-fp16 and -bf16."""
    _memory_efficient_load_state_dict(self, state_dict, optimizer_overrides)
    _load_scaler_state(self.scaler, state_dict)


def _scaler_state(scaler: DynamicLossScaler | None) -> dict[str, Any]:
    return {} if scaler is None else {SCALER: {name: getattr(scaler, name) for name in _SCALER_ATTRIBUTES}}


def _load_scaler_state(scaler: DynamicLossScaler | None, state_dict: dict[str, Any]) -> None:
    if scaler is not None:
        for name, value in state_dict.get(SCALER, {}).items():
            setattr(scaler, name, value)


def amp_state_dict(self: optim.AMPOptimizer) -> dict[str, Any]:
    """The state of the optimizer of --amp."""
    return {**_amp_state_dict(self), SCALER: self.scaler.state_dict()}


def amp_load_state_dict(
    self: optim.AMPOptimizer, state_dict: dict[str, Any], optimizer_overrides: Overrides = None
) -> None:
    """Load the state of the optimizer of --amp."""
    _amp_load_state_dict(self, state_dict, optimizer_overrides)
    if state := state_dict.get(SCALER):  # empty without a GPU, where the scaler does nothing
        self.scaler.load_state_dict(state)


def ema_step(self: EMA, new_model: torch.nn.Module, updates: int | None = None) -> None:
    """fairseq's method of this name; `updates` counts from the start of the training, resumed or not."""
    if updates is not None:
        self.update_freq_counter = (updates - 1) % self.config.ema_update_freq
    _ema_step(self, new_model, updates)
