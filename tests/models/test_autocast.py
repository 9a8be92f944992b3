"""`--bf16-autocast`: matrix products in bfloat16; weights, gradients and sums in float32."""

import torch

from kosmos_plugin.fairseq_modules.criterion import MultimodalCrossEntropyCriterion
from tests import tiny


def gradients(task, batch, precision):
    model = tiny.model(task, dropout=0.0, attention_dropout=0.0, bf16_autocast=precision == "autocast").train()
    criterion = MultimodalCrossEntropyCriterion(task)
    if precision == "bfloat16":
        model.bfloat16()
    for _ in range(8):  # like --update-freq 8
        loss, _, log = criterion(model, batch)
        loss.backward()
    return log["loss"], {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_accumulate_in_float32(data):
    task = tiny.task(data)
    batch = tiny.batch(task)
    loss, exact = gradients(task, batch, "float32")
    autocast_loss, autocast = gradients(task, batch, "autocast")
    _, bfloat16 = gradients(task, batch, "bfloat16")
    assert 0 < abs(autocast_loss - loss) / loss < 0.01
    errors = {}
    for name, gradient in exact.items():
        assert autocast[name].dtype == torch.float32
        errors[name] = [((other[name] - gradient).norm() / gradient.norm()).item() for other in (autocast, bfloat16)]
    ours, cast = torch.tensor(list(errors.values())).median(dim=0).values
    assert ours < 0.02 and ours < cast
