"""A run on two ranks resumes from its checkpoint, which rank 0 reads and sends to the other."""

import pytest
import torch

# fairseq sends such objects when it resumes: tensors among plain values, and its own placeholders for them.
BROADCAST = """
import torch
import torch.distributed as dist
import kosmos_plugin
from fairseq.distributed import utils

dist.init_process_group("gloo")
sent = {
    "args": None,
    "cfg": {"task": {"_name": "language_modeling", "data": "bin"}},
    "model": {"weight": torch.arange(6.0).view(2, 3), "half": torch.ones(3, dtype=torch.float16)},
    "optimizer_history": [{"num_updates": 7, "lr_scheduler_state": {"best": None}}],
    "extra_state": {"val_loss": 3.5, "position": (1, torch.tensor(2))},
}
received = utils.broadcast_object(
    sent if dist.get_rank() == 0 else None, src_rank=0, group=utils.get_global_group(), dist_device=torch.device("cpu")
)
torch.testing.assert_close(received.pop("model"), sent.pop("model"), rtol=0, atol=0)
assert received == sent, received
dist.destroy_process_group()
"""


def test_broadcasts_a_checkpoint(run_python, tmp_path):
    program = tmp_path / "broadcast.py"
    program.write_text(BROADCAST)
    run_python(str(program), ranks=2)


@pytest.mark.slow
def test_resumes_on_two_ranks(train, trained_on_one_rank, tmp_path):
    train(tmp_path, "--max-update", "2", ranks=2)
    output = train(tmp_path, "--max-update", "4", ranks=2)

    assert "Loaded checkpoint" in output
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == 4
    uninterrupted = torch.load(trained_on_one_rank[0] / "checkpoint_last.pt", weights_only=True)
    torch.testing.assert_close(state["model"], uninterrupted["model"], rtol=0, atol=1e-5)
