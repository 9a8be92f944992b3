"""With --bf16 and --fp16 fairseq copies each gradient and each weight by itself between 16 bits and float32.

On a GPU that is a kernel launch for each of about 500 parameters, each way and once more to zero the float32 gradients.
This patch copies all of them in one call each way, with equal results. It frees the float32 gradients instead of
zeroing them: they are written after an update's last backward pass, and until then activations can use their memory.
"""

from collections.abc import Iterator

import torch
from fairseq import optim

from kosmos_plugin.divided_tensors import own_part


def is_needed() -> bool:
    """Return True: every version of fairseq copies one by one."""
    return True


def apply() -> None:
    """Replace the methods of `FP16Optimizer`, the optimizer of --bf16 and --fp16, that copy and zero."""
    optim.FP16Optimizer._sync_fp16_grads_to_fp32 = sync_fp16_grads_to_fp32
    optim.FP16Optimizer._sync_fp32_params_to_fp16 = sync_fp32_params_to_fp16
    optim.FP16Optimizer.zero_grad = zero_grad


def zero_grad(self: optim.FP16Optimizer) -> None:
    """Forget the gradients in 16 bits and in float32."""
    for parameter in (*self.fp16_params, *_float32_params(self)):
        parameter.grad = None
    self._needs_sync = False
    if self.scaler is not None:
        self._multiply_factor = 1.0 / float(self.scaler.loss_scale)


@torch.no_grad()
def sync_fp16_grads_to_fp32(self: optim.FP16Optimizer) -> None:
    """Copy the 16-bit gradients to float32 after a backward pass; zeros for parameters without one."""
    if not self._needs_sync:
        return
    for copy in _float32_params(self):
        if copy.grad is None:
            copy.grad = torch.empty_like(copy)
    targets, sources = [], []
    for parameter, grad in _paired(self, "grad"):
        if parameter.grad is None:
            grad.zero_()
        else:
            targets.append(own_part(grad))  # `_foreach_copy_` is not defined for divided tensors
            sources.append(own_part(parameter.grad))
    if sources:
        torch._foreach_copy_(targets, sources)
    self._needs_sync = False


@torch.no_grad()
def sync_fp32_params_to_fp16(self: optim.FP16Optimizer) -> None:
    """Round the updated float32 weights to the model's 16 bits."""
    parameters, copies = zip(*_paired(self, "data"), strict=True)
    torch._foreach_copy_([own_part(parameter.data) for parameter in parameters], list(map(own_part, copies)))


def _float32_params(optimizer: optim.FP16Optimizer) -> list[torch.nn.Parameter]:
    """A copy of each parameter; with flattened gradients, --fp16's default, one of all parameters of a device."""
    params = optimizer.fp32_params
    return list(params.values()) if isinstance(params, dict) else params


def _paired(optimizer: optim.FP16Optimizer, name: str) -> Iterator[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Each 16-bit parameter with the attribute `name` ("grad" or "data") of its float32 copy, in its shape."""
    params = optimizer.fp32_params
    if not isinstance(params, dict):
        for parameter, copy in zip(optimizer.fp16_params, params, strict=True):
            yield parameter, getattr(copy, name)
        return
    for device, flat in params.items():
        there = [parameter for parameter in optimizer.fp16_params if parameter.device.index == device]
        parts = getattr(flat, name).split([parameter.numel() for parameter in there])
        for parameter, part in zip(there, parts, strict=True):
            yield parameter, part.view_as(parameter)
