"""Attention in one call for documents of any lengths: dropout, checkpointing, and where it cannot be computed.

On CPUs FlashAttention's operator has `flash_stand_in` in its place; with a GPU it is compared with documents as rows.
"""

import pytest
import torch

from kosmos_plugin.models.attention_plan import AttentionPlan, moved, plan_packed_attention
from kosmos_plugin.models.decoder import KosmosDecoder
from kosmos_plugin.models.varlen_attention import causal_varlen_attention, varlen_obstacle
from tests import tiny

IDS = torch.tensor([[1] * 150 + [2] * 70 + [3] * 30 + [0] * 6, [1] * 200 + [2] * 56])


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(flash, rate):
    """With unit vectors as values the output is the attention weights, of which each is dropped or scaled."""
    torch.manual_seed(0)
    length = 200
    bounds = torch.tensor([0, length], dtype=torch.int32)
    q, k = torch.randn(2, length, 2, length)
    v = torch.eye(length).unsqueeze(1).expand(-1, 2, -1).contiguous()
    plain, dropped = (causal_varlen_attention(q, k, v, bounds, 256, p) for p in (0.0, rate))
    assert flash == [0.0, rate]
    kept, visible = dropped != 0, plain != 0
    torch.testing.assert_close(dropped[kept], plain[kept] / (1 - rate))
    count = int(visible.sum())
    assert 1 - kept.sum().item() / count == pytest.approx(rate, abs=5 * (rate * (1 - rate) / count) ** 0.5)
    assert (dropped.sum(-1) - 1).mean().abs() < 0.02


def decoder(data, **options) -> KosmosDecoder:
    torch.manual_seed(0)
    return KosmosDecoder(tiny.model_config(data, attention_dropout=0.25, **options), 50, padding_idx=1)


def test_layers_drop_in_training_only(data, flash):
    model, plan = decoder(data), plan_packed_attention(IDS, "varlen")
    x = torch.randn(1, IDS.numel(), 32)
    model.train().run(x, plan)
    model.eval().run(x, plan)
    assert flash == [0.25, 0.25, 0.0, 0.0]


@pytest.mark.parametrize(("checkpointing", "calls"), [("none", 2), ("selective", 2), ("full", 4)])
def test_selective_checkpointing_does_not_compute_it_twice(data, flash, checkpointing, calls):
    """A call for each of two layers; gradients, with the same dropout, are those without checkpointing."""
    plan, x = plan_packed_attention(IDS, "varlen"), torch.randn(1, IDS.numel(), 32)
    gradients = []
    for how in ("none", checkpointing):
        model = decoder(data, checkpoint_activations=how).train()
        flash.clear()
        torch.manual_seed(1)
        model.run(x, plan).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.layers.parameters()])
    assert len(flash) == calls
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_operator_takes_what_it_is_given():
    """The names of its arguments, in their order: a release that changes them must not change their meaning."""
    names = [argument.name for argument in torch.ops.aten._flash_attention_forward.default._schema.arguments]
    assert names[:10] == [
        "query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal",
        "return_debug_mask",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        ({"capability": (7, 5)}, "older than NVIDIA's Ampere"),
        ({"half": False}, "--bf16"),
        ({"head_dim": 20}, "multiple of 8"),
        ({"head_dim": 256}, "up to 192"),
        ({"flash": False}, "without FlashAttention"),
    ],
)
def test_where_it_cannot_be_computed(monkeypatch, changed, reason):
    given = {"capability": (8, 0), "half": True, "head_dim": 64, "flash": True, **changed}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: given["capability"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: given["flash"])
    obstacle = varlen_obstacle(given["head_dim"], given["half"])
    assert obstacle is None if reason is None else reason in obstacle


def check_against_documents(device, dtype, width):
    """Results and gradients are those of documents as rows, within the rounding of `dtype`."""
    torch.manual_seed(0)
    q, k, v, weight = (torch.randn(*IDS.shape, 4, width, device=device, dtype=dtype) for _ in range(4))
    weight = weight * (IDS != 0).to(device)[..., None, None]
    inputs = [x.requires_grad_() for x in (q, k, v)]
    results = []
    for kind in ("varlen", "documents"):
        plan = AttentionPlan.from_dict(moved(plan_packed_attention(IDS, kind).to_dict(), torch.device(device)))
        attended = plan.attend(*(plan.pack(x) for x in inputs), 0.0).flatten(2)
        weighted = plan.unpack(attended) * weight.flatten(2)
        results.append([weighted, *torch.autograd.grad(weighted.sum(), inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)


def test_the_stand_in_equals_documents_as_rows(flash):
    check_against_documents("cpu", torch.bfloat16, 64)
    assert flash == [0.0]


gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or varlen_obstacle(64, half_precision=True) is not None, reason="no such GPU"
)


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [64, 96, 128])
def test_the_kernel_equals_documents_as_rows(dtype, width):
    check_against_documents("cuda", dtype, width)


@gpu
def test_dropout_of_the_kernel():
    torch.manual_seed(0)
    length, width = 192, 192
    bounds = torch.tensor([0, length], dtype=torch.int32, device="cuda")
    q, k = torch.randn(2, length, 4, width, device="cuda", dtype=torch.bfloat16)
    v = torch.eye(length, device="cuda", dtype=torch.bfloat16).unsqueeze(1).expand(-1, 4, -1).contiguous()
    plain, dropped = (causal_varlen_attention(q, k, v, bounds, 256, p) for p in (0.0, 0.25))
    kept, visible = dropped != 0, plain != 0
    torch.testing.assert_close(dropped[kept], plain[kept] / 0.75, atol=1e-2, rtol=2e-2)
    assert 1 - (kept & visible).sum().item() / int(visible.sum()) == pytest.approx(0.25, abs=0.02)
