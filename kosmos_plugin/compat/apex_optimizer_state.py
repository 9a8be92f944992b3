"""A checkpoint of fairseq's `adam` with NVIDIA's apex does not resume without apex, nor the other way round.

apex's FusedAdam counts the steps of a group, other Adams those of each parameter, and its groups have options of its
own. fairseq loads either state as it is: the next step ends in a KeyError, or begins to count at one. This patch
rewrites the state for the optimizer that loads it.
"""

from typing import Any

import torch
from fairseq.optim import FairseqOptimizer

_load_state_dict = FairseqOptimizer.load_state_dict

MOMENTS = {"exp_avg", "exp_avg_sq"}


def is_needed() -> bool:
    """Return True: every version of fairseq loads the state as it is."""
    return True


def apply() -> None:
    """Replace `FairseqOptimizer.load_state_dict`."""
    FairseqOptimizer.load_state_dict = load_state_dict


def load_state_dict(
    self: FairseqOptimizer, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None
) -> None:
    """fairseq's method of this name."""
    _load_state_dict(self, rewritten(state_dict, self.optimizer), optimizer_overrides)


def rewritten(state_dict: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an Adam in the form of `optimizer`, or another optimizer's as it is."""
    if len(state_dict["param_groups"]) != len(optimizer.param_groups) or not all(
        state.keys() >= MOMENTS for state in state_dict["state"].values()
    ):
        return state_dict
    in_groups = any(kind.__module__.startswith("apex.") for kind in type(optimizer).__mro__)
    groups, states = [], dict(state_dict["state"])
    for saved, own in zip(state_dict["param_groups"], optimizer.param_groups, strict=True):
        group = {**{name: value for name, value in own.items() if name != "params"}, **saved}
        numbers = [number for number in saved["params"] if number in states]
        steps = [int(states[number]["step"]) for number in numbers if "step" in states[number]]
        step = max(steps, default=saved.get("step"))
        group.pop("step", None)
        if step is not None and in_groups:
            group["step"] = step
        for number in numbers:
            states[number] = {name: value for name, value in states[number].items() if name != "step" or not in_groups}
            if step is not None and not in_groups:
                states[number].setdefault("step", step)
        groups.append(group)
    return {**state_dict, "state": states, "param_groups": groups}
