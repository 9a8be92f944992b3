"""The checkpoints fairseq writes load without running code from them; nothing has to be mended for that."""

import torch


def test_a_checkpoint_loads_with_weights_only(trained_alone):
    folder, _ = trained_alone
    names = sorted(path.name for path in folder.glob("*.pt"))
    assert {"checkpoint_1_2.pt", "checkpoint_best.pt", "checkpoint_last.pt"} <= set(names)
    for name in names:
        state = torch.load(folder / name, weights_only=True)
        assert state["cfg"]["task"]["_name"] == "language_modeling"
        assert state["last_optimizer_state"]["state"]
