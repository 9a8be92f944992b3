"""Copies between 16 bits and float32 in one call: the same updates as fairseq's own methods, bit for bit."""

import pytest
import torch
from fairseq import optim
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from kosmos_plugin.compat import grouped_copies

METHODS = ("zero_grad", "_sync_fp16_grads_to_fp32", "_sync_fp32_params_to_fp16")
SHAPES = [(3, 4), (5,), (2, 2, 2), (1,)]
WITHOUT_GRADIENT = 2  # number of the parameter that has none in odd steps


@pytest.fixture
def fairseqs(monkeypatch):
    """fairseq's own methods."""
    for name in METHODS:
        monkeypatch.delattr(optim.FP16Optimizer, name)  # those of its base class are found then
        assert getattr(optim.FP16Optimizer, name).__module__ == "fairseq.optim.fp16_optimizer"


def optimizer(dtype: torch.dtype, flat: bool) -> optim.FP16Optimizer:
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]
    cfg = OmegaConf.structured(FairseqConfig(optimizer=FairseqAdamConfig(weight_decay=0.1)))
    half = "bf16" if dtype == torch.bfloat16 else "fp16"
    cfg.common[half], cfg.common.fp16_init_scale, cfg.common.fp16_scale_window = True, 8, 3
    cfg.optimizer.lr = [0.01]
    if not flat:
        copies = optim.FP16Optimizer.build_fp32_params(cfg.optimizer, params, flatten=False)
        return optim.FP16Optimizer(cfg, params, FairseqAdam(cfg.optimizer, copies), copies)
    one = torch.nn.Parameter(torch.cat([param.data.float().view(-1) for param in params]))
    one.grad = torch.zeros_like(one)
    return optim.FP16Optimizer(cfg, params, FairseqAdam(cfg.optimizer, [one]), {None: one})


def steps(trained: optim.FP16Optimizer, count: int = 8) -> list[torch.Tensor]:
    """Updates of two backward passes each; the weights, their copies and the norms of the gradients."""
    norms = []
    for step in range(count):
        trained.zero_grad()
        for half in range(2):
            generator = torch.Generator().manual_seed(2 * step + half)
            used = [p for n, p in enumerate(trained.fp16_params) if n != WITHOUT_GRADIENT or step % 2 == 0]
            trained.backward(sum((p * torch.randn(p.shape, generator=generator).to(p.dtype)).sum() for p in used))
        trained.multiply_grads(0.25)
        norms.append(trained.clip_grad_norm(0.7))
        trained.step()
    copies = trained.fp32_params
    copies = list(copies.values()) if isinstance(copies, dict) else copies
    return [tensor.detach().clone() for tensor in (*trained.fp16_params, *copies, *norms)]


CASES = [(torch.bfloat16, False), (torch.float16, False), (torch.float16, True)]


@pytest.fixture(params=CASES, ids=["bf16", "fp16", "fp16 flat"])
def expected(request, fairseqs):
    return request.param, steps(optimizer(*request.param))


def test_updates_equal_fairseqs_bit_for_bit(expected, monkeypatch):
    case, theirs = expected
    monkeypatch.undo()  # ours again
    assert optim.FP16Optimizer.zero_grad is grouped_copies.zero_grad
    ours = steps(optimizer(*case))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert len(ours) == len(theirs)


class Calls(TorchDispatchMode):
    """Counts the calls of each operation."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("dtype", "flat"), CASES, ids=["bf16", "fp16", "fp16 flat"])
def test_one_call_each_way(dtype, flat):
    trained = optimizer(dtype, flat)
    trained.zero_grad()
    trained.backward(sum(p.sum() for p in trained.fp16_params))
    with Calls() as calls:
        trained.clip_grad_norm(0.0)
        trained._sync_fp32_params_to_fp16()
    assert calls.names.count("aten._foreach_copy_.default") == 2
    assert not [name for name in calls.names if name.startswith(("aten.copy_", "aten._to_copy"))]


@pytest.mark.parametrize(("dtype", "flat"), CASES, ids=["bf16", "fp16", "fp16 flat"])
def test_float32_gradients_are_free_for_activations(dtype, flat):
    trained = optimizer(dtype, flat)
    steps(trained, 1)
    trained.zero_grad()
    assert all(parameter.grad is None for parameter in trained.fp32_optimizer.params)
