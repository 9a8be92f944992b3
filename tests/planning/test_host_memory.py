"""Host memory of a plan: batches and checkpoints are as large as it says."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from kosmos_plugin.planning.command import read_training_command
from kosmos_plugin.planning.host_memory import WORKER_MIB, batch_bytes
from kosmos_plugin.planning.plan import make_plan
from kosmos_plugin.planning.report import as_text
from tests import tiny
from tests.planning.test_plan import ASSUMPTIONS, script_of


@pytest.mark.parametrize(
    "options",
    ["", "--bf16 --optimizer fused_adamw", "--memory-efficient-bf16", "--no-save-optimizer-state"],
)
def test_a_checkpoint_is_as_large_as_planned(data, tmp_path, options):
    options = options.split()
    plan = make_plan(read_training_command(str(script_of(tmp_path, data, " ".join(options)))), ASSUMPTIONS)
    always = ("--cpu", "--num-workers", 0, "--disable-validation", "--no-epoch-checkpoints", "--max-update", 1)
    state = torch.load(tiny.train(data, tmp_path / "run", *always, *options), weights_only=True)
    parts = [state["model"], state.get("last_optimizer_state", {})]
    tensors = [leaf for leaf in tree_leaves(parts) if isinstance(leaf, torch.Tensor) and leaf.dim()]
    stored = {tensor.untyped_storage().data_ptr(): tensor.nbytes for tensor in tensors}  # tied weights once
    buffers = sum(stored.values()) - sum(item.bytes for item in plan.checkpoint)
    assert 0 <= buffers < 1000


def test_a_batch_is_as_large_as_planned(task):
    batch = tiny.batch(task)
    tensors = [batch[name] for name in ("tokens", "targets", "document_ids", "image_slots", "streams", "images")]
    rows, tokens = batch["tokens"].shape
    images, _, side, _ = batch["images"].shape
    assert images > 0
    assert sum(tensor.nbytes for tensor in tensors) == batch_bytes(rows, tokens, images, side)


def test_workers_and_their_batches(data, tmp_path):
    def planned(workers: int):
        script = script_of(tmp_path, data, f"--num-workers {workers}")
        return make_plan(read_training_command(str(script)), ASSUMPTIONS)

    without, of_three = planned(0), planned(3)
    rank, batches = without.host_memory
    assert (rank.count, batches.count) == (1, 1)
    rank_again, workers, more_batches = of_three.host_memory
    assert rank_again == rank and more_batches.count == 7 and more_batches.bytes_each == batches.bytes_each
    assert (workers.count, workers.bytes) == (4, 4 * WORKER_MIB * 2**20)
    assert "On rank 0 a checkpoint of 0.00 GiB comes on top while it is written" in as_text(of_three, [], 500)
