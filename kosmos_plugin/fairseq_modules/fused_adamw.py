"""`--optimizer fused_adamw`: torch's fused AdamW, one kernel for all parameters, on GPUs and CPUs.

fairseq's `adam` computes the same (its weight decay is AdamW's), but without NVIDIA's apex it runs several operations
for each parameter, as does its norm of the gradients; here both take all parameters at once. Moments are float32, as
are the weights that the optimizer sees: the model's, or with --bf16 and --fp16 fairseq's float32 copy. fairseq's
memory-efficient modes keep no such copy and reject this optimizer.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from kosmos_plugin.divided_tensors import whole
from kosmos_plugin.errors import UserError


@dataclass
class FusedAdamWConfig(FairseqDataclass):
    """Options of the optimizer, with the paper's values as defaults."""

    adam_betas: Any = field(default="(0.9, 0.98)", metadata={"help": "decay of the two moments (the paper's)"})
    adam_eps: float = field(default=1e-6, metadata={"help": "ε (the paper's)"})
    weight_decay: float = field(default=0.01, metadata={"help": "decoupled weight decay (the paper's)"})
    lr: list[float] = II("optimization.lr")


@register_optimizer("fused_adamw", dataclass=FusedAdamWConfig)
class FusedAdamW(FairseqOptimizer):
    """torch's AdamW with `fused=True`, as an optimizer of fairseq."""

    supports_memory_efficient_fp16 = False
    supports_flat_params = True

    def __init__(self, cfg: FusedAdamWConfig, params: Iterable[torch.nn.Parameter]):
        super().__init__(cfg)
        self._optimizer = torch.optim.AdamW(params, fused=True, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """The settings of the command line, which replace a checkpoint's when a run resumes."""
        return {
            "lr": self.cfg.lr[0],
            "betas": _pair(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    @torch.no_grad()
    def clip_grad_norm(
        self, max_norm: float, aggregate_norm_fn: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Scale the gradients so that their norm is at most `max_norm`, as `fairseq.utils.clip_grad_norm_` does.

        Args:
            max_norm: The largest norm; 0 to compute the norm only.
            aggregate_norm_fn: From this rank's norm to that over all shards of the model.

        Returns:
            The norm before, on the CPU: the trainer looks at its value up to three times in an update, and each time
            would wait for the GPU. Like fairseq's, it leaves out the experts of a mixture, which differ between ranks.
        """
        with_grad = [parameter for parameter in self.params if parameter.grad is not None]
        norm = get_total_norm([parameter.grad for parameter in with_grad if not hasattr(parameter, "expert")])
        if with_grad:
            norm = whole(norm).to(with_grad[0].device)  # for the aggregation, even if every gradient is an expert's
        if aggregate_norm_fn is not None:
            norm = aggregate_norm_fn(norm)
        if max_norm > 0:
            clip_grads_with_norm_(with_grad, max_norm, norm)
        return norm.cpu()


def _pair(betas: str | Sequence[float]) -> tuple[float, float]:
    """Parse the command line's text, or a YAML's list."""
    try:
        first, second = map(float, betas.strip("()[] ").split(",") if isinstance(betas, str) else betas)
    except (ValueError, TypeError):
        raise UserError(f"--adam-betas must be a pair of numbers such as '(0.9, 0.98)', not {betas!r}.") from None
    return first, second
