"""Cross-entropy over a large vocabulary without holding the logits of all positions in memory.

Logits are computed in chunks, each together with its gradient, so that no logits are kept for the backward pass or
computed twice.
"""

from typing import Any

import torch

# Size of the float32 logits that exist at any time.
CHUNK_BYTES = 256 * 2**20


def summed_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the negative log-likelihoods (nll) of targets under the logits `hidden @ weight.T`.

    Matrix products run in the dtype of `hidden`, or in autocast's. Softmax, loss and the weight's gradient, which is
    summed over chunks, are float32.

    Args:
        hidden: Hidden states [M, E] at the positions in the loss.
        weight: The output projection [V, E].
        targets: int64 [M].

    Returns:
        The sum of nll, float32 [], and the nll of each target, float32 [M], without a gradient.
    """
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    with torch.autocast(hidden.device.type, enabled=False):
        return _SummedCrossEntropy.apply(hidden, weight, targets, dtype, torch.is_grad_enabled())


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ME: torch.Tensor,
        weight_VE: torch.Tensor,
        targets_M: torch.Tensor,
        dtype: torch.dtype,
        with_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cast_VE = weight_VE.to(dtype)
        nll_M = torch.empty(len(targets_M), dtype=torch.float32, device=hidden_ME.device)
        if with_gradient:
            grad_hidden_ME = torch.empty_like(hidden_ME)
            grad_weight_VE = torch.zeros_like(weight_VE, dtype=torch.float32)
        size = max(1, CHUNK_BYTES // (4 * len(weight_VE)))
        for start in range(0, len(targets_M), size):
            chunk = slice(start, start + size)
            hidden_CE, target_C1 = hidden_ME[chunk].to(dtype), targets_M[chunk].unsqueeze(1)  # C: targets of the chunk
            log_probs_CV = torch.log_softmax(hidden_CE @ cast_VE.T, dim=-1, dtype=torch.float32)
            nll_M[chunk] = -log_probs_CV.gather(1, target_C1).squeeze(1)
            if with_gradient:
                # d nll / d logits = softmax − one-hot
                minus_one_C1 = log_probs_CV.new_full(target_C1.shape, -1.0)
                grad_logits_CV = log_probs_CV.exp_().scatter_add_(1, target_C1, minus_one_C1).to(dtype)
                grad_hidden_ME[chunk] = grad_logits_CV @ cast_VE
                if dtype == torch.float32:
                    torch.addmm(grad_weight_VE, grad_logits_CV.T, hidden_CE, out=grad_weight_VE)
                else:
                    grad_weight_VE += grad_logits_CV.T @ hidden_CE
        if with_gradient:
            ctx.save_for_backward(grad_hidden_ME, grad_weight_VE.to(weight_VE.dtype))
        ctx.mark_non_differentiable(nll_M)
        return nll_M.sum(), nll_M

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place: the weight's gradient is as large as the weight. A second backward pass raises an error.
        grad_hidden_ME, grad_weight_VE = ctx.saved_tensors
        grad_sum, _ = grads
        return grad_hidden_ME.mul_(grad_sum), grad_weight_VE.mul_(grad_sum), None, None, None
