"""Cross-entropy over a large vocabulary without holding the logits of all positions in memory.

Logits are computed in chunks, each together with its gradient, so that no logits are kept for the backward pass or
computed twice. On GPUs the output matrix is multiplied with its rows padded to a multiple of 64: a vocabulary of 64,007
would leave rows of logits unaligned in memory, for which cuBLAS has only kernels that are several times slower.
"""

from typing import Any

import torch
import torch.nn.functional as F

# Size of the float32 logits that exist at any time.
CHUNK_BYTES = 256 * 2**20
# On GPUs it is larger, as each chunk adds to the whole float32 gradient of the matrix (1.6 GB of traffic for kosmos_1).
# Rows of the matrix and targets of a chunk fill whole tiles of the matrix kernels.
GPU_CHUNK_BYTES = 512 * 2**20
GPU_ROW_MULTIPLE, GPU_CHUNK_MULTIPLE = 64, 128


def summed_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    num_targets: int | None = None,
    row_multiple: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the negative log-likelihoods (nll) of targets under the logits `hidden @ weight.T`.

    Matrix products run in the dtype of `hidden`, or in autocast's. Softmax, loss and the weight's gradient, which is
    summed over chunks, are float32.

    Args:
        hidden: Hidden states [M, E] at the positions in the loss.
        weight: The output projection [V, E].
        targets: int64 [M].
        num_targets: The first ones count; the others are padding, with weight zero. None: all count.
        row_multiple: The matrix is multiplied with its rows padded to a multiple of this. None: 64 on GPUs, 1 on CPUs.

    Returns:
        The sum of nll, float32 [], and the nll of each target, float32 [M], without a gradient; zero for padding.
    """
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    if row_multiple is None:
        row_multiple = GPU_ROW_MULTIPLE if hidden.device.type == "cuda" else 1
    with torch.autocast(hidden.device.type, enabled=False):
        count = len(targets) if num_targets is None else num_targets
        return _SummedCrossEntropy.apply(hidden, weight, targets, count, dtype, row_multiple, torch.is_grad_enabled())


def _chunk_size(rows: int, device: torch.device) -> int:
    """Targets of a chunk, for a matrix of `rows` rows."""
    if device.type != "cuda":
        return max(1, CHUNK_BYTES // (4 * rows))
    size = GPU_CHUNK_BYTES // (4 * rows)
    return max(GPU_CHUNK_MULTIPLE, size // GPU_CHUNK_MULTIPLE * GPU_CHUNK_MULTIPLE)


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ME: torch.Tensor,
        weight_VE: torch.Tensor,
        targets_M: torch.Tensor,
        num_targets: int,
        dtype: torch.dtype,
        row_multiple: int,
        with_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        words = len(weight_VE)
        weight_is_trained = with_gradient and ctx.needs_input_grad[1]
        cast_VE = weight_VE.to(dtype)  # from here on V counts the padding
        if padding := -words % row_multiple:
            cast_VE = F.pad(cast_VE, (0, 0, 0, padding))
        nll_M = torch.empty(len(targets_M), dtype=torch.float32, device=hidden_ME.device)
        if with_gradient:
            grad_hidden_ME = torch.empty_like(hidden_ME)
        if weight_is_trained:
            grad_weight_VE = torch.zeros_like(cast_VE, dtype=torch.float32)
        size = _chunk_size(len(cast_VE), hidden_ME.device)
        for start in range(0, len(targets_M), size):
            chunk = slice(start, start + size)
            hidden_CE, target_C1 = hidden_ME[chunk].to(dtype), targets_M[chunk].unsqueeze(1)  # C: targets of the chunk
            logits_CV = hidden_CE @ cast_VE.T
            if padding:
                logits_CV[:, words:] = -torch.inf  # no probability, and so no gradient
            log_probs_CV = torch.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
            del logits_CV
            nll_M[chunk] = -log_probs_CV.gather(1, target_C1).squeeze(1)
            if with_gradient:
                # d nll / d logits = softmax − one-hot
                minus_one_C1 = log_probs_CV.new_full(target_C1.shape, -1.0)
                grad_logits_CV = log_probs_CV.exp_().scatter_add_(1, target_C1, minus_one_C1).to(dtype)
                if num_targets < start + len(grad_logits_CV):
                    grad_logits_CV[max(num_targets - start, 0) :] = 0
                grad_hidden_ME[chunk] = grad_logits_CV @ cast_VE
                if weight_is_trained and dtype == torch.float32:
                    torch.addmm(grad_weight_VE, grad_logits_CV.T, hidden_CE, out=grad_weight_VE)
                elif weight_is_trained:
                    grad_weight_VE += grad_logits_CV.T @ hidden_CE
        nll_M[num_targets:] = 0
        if with_gradient:
            grads = [grad_weight_VE[:words].to(weight_VE.dtype)] if weight_is_trained else []
            ctx.save_for_backward(grad_hidden_ME, *grads)
        ctx.mark_non_differentiable(nll_M)
        return nll_M.sum(), nll_M

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place: the weight's gradient is as large as the weight. A second backward pass raises an error.
        grad_hidden_ME, *of_weight = ctx.saved_tensors  # none for a frozen weight
        grad_sum, _ = grads
        grad_weight_VE = of_weight[0].mul_(grad_sum) if of_weight else None
        return grad_hidden_ME.mul_(grad_sum), grad_weight_VE, None, None, None, None, None
