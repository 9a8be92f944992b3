"""Batches planned for GPUs: padded to few sizes, with the loss and gradients of the plain batch, and no waiting."""

import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from kosmos_plugin.data.batch import Collator
from kosmos_plugin.fairseq_modules.criterion import MultimodalCrossEntropyCriterion
from kosmos_plugin.models.attention_plan import moved, padded_size
from kosmos_plugin.models.batch_plan import BatchPlanner
from tests import tiny

EXACT = {"dropout": 0.0, "attention_dropout": 0.0}
# Operations for which a GPU's queue is waited for, beside copies to the CPU: sizes that depend on values, and `item`.
WAITING = {
    torch.ops.aten.masked_select.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.repeat_interleave.Tensor,
    torch.ops.aten.bincount.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
}


@pytest.fixture(scope="module")
def rows(data):
    """The task and rows of all streams."""
    task = tiny.task(data)
    task.load_dataset("train")
    micro_batches = task.get_batch_iterator(task.dataset("train"), max_sentences=100).micro_batches
    found = [row for item in range(3) for row in micro_batches.rows(item)]
    return task, found


def chosen(rows):
    """Mixed rows, rows of text and of images alone, a single row, and none."""
    text = [row for row in rows if row.num_images == 0]
    images = [row for row in rows if row.num_images > 0]
    return [images[:2] + text[:1], text[:2], images, images[:1], text[:1], []]


def batch_of(task, rows, attention, image_tokens=tiny.IMAGE_TOKENS):
    planner = attention and BatchPlanner(attention, task.vocabulary.pad, image_tokens)
    return Collator(task.vocabulary, tiny.TOKENS_PER_SAMPLE, tiny.IMAGE_SIZE, task.skips, planner=planner)(rows)


def results(model, criterion, batch):
    model.zero_grad()
    loss, size, log = criterion(model, batch)
    loss.backward()
    return loss.detach(), size, log, {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("attention", [None, "documents", "masked", "varlen"])
@pytest.mark.parametrize("number", range(6))
def test_every_plan_gives_the_loss_and_the_gradients(rows, flash, attention, number):
    """Against the batch without a plan, whose attention has T×T masks."""
    task, rows = rows
    model = tiny.model(task, attention="masked", **EXACT).train()
    criterion = MultimodalCrossEntropyCriterion(task)
    batch = batch_of(task, chosen(rows)[number], attention)
    assert ("plan" in batch) == (attention is not None)
    loss, size, log, gradients = results(model, criterion, batch)
    expected = results(model, criterion, batch_of(task, chosen(rows)[number], None))
    torch.testing.assert_close(loss, expected[0])
    assert size == expected[1] and log.keys() == expected[2].keys()
    for key in log:
        torch.testing.assert_close(log[key], expected[2][key], msg=key)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[3][name], atol=1e-5, rtol=1e-4, msg=name)
    assert bool(flash) == (attention == "varlen" and batch["plan"]["attention"]["cu_seqlens"] is not None)


def test_sizes_are_numbers_known_to_python(rows):
    task, rows = rows
    for some in chosen(rows):
        batch = batch_of(task, some, "varlen")
        plan, targets = batch["plan"], batch["targets"]
        in_loss = targets != task.vocabulary.pad
        assert plan["num_targets"] == int(in_loss.sum())
        assert plan["num_images"] == sum(row.num_images for row in some)
        assert plan["num_positions"] == sum(row.num_tokens for row in some)
        counts = [int(in_loss[batch["streams"] == stream].sum()) for stream in range(3)]
        assert counts[: len(plan["stream_targets"])] == list(plan["stream_targets"])
        assert not any(counts[len(plan["stream_targets"]) :])
        numbers = [*plan["stream_targets"], *(value for value in plan.values() if isinstance(value, int))]
        assert all(type(number) is int for number in numbers)


def test_everything_is_padded_to_a_bucket(rows):
    task, rows = rows
    for some in chosen(rows):
        batch = batch_of(task, some, "varlen")
        plan = batch["plan"]
        images, targets = len(batch["images"]), len(plan["targets"])
        assert images == padded_size(plan["num_images"], 2) >= 2
        assert not batch["images"][plan["num_images"] :].any()
        assert len(plan["slot_index"]) == images * tiny.IMAGE_TOKENS
        assert len(plan["attention"]["positions"]) == batch["tokens"].numel()
        assert targets == padded_size(plan["num_targets"], 128)
        assert len(plan["target_index"]) == len(plan["target_streams"]) == targets


def test_a_model_without_images_gets_none(rows):
    task, rows = rows
    text = chosen(rows)[1]
    batch = batch_of(task, text, "varlen", image_tokens=0)
    assert len(batch["images"]) == len(batch["plan"]["slot_index"]) == 0


def test_a_broken_image_leaves_padding(rows, flash):
    """The images that are left fill a smaller bucket, and the loss is that of the other samples."""
    task, rows = rows
    row = next(row for row in rows if len(row.samples) > 1 and row.num_images > 1)
    broken = dataclasses.replace(row.samples[0].images[0], read=lambda: b"nothing")
    first = dataclasses.replace(row.samples[0], images=(broken, *row.samples[0].images[1:]))
    rest = dataclasses.replace(row, samples=row.samples[1:])
    model, criterion = tiny.model(task, **EXACT).eval(), MultimodalCrossEntropyCriterion(task)
    losses = []
    for some in (dataclasses.replace(row, samples=(first, *row.samples[1:])), rest):
        batch = batch_of(task, [some], "varlen")
        assert batch["plan"]["num_images"] == rest.num_images
        losses.append(criterion(model, batch)[0].detach())
    torch.testing.assert_close(*losses)


# ---- nothing is read from the device


class Waiting(TorchDispatchMode):
    """Records operations that would wait for a GPU. It sees those of the backward pass too."""

    def __init__(self):
        super().__init__()
        self.found, self.count = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.count += 1
        boolean_index = function is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        # Copies between devices: also to a GPU, from memory that is not pinned, as of `new_tensor` with a list.
        devices = {x.device.type for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.dim()}
        if function is torch.ops.aten._to_copy.default and kwargs.get("device") is not None:
            devices |= {torch.device(kwargs["device"]).type}
        if function in WAITING or boolean_index or len(devices) > 1:
            self.found.append(function)
        return function(*args, **kwargs)


OPTIONS = [
    {},
    {"checkpoint_activations": "selective"},
    {"checkpoint_activations": "full"},
    {"bf16_autocast": True, "frozen_vision_dtype": "bfloat16"},
    {"positions": "both", "resampler": "perceiver"},
    {"untied_embeddings": True, "trainable_vision_layers": 0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("number", range(6))
def test_forward_and_backward_never_wait(rows, flash, options, number):
    task, rows = rows
    model = tiny.model(task, **options).train()
    criterion = MultimodalCrossEntropyCriterion(task)
    batch = batch_of(task, chosen(rows)[number], "varlen")
    with Waiting() as waiting:
        loss, _, _ = criterion(model, batch)
        loss.backward()
    assert waiting.count > 100 and not waiting.found


def without_values(model, batch, device):
    """Fake copies of a model and a batch on `device`, which needs not exist, and their mode."""
    mode, parameters = FakeTensorMode(), {}

    def fake(value):
        if isinstance(value, torch.Tensor):
            return torch.empty(value.shape, dtype=value.dtype, device=device)
        if isinstance(value, dict):
            return {key: fake(each) for key, each in value.items()}
        return tuple(fake(each) for each in value) if isinstance(value, tuple) else value

    with mode:
        for module in model.modules():
            for kind in (module._parameters, module._buffers):
                for name, tensor in kind.items():
                    if id(tensor) not in parameters:
                        copy = fake(tensor)
                        is_parameter = isinstance(tensor, torch.nn.Parameter)
                        parameters[id(tensor)] = (
                            torch.nn.Parameter(copy, tensor.requires_grad) if is_parameter else copy
                        )
                    kind[name] = parameters[id(tensor)]
        return mode, model, fake(batch)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_operation_needs_a_value(rows, options, number, device):
    """On fake tensors, which have none. FlashAttention's operator is torch's own here.

    Without a GPU, autograd runs no backward pass on a fake one.
    """
    task, rows = rows
    real = tiny.model(task, **options).train()
    batch = batch_of(task, chosen(rows)[number], "varlen")
    mode, model, batch = without_values(real, batch, device)
    criterion = MultimodalCrossEntropyCriterion(task)
    with mode, Waiting() as waiting:
        loss, size, _ = criterion(model, batch)
        if device == "cpu":
            loss.backward()
            assert all(p.grad.shape == p.shape for p in model.parameters() if p.requires_grad)
    assert waiting.count > 100 and not waiting.found
    assert type(size) is int and loss.device.type == device


def test_the_recorder_sees_what_waits(rows):
    """The same step with the plans of CPUs: it is not only that nothing is recorded."""
    task, rows = rows
    model = tiny.model(task).train()
    with Waiting() as waiting:
        MultimodalCrossEntropyCriterion(task)(model, batch_of(task, rows[:3], None))
    assert torch.ops.aten.nonzero.default in waiting.found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("number", range(6))
def test_a_gpu_is_never_waited_for(rows, number):
    task, rows = rows
    model = tiny.model(task, decoder_embed_dim=64, decoder_ffn_embed_dim=128, bf16_autocast=True).cuda().train()
    criterion = MultimodalCrossEntropyCriterion(task)
    batch = moved(dict(batch_of(task, chosen(rows)[number], "varlen")), torch.device("cuda"))
    for _ in range(2):  # the first time libraries are loaded
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if _ else "default")
        try:
            loss, _, _ = criterion(model, batch)
            loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
