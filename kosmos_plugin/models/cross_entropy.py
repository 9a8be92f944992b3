"""Cross-entropy over a large vocabulary without the logits of all positions at once.

Logits are made for some targets at a time, and their gradients, which are known at once, with them: no logits are kept
for the backward pass, and none are made twice.
"""

import torch

# Of the float32 logits that exist at a time.
CHUNK_BYTES = 256 * 2**20


def summed_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of nll, float32 [], and without a gradient the nll of each target, float32 [M].

    hidden [M, E], weight [V, E] of the output projection, targets int64 [M]. Products have the dtype of `hidden`, or
    autocast's; softmax, loss and the sum of the weight's gradient over chunks are float32.
    """
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    with torch.autocast(hidden.device.type, enabled=False):
        return _SummedCrossEntropy.apply(hidden, weight, targets, dtype, torch.is_grad_enabled())


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, dtype: torch.dtype, with_gradient: bool):
        cast = weight.to(dtype)
        nll = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        if with_gradient:
            grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        size = max(1, CHUNK_BYTES // (4 * len(weight)))
        for begin in range(0, len(targets), size):
            chunk = slice(begin, begin + size)
            h, target = hidden[chunk].to(dtype), targets[chunk].unsqueeze(1)
            log_probs = torch.log_softmax(h @ cast.T, dim=-1, dtype=torch.float32)
            nll[chunk] = -log_probs.gather(1, target).squeeze(1)
            if with_gradient:
                grad_logits = log_probs.exp_().scatter_add_(1, target, log_probs.new_full(target.shape, -1.0))
                grad_logits = grad_logits.to(dtype)
                grad_hidden[chunk] = grad_logits @ cast
                if dtype == torch.float32:
                    torch.addmm(grad_weight, grad_logits.T, h, out=grad_weight)
                else:
                    grad_weight += grad_logits.T @ h
        if with_gradient:
            ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(nll)
        return nll.sum(), nll

    @staticmethod
    def backward(ctx, grad_sum, _):
        # In place: the weight's is as large as the weight. A second backward pass would be refused, not wrong.
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden.mul_(grad_sum), grad_weight.mul_(grad_sum), None, None, None
