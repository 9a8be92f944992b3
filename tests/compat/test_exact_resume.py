"""A training that is resumed equals one that was not interrupted, in every precision: weights, optimizer and EMA."""

import copy
from typing import Any

import pytest
import torch
from fairseq import optim, utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from omegaconf import OmegaConf

from kosmos_plugin.compat import exact_resume
from tests import tiny

EMA = ("--store-ema", "--ema-decay", "0.9", "--ema-update-freq", "3")
PRECISIONS = {
    "float32": (),
    "bf16": ("--bf16",),
    "memory-efficient-bf16": ("--memory-efficient-bf16",),
    "bf16-autocast": ("--bf16-autocast",),
    "float32 with EMA": EMA,
    "bf16 with EMA": ("--bf16", *EMA),
    "bf16 with EMA in float32": ("--bf16", *EMA, "--ema-fp32"),
}


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """The paths of all tensors and values of two nested states that are not equal."""
    if torch.is_tensor(one):
        return [] if torch.equal(one, other) and one.dtype == other.dtype else [path]
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        return [found for key in one for found in differences(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list | tuple):
        assert len(one) == len(other), path
        return [found for i, (a, b) in enumerate(zip(one, other, strict=True)) for found in differences(a, b, f"{i}")]
    return [] if one == other else [path]


def training_state(path) -> dict[str, Any]:
    """All of a checkpoint that determines how the training goes on."""
    state = torch.load(path, weights_only=True)
    kept = {name: state[name] for name in ("model", "last_optimizer_state")}
    return kept | {name: value for name, value in state["extra_state"].items() if name.startswith("ema")}


def options(optimizer: str, *more: str) -> tuple[str, ...]:
    always = ("--cpu", "--num-workers", "0", "--dropout", "0.1", "--clip-norm", "1", "--disable-validation")
    return (*always, "--no-epoch-checkpoints", "--optimizer", optimizer, *more)


@pytest.mark.parametrize("optimizer", [pytest.param("adam", marks=pytest.mark.slow), "fused_adamw"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_eight_updates_equal_four_and_four(data, tmp_path, precision, optimizer):
    if precision == "memory-efficient-bf16" and optimizer == "fused_adamw":
        pytest.skip("fused_adamw has no memory-efficient mode")
    given = options(optimizer, *PRECISIONS[precision])
    once = training_state(tiny.train(data, tmp_path / "once", *given, "--max-update", "8"))
    tiny.train(data, tmp_path / "twice", *given, "--max-update", "4")
    twice = training_state(tiny.train(data, tmp_path / "twice", *given, "--max-update", "8"))
    assert differences(once, twice) == []
    assert (exact_resume.WEIGHTS in once["last_optimizer_state"]) == ("--bf16" in given)


def test_a_checkpoint_without_the_copies_loads(data, tmp_path):
    given = options("adam", "--bf16")
    path = tiny.train(data, tmp_path, *given, "--max-update", "2")
    state = torch.load(path, weights_only=True)
    del state["last_optimizer_state"][exact_resume.WEIGHTS]
    torch.save(state, path)
    resumed = torch.load(tiny.train(data, tmp_path, *given, "--max-update", "3"), weights_only=True)
    assert resumed["optimizer_history"][-1]["num_updates"] == 3
    assert exact_resume.WEIGHTS in resumed["last_optimizer_state"]


def test_weights_that_were_changed_in_the_checkpoint_stay_changed(data, tmp_path):
    """As fairseq's scripts/average_checkpoints.py writes them: other weights beside the last optimizer's state."""
    path = tiny.train(data, tmp_path, *options("adam", "--bf16"), "--max-update", "2")
    state = torch.load(path, weights_only=True)
    changed = state["model"]["decoder.layer_norm.weight"]
    changed[5] = 3
    torch.save(state, path)
    tiny.train(data, tmp_path, *options("adam", "--bf16", "--lr", "0"), "--max-update", "3")
    resumed = torch.load(path, weights_only=True)
    assert torch.equal(resumed["model"]["decoder.layer_norm.weight"], changed)
    before, after = (each["last_optimizer_state"][exact_resume.WEIGHTS] for each in (state, resumed))
    assert sum(int((one != other).sum()) for one, other in zip(before, after, strict=True)) == 1


# fairseq's --fp16 needs a GPU. Its optimizers do not: here they train two matrices as its trainer does.

STEP_OF_OVERFLOW = 1


class Fp16Training:
    """A training of two float16 matrices with a loss scaler that grows every three steps."""

    def __init__(self, kind: str, saved: dict[str, Any] | None = None):
        torch.manual_seed(0)
        weights = saved["model"] if saved else [torch.randn(3, 4), torch.randn(5)]
        self.params = [torch.nn.Parameter(weight.half()) for weight in weights]
        cfg = OmegaConf.structured(FairseqConfig(optimizer=FairseqAdamConfig()))
        cfg.common.fp16, cfg.common.fp16_scale_window, cfg.common.fp16_init_scale = True, 3, 8
        cfg.optimizer.lr = [0.01]
        if kind == "memory-efficient":
            adam = FairseqAdam(cfg.optimizer, self.params)
            self.optimizer = optim.MemoryEfficientFP16Optimizer(cfg, self.params, adam)
        elif kind == "flat":  # by fairseq's method this is only possible on a GPU
            flat = torch.nn.Parameter(torch.cat([param.data.float().view(-1) for param in self.params]))
            flat.grad = torch.zeros_like(flat)
            adam = FairseqAdam(cfg.optimizer, [flat])
            self.optimizer = optim.FP16Optimizer(cfg, self.params, adam, {None: flat})
        else:
            copies = optim.FP16Optimizer.build_fp32_params(cfg.optimizer, self.params, flatten=False)
            self.optimizer = optim.FP16Optimizer(cfg, self.params, FairseqAdam(cfg.optimizer, copies), copies)
        if saved:
            self.optimizer.load_state_dict(saved["optimizer"])

    def run(self, steps: range) -> "Fp16Training":
        for step in steps:
            self.optimizer.zero_grad()
            generator = torch.Generator().manual_seed(step)
            loss = sum((p * torch.randn(p.shape, generator=generator).half()).sum() for p in self.params)
            self.optimizer.backward(loss * float("inf") if step == STEP_OF_OVERFLOW else loss)
            try:
                self.optimizer.clip_grad_norm(1.0)
                self.optimizer.step()
            except OverflowError:
                pass  # the trainer goes on with the next batch
        return self

    def state(self) -> dict[str, Any]:
        """What fairseq's checkpoint has of it."""
        state = {"model": [p.data for p in self.params], "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy(utils.move_to_cpu(state))


@pytest.mark.parametrize("kind", ["a copy each", "flat", "memory-efficient"])
def test_fp16_with_an_overflow_and_a_growing_scale(kind):
    once = Fp16Training(kind).run(range(11)).state()
    for steps in range(1, 11):
        saved = Fp16Training(kind).run(range(steps)).state()
        twice = Fp16Training(kind, saved).run(range(steps, 11)).state()
        assert differences(once, twice) == []
    assert once["optimizer"]["loss_scale"] > 8


@pytest.mark.parametrize("kind", ["a copy each", "flat", "memory-efficient"])
def test_plain_fairseq_reads_the_state(kind):
    saved = Fp16Training(kind).run(range(3)).state()
    training = Fp16Training(kind, {**saved, "optimizer": copy.deepcopy(saved["optimizer"])})
    load = (
        exact_resume._memory_efficient_load_state_dict
        if kind == "memory-efficient"
        else exact_resume._fp16_load_state_dict
    )
    load(training.optimizer, saved["optimizer"])
    assert training.optimizer.scaler.loss_scale == saved["optimizer"]["loss_scale"]


def amp_optimizer() -> optim.AMPOptimizer:
    cfg = OmegaConf.structured(FairseqConfig(optimizer=FairseqAdamConfig()))
    cfg.optimizer.lr = [0.01]
    params = [torch.nn.Parameter(torch.ones(3))]
    made = optim.AMPOptimizer(cfg, params, FairseqAdam(cfg.optimizer, params))
    made._grad_scaler = torch.amp.GradScaler("cpu", init_scale=4, growth_interval=2)  # fairseq's needs a GPU
    return made


@pytest.mark.filterwarnings("ignore:.*GradScaler")
def test_the_scale_of_amp():
    first = amp_optimizer()
    for _ in range(3):
        first.backward(next(first.params).sum())
        first.clip_grad_norm(0.0)
        first.step()
    second = amp_optimizer()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.scaler.get_scale() == first.scaler.get_scale() == 8
    assert second.state_dict()["loss_scaler"] == first.state_dict()["loss_scaler"]
