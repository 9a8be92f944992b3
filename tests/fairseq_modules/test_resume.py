"""A run that is killed at any moment and started again equals an uninterrupted one bit for bit.

Each training is the real fairseq-train in separate processes, with dropout, on one rank and on two (torchrun, gloo).
"""

import pytest
import torch

from tests.training_run import UPDATES, Training, assert_same


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)])
def reference(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"reference{request.param}")
    return request.param, Training(data, folder, request.param).finish()


def test_killed_between_checkpoints(reference, data, tmp_path):
    ranks, expected = reference
    training = Training(data, tmp_path / "run", ranks)
    training.kill_when(lambda: training.reached(5))
    assert training.update_reached() < UPDATES
    assert_same(training.finish(), expected)


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(reference, data, tmp_path):
    ranks, expected = reference
    if ranks > 1:
        pytest.skip("only rank 0 writes: the same code as with one rank")
    training = Training(data, tmp_path / "run", ranks, **{"save-interval-updates": 1})
    last, temporary = tmp_path / "run" / "checkpoint_last.pt", tmp_path / "run" / "checkpoint_last.pt.tmp"
    for _ in range(3):
        training.kill_when(lambda: temporary.exists() and last.exists())
        before = training.update_reached()  # loadable, whatever was being written
        assert before < UPDATES
        temporary.unlink(missing_ok=True)
    assert_same(training.finish(), expected)


@pytest.mark.slow
def test_a_change_of_workers_changes_nothing(reference, data, tmp_path):
    ranks, expected = reference
    if ranks > 1:
        pytest.skip("shown with one rank")
    Training(data, tmp_path / "run", **{"num-workers": 0, "max-update": 6}).finish()
    assert_same(Training(data, tmp_path / "run", **{"num-workers": 3}).finish(), expected)


@pytest.mark.parametrize("ranks, micro_batches", [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_two_ranks_are_one_training(data, tmp_path, ranks, micro_batches):
    """Updates equal those of one rank up to the order of summation: the data YAML sets them for any number of ranks."""
    without_dropout = {"dropout": 0, "attention-dropout": 0}
    one = Training(data, tmp_path / "one", 1, **without_dropout).finish()
    other = Training(data, tmp_path / "other", ranks, **without_dropout, **{"update-freq": micro_batches}).finish()
    assert other.losses().keys() == one.losses().keys()
    for update, losses in one.losses().items():
        for name, value in losses.items():
            assert float(other.losses()[update][name]) == pytest.approx(float(value), abs=2e-3)
    weights, others = one.last()["model"], other.last()["model"]
    for name in weights:
        torch.testing.assert_close(others[name], weights[name], atol=2e-4, rtol=0, msg=name)
    assert f"training on {ranks} devices" in (tmp_path / "other" / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "os"])
def test_bf16_on_two_ranks_goes_on_from_float32_weights(data, tmp_path, sharding):
    options = {"bf16": True, "zero-sharding": sharding, "optimizer": "adam"}
    once = Training(data, tmp_path / "once", 2, **options).finish()
    Training(data, tmp_path / "twice", 2, **options, **{"max-update": 6}).finish()
    twice = Training(data, tmp_path / "twice", 2, **options).finish()
    assert_same(twice, once)
