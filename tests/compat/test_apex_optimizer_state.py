"""States of Adam with and without apex: each optimizer goes on from the other's, as from its own."""

import copy

import pytest
import torch
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig

from kosmos_plugin.compat.apex_optimizer_state import rewritten
from kosmos_plugin.fairseq_modules.fused_adamw import FusedAdamW, FusedAdamWConfig


def optimizer(kind: str):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in ((4,), (2, 3), (1,))]
    config = (FairseqAdamConfig if kind == "adam" else FusedAdamWConfig)(adam_betas="(0.9, 0.98)")
    config.lr = [0.01]
    return (FairseqAdam if kind == "adam" else FusedAdamW)(config, params)


def train(trained, steps: range) -> list[torch.Tensor]:
    for step in steps:
        for number, parameter in enumerate(list(trained.params)[:2]):  # the third has no gradient, so no state
            generator = torch.Generator().manual_seed(10 * step + number)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        trained.step()
    return [parameter.detach().clone() for parameter in trained.params]


class FusedAdam(torch.optim.Optimizer):
    """apex's, as far as its state goes (apex/optimizers/fused_adam.py)."""

    def __init__(self, params):
        options = {"lr": 0.1, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0}
        super().__init__(params, {**options, "bias_correction": True})


FusedAdam.__module__ = "apex.optimizers.fused_adam"


def as_apex_saves(state: dict) -> dict:
    """The same state with the step in the group, and apex's option."""
    state = copy.deepcopy(state)
    steps = {int(each.pop("step")) for each in state["state"].values()}
    state["param_groups"][0] |= {"bias_correction": True, "step": steps.pop()}
    assert not steps
    return state


@pytest.mark.parametrize("kind", ["adam", "fused_adamw"])
def test_goes_on_from_apexs_state(kind):
    first = optimizer(kind)
    middle = train(first, range(5))
    state = copy.deepcopy(first.state_dict())
    end = train(first, range(5, 9))
    second = optimizer(kind)
    for parameter, value in zip(second.params, middle, strict=True):
        parameter.data.copy_(value)
    second.load_state_dict(as_apex_saves(state), second.optimizer_config)
    assert all(torch.equal(one, other) for one, other in zip(train(second, range(5, 9)), end, strict=True))


@pytest.mark.parametrize("kind", ["adam", "fused_adamw"])
def test_apex_gets_its_own_form(kind):
    trained = optimizer(kind)
    train(trained, range(5))
    apexs = FusedAdam([torch.nn.Parameter(parameter.detach().clone()) for parameter in trained.params])
    state = rewritten(trained.state_dict(), apexs)
    assert state["param_groups"][0]["step"] == 5 and state["param_groups"][0]["bias_correction"] is True
    assert all(each.keys() == {"exp_avg", "exp_avg_sq"} for each in state["state"].values())
    assert rewritten(state, apexs) == state
    apexs.load_state_dict(state)


def test_other_states_stay_as_they_are():
    momentum = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    momentum.param_groups[0]["params"][0].grad = torch.ones(2)
    momentum.step()
    state = momentum.state_dict()
    assert rewritten(state, momentum) is state
