"""The fused optimizer against fairseq's own Adam: by itself, and through fairseq-train."""

import copy
import json

import pytest
import torch
from fairseq import optim, utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from omegaconf import OmegaConf

from kosmos_plugin.errors import UserError
from kosmos_plugin.fairseq_modules.fused_adamw import FusedAdamW, FusedAdamWConfig
from tests import tiny

VALUES = {"adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.1}


def optimizers():
    torch.manual_seed(0)
    shapes = [(3, 4), (5,), (2, 2, 2)]
    for kind, config in ((FairseqAdam, FairseqAdamConfig(**VALUES)), (FusedAdamW, FusedAdamWConfig(**VALUES))):
        config.lr = [0.01]
        torch.manual_seed(1)
        yield kind(config, [torch.nn.Parameter(torch.randn(shape)) for shape in shapes])


def steps(optimizer, begin, end):
    for step in range(begin, end):
        optimizer.set_lr(0.01 / (step + 1))
        for number, parameter in enumerate(optimizer.params):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + number))
        optimizer.step()
    return [parameter.detach().clone() for parameter in optimizer.params]


def test_updates_equal_fairseqs():
    theirs, ours = (steps(optimizer, 0, 20) for optimizer in optimizers())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_continues_from_fairseqs_state():
    theirs, ours = optimizers()
    steps(theirs, 0, 5)
    for one, other in zip(ours.params, theirs.params, strict=True):
        one.data.copy_(other)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()), ours.optimizer_config)
    for one, other in zip(steps(ours, 5, 15), steps(theirs, 5, 15), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def gradients(sizes: list[int], scale: float = 1.0) -> list[torch.nn.Parameter]:
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    for parameter in parameters:
        parameter.grad = scale * torch.randn(parameter.shape)
    return parameters


def fused(parameters: list[torch.nn.Parameter]) -> FusedAdamW:
    config = FusedAdamWConfig()
    config.lr = [0.01]
    return FusedAdamW(config, parameters)


NO_GRADIENT, ONE_EXPERT, NONE_HAS = "one has none", "an expert", "none has one"


@pytest.mark.parametrize("case", ["plain", "one tensor", "huge", NO_GRADIENT, ONE_EXPERT, NONE_HAS])
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e9])
@pytest.mark.parametrize("aggregate", [None, lambda norm: 2 * norm], ids=["", "sharded"])
def test_clipping_equals_fairseqs(case, max_norm, aggregate):
    found = []
    for ours in (True, False):
        torch.manual_seed(0)
        sizes = [70_000] if case == "one tensor" else [1, 64, 70_000, 3]
        parameters = gradients(sizes, 1e15 if case == "huge" else 1.0)
        if case == NO_GRADIENT:
            parameters[1].grad = None
        if case == ONE_EXPERT:
            parameters[2].expert = True
        if case == NONE_HAS:
            for parameter in parameters:
                parameter.grad = None
        if ours:
            norm = fused(parameters).clip_grad_norm(max_norm, aggregate)
        else:
            norm = utils.clip_grad_norm_(parameters, max_norm, aggregate)
        found.append([norm, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
    assert found[0][0].shape == found[1][0].shape == ()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_seen(value):
    parameters = gradients([3, 4])
    parameters[1].grad[2] = value
    assert not torch.isfinite(fused(parameters).clip_grad_norm(1.0))


@pytest.mark.parametrize(("half", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_clipping_under_fairseqs_16_bits_equals_adams(half, dtype):
    """fairseq's FP16Optimizer asks for the norm alone and scales the gradients in its own step."""
    found = []
    for kind, config in ((FairseqAdam, FairseqAdamConfig(**VALUES)), (FusedAdamW, FusedAdamWConfig(**VALUES))):
        torch.manual_seed(0)
        cfg = OmegaConf.structured(FairseqConfig(optimizer=config))
        cfg.common[half], cfg.common.fp16_init_scale, cfg.optimizer.lr = True, 4, [0.01]
        params = [torch.nn.Parameter(torch.randn(size).to(dtype)) for size in (5, 300)]
        slopes = [torch.randn_like(param) for param in params]
        copies = optim.FP16Optimizer.build_fp32_params(cfg.optimizer, params, flatten=False)
        trained = optim.FP16Optimizer(cfg, params, kind(cfg.optimizer, copies), copies)
        trained.zero_grad()
        trained.backward(sum((p * slope).sum() for p, slope in zip(params, slopes, strict=True)))
        norm = trained.clip_grad_norm(0.5)
        trained.step()
        found.append([norm, *(copy.grad for copy in copies)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=1e-6)


def losses(log: str) -> list[float]:
    lines = [line.split("| train_inner | ")[1] for line in log.splitlines() if "| train_inner | " in line]
    return [float(json.loads(line)["loss"]) for line in lines]


@pytest.mark.parametrize("precision", [[], ["--bf16"], ["--bf16-autocast"]], ids=["float32", "bf16", "bf16-autocast"])
def test_trains_as_adam_does(data, tmp_path, caplog, precision):
    found = []
    for optimizer in ("adam", "fused_adamw"):
        caplog.clear()
        options = ["--optimizer", optimizer, "--adam-betas", "(0.9, 0.98)", "--adam-eps", "1e-6", *precision]
        with caplog.at_level("INFO"):
            tiny.train(data, tmp_path / optimizer, *options, "--max-update", "6", "--cpu", "--weight-decay", "0.01")
        found.append(losses("\n".join(f"| {record.name} | {record.getMessage()}" for record in caplog.records)))
    theirs, ours = found
    assert len(ours) == 6 and ours[-1] < ours[0]
    assert ours == pytest.approx(theirs, abs=0.003)


@pytest.mark.parametrize("betas", ["(0.9, 0.98)", "0.9,0.98", [0.9, 0.98], OmegaConf.create([0.9, 0.98])])
def test_betas_of_a_command_line_and_of_a_yaml(betas):
    config = FusedAdamWConfig(adam_betas=betas)
    config.lr = [0.01]
    assert FusedAdamW(config, [torch.nn.Parameter(torch.zeros(1))]).optimizer_config["betas"] == (0.9, 0.98)


@pytest.mark.parametrize("betas", ["0.9", "(a, b)", [0.9], [0.9, 0.98, 1], 0.9])
def test_betas_that_are_not_a_pair_are_one_error(betas):
    config = FusedAdamWConfig(adam_betas=betas)
    config.lr = [0.01]
    with pytest.raises(UserError, match="--adam-betas"):
        FusedAdamW(config, [torch.nn.Parameter(torch.zeros(1))])
