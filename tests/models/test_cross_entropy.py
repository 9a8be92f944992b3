"""Chunked cross-entropy against torch's on all logits at a time."""

import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kosmos_plugin.models import cross_entropy
from kosmos_plugin.models.cross_entropy import summed_cross_entropy


def plain(hidden, weight, targets):
    logits = hidden @ weight.T
    nll = F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), targets, reduction="none")
    return nll.sum(), nll


def run(function, hidden, weight, targets, scale=1.0):
    """Loss, nll of each target, and the gradients of hidden states and weight."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    loss, nll = function(hidden, weight, targets)
    (scale * loss).backward()
    return loss.detach(), nll.detach(), hidden.grad, weight.grad


def inputs(count, vocabulary, width=16, dtype=torch.float32, spread=1.0):
    generator = torch.Generator().manual_seed(count + vocabulary)
    hidden, weight = (torch.randn(n, width, generator=generator).mul(spread).to(dtype) for n in (count, vocabulary))
    return hidden, weight, torch.randint(vocabulary, (count,), generator=generator)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(0, 40),
    vocabulary=st.integers(1, 70),
    rows_at_once=st.integers(1, 50),
    scale=st.sampled_from([1.0, 0.25, 1024.0]),
    spread=st.sampled_from([0.1, 1.0, 10.0]),
    row_multiple=st.sampled_from([1, 8, 64]),
)
@example(count=20, vocabulary=20, rows_at_once=1, scale=1.0, spread=10.0, row_multiple=1)
def test_equals_the_plain_computation(count, vocabulary, rows_at_once, scale, spread, row_multiple):
    tensors = inputs(count, vocabulary, spread=spread)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "CHUNK_BYTES", rows_at_once * 4 * vocabulary)
        ours = run(functools.partial(summed_cross_entropy, row_multiple=row_multiple), *tensors, scale)
    hidden, weight, targets = tensors
    exact = run(plain, hidden.double(), weight.double(), targets, scale)
    for one, other, right in zip(ours, run(plain, *tensors, scale), exact, strict=True):
        # Plain float32 is wrong by more than that where logits are in the hundreds.
        error = (other - right).abs().max().item() if other.numel() else 0.0
        torch.testing.assert_close(one.double(), right, atol=1e-5 * scale * spread**2 + error, rtol=1e-5)


class Shapes(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the sizes of the matrices that are multiplied."""

    def __init__(self):
        super().__init__()
        self.multiplied = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.out):
            self.multiplied.append([size for x in args[-2:] for size in x.shape])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_output_matrix_is_multiplied_at_a_multiple_of_64_rows(dtype):
    """With a vocabulary of 997, every product on a GPU has 1,024; loss and gradients are those of 997."""
    hidden, weight, targets = inputs(30, 997, dtype=dtype)
    hidden[3] += 40 * hidden[3].sign()  # all logits of the vocabulary far below zero, the padding's logit
    weight -= 40 * hidden[3] / hidden[3].norm() ** 2
    with Shapes() as shapes:
        padded = run(functools.partial(summed_cross_entropy, row_multiple=64), hidden, weight, targets)
    assert len(shapes.multiplied) == 3 and all(1024 in sizes and 997 not in sizes for sizes in shapes.multiplied)
    assert padded[3].shape == weight.shape
    for one, other in zip(padded, run(summed_cross_entropy, hidden, weight, targets), strict=True):
        torch.testing.assert_close(one, other)


def test_gpus_pad_and_cpus_do_not():
    from torch._subclasses.fake_tensor import FakeTensorMode

    for device, rows in (("cuda", 1024), ("cpu", 997)):
        with FakeTensorMode(), Shapes() as shapes:
            hidden = torch.empty(30, 16, device=device, dtype=torch.bfloat16, requires_grad=True)
            weight = torch.empty(997, 16, device=device, dtype=torch.bfloat16, requires_grad=True)
            summed_cross_entropy(hidden, weight, torch.zeros(30, dtype=torch.int64, device=device))
        assert len(shapes.multiplied) == 3 and all(rows in sizes for sizes in shapes.multiplied)


def test_chunks_on_gpus_are_whole_tiles():
    gpu = torch.device("cuda")
    assert cross_entropy._chunk_size(64_064, gpu) == 2048
    assert cross_entropy._chunk_size(10**8, gpu) == 128
    assert cross_entropy._chunk_size(64_007, torch.device("cpu")) == 1048


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 40), padding=st.integers(0, 40), rows_at_once=st.integers(1, 50))
def test_padding_has_no_weight(count, padding, rows_at_once):
    """Targets after the first `count` change neither loss nor gradients, and have none."""
    hidden, weight, targets = inputs(count + padding, 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "CHUNK_BYTES", rows_at_once * 4 * 30)
        loss, nll, grad_hidden, grad_weight = run(
            functools.partial(summed_cross_entropy, num_targets=count), hidden, weight, targets, 0.5
        )
    expected = run(plain, hidden[:count], weight, targets[:count], 0.5)
    found = (loss, nll[:count], grad_hidden[:count], grad_weight)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert not nll[count:].any() and not grad_hidden[count:].any()


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_as_near_to_float32_as_the_plain_computation(autocast, monkeypatch):
    vocabulary = 997
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", 40 * 4 * vocabulary)
    dtype = torch.float32 if autocast else torch.bfloat16
    tensors = inputs(300, vocabulary, width=64, dtype=dtype, spread=0.5)
    exact = run(plain, *(x.float() for x in tensors[:2]), tensors[2])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, theirs = run(summed_cross_entropy, *tensors), run(plain, *tensors)
    for name, one, other, right in zip(("loss", "nll", "hidden", "weight"), ours, theirs, exact, strict=True):
        assert one.dtype == (torch.float32 if autocast or name in ("loss", "nll") else torch.bfloat16)
        error, bound = ((x.float() - right).norm() / right.norm() for x in (one, other))
        assert error <= 1.5 * bound + 1e-6 < 0.02, name


def test_only_a_chunk_of_logits_exists_at_a_time():
    """The largest tensor is as large as a chunk of logits, or as the weight."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    hidden, weight, targets = inputs(200, 4000, width=8)
    with pytest.MonkeyPatch.context() as patch, Watch():
        patch.setattr(cross_entropy, "CHUNK_BYTES", 10 * 4 * 4000)
        run(summed_cross_entropy, hidden, weight, targets)
    assert largest <= 10 * 4000


def test_no_gradients_are_computed_under_no_grad():
    hidden, weight, targets = inputs(10, 20)
    with torch.no_grad():
        loss, nll = summed_cross_entropy(hidden.requires_grad_(), weight.requires_grad_(), targets)
    assert not loss.requires_grad
    torch.testing.assert_close(nll, plain(hidden, weight, targets)[1].detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_weight_costs_nothing(dtype):
    """Neither a product nor memory, and the hidden states have the same gradient."""
    hidden, weight, targets = inputs(30, 997, dtype=dtype)
    trained = run(functools.partial(summed_cross_entropy, row_multiple=64), hidden, weight, targets)
    hidden.requires_grad_()
    with Shapes() as shapes:
        loss, _ = summed_cross_entropy(hidden, weight, targets, row_multiple=64)
        loss.backward()
    assert len(shapes.multiplied) == 2 and weight.grad is None
    assert torch.equal(loss, trained[0]) and torch.equal(hidden.grad, trained[2])
