"""Checkpoints written by fairseq load with `weights_only=True`, without a patch."""

import torch


def test_a_checkpoint_loads_with_weights_only(trained_on_one_rank):
    folder, _ = trained_on_one_rank
    names = sorted(path.name for path in folder.glob("*.pt"))
    assert {"checkpoint_1_2.pt", "checkpoint_best.pt", "checkpoint_last.pt"} <= set(names)
    for name in names:
        state = torch.load(folder / name, weights_only=True)
        assert state["cfg"]["task"]["_name"] == "language_modeling"
        assert state["last_optimizer_state"]["state"]
